"""A trial that is not over, and the rules by which an attempt may follow another."""

from dataclasses import dataclass, field, replace

from hpsearch.events import Cause, Ending, Release, Requeue, Seat, Withdraw

# A job that takes its worker down each time looks like bad luck each time; somewhere it has to end.
MAX_LOST = 20
FINE = (Cause.RETURNED, Cause.PRUNED)
# What torch writes where a collective breaks because somebody else has left it.
COLLECTIVE_WORDS = ("gloo/transport", "NCCL", "nccl", "Connection closed by peer", "Connection reset by peer")
# What `retry.on` calls the causes that are the job's own.
RETRY_WORD = {
    Cause.ERROR: "error",
    Cause.BAD_RESULT: "error",
    Cause.EXIT: "error",
    Cause.SIGNAL: "error",
    Cause.TIMEOUT: "timeout",
    Cause.STALLED: "timeout",
    Cause.OOM: "oom",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """Which ends are worth another attempt, and how many of those the job may cause itself."""

    max: int = 2
    on: frozenset[str] = frozenset({"lost"})


@dataclass(slots=True)
class LiveTrial:
    """A trial that is not over: waiting for seats, or running its current attempt."""

    number: int
    attempt: int
    next_step: int | None
    n_charged: int
    n_lost: int = 0  # in this run; a coordinator that died is no fault of the trial's
    seats: tuple[Seat, ...] = ()
    exits: dict[int, Ending] = field(default_factory=dict)  # rank -> how it ended, in order of arrival
    last_step: int = -1
    stopping: bool = False
    pruned: str = ""  # the pruner's reason, once it said so

    @property
    def running(self) -> bool:
        return bool(self.seats)

    def begin_again(self) -> None:
        """The next attempt of the same trial: nothing of the last one counts any more."""
        self.attempt += 1
        self.seats, self.exits, self.last_step, self.stopping, self.pruned = (), {}, -1, False, ""

    @property
    def alive(self) -> tuple[Seat, ...]:
        return tuple(seat for seat in self.seats if seat.rank not in self.exits)


def decisive(exits: dict[int, Ending], ranks: int) -> Ending:
    """The end that counts for the gang: what struck it first, else what rank 0 says; in a gang it names the rank.

    A rank that dies breaks its peers' collectives, and their words about that may arrive before it is known dead: what
    collectives say counts last. An end asked for by a person or by the study's own end counts before what it broke.
    """
    said_fine = exits.get(0) is not None and exits[0].cause in FINE

    def weight(rank: int) -> int:
        ending = exits[rank]
        match ending.cause:
            case Cause.CANCELLED:
                return 0
            case Cause.LOST:
                return 1
            case Cause.RETURNED | Cause.PRUNED:
                return 3 if rank == 0 else 6
            case Cause.STOPPED:
                return 4
            case Cause.ERROR if any(word in ending.reason for word in COLLECTIVE_WORDS):
                return 2 if said_fine else 5
        return 2

    rank = min(exits, key=weight)  # of equals the first that arrived
    ending = exits[rank]
    if ranks == 1 or ending.cause in (*FINE, Cause.STOPPED, Cause.CANCELLED) or ending.reason.startswith("rank "):
        return ending
    return replace(ending, reason=f"rank {rank}: {ending.reason}")


def release(record: LiveTrial) -> Release:
    """The order that ends the lease of the current attempt, or its waiting for one."""
    return Release(trial=record.number, attempt=record.attempt)


def put_back(trial: int, attempt: int) -> Requeue | Withdraw:
    """What becomes of a trial that is ready when nothing is started any more."""
    return Withdraw(trial=trial) if attempt == 1 else Requeue(trial=trial)
