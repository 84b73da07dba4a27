"""A trial that is not over, and the rules by which an attempt may follow another."""

import re
from dataclasses import dataclass, field, replace

from hpsearch.events import Cause, Ending, Release, Requeue, Seat, StopAttempt, Withdraw

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
MAX_SEARCHED = 1000  # characters of a line: on more, patterns that go back and forth would hold up the whole study
FAULTS = frozenset({*RETRY_WORD, Cause.LOST})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """Which ends are worth another attempt, and how many of those the job may cause itself."""

    max: int = 2
    on: frozenset[str] = frozenset({"lost"})
    exclude_host_after: int = 2  # losses; 0: never
    policies: tuple[tuple[re.Pattern[str], str], ...] = ()  # what an attempt said -> "dont_retry" or "exclude_host"

    def wants(self, record: "LiveTrial", ending: Ending) -> bool:
        """Whether this end earns the trial another attempt."""
        if ending.cause is Cause.PREEMPTED:
            return True
        if ending.cause is Cause.LOST:
            return "lost" in self.on and record.n_lost < MAX_LOST
        return RETRY_WORD.get(ending.cause) in self.on and record.n_charged < self.max

    def by_policy(self, record: "LiveTrial", ending: Ending) -> tuple[str, Ending]:
        """The action of the first policy that matches one of the last lines of a failed attempt, or ""; and its end.

        A host that is excluded is to blame, and not the job: the end is then a loss.
        """
        if ending.cause not in RETRY_WORD:
            return "", ending
        faults = [one for one in record.exits.values() if one.cause in FAULTS]
        said = [line for one in faults for line in f"{one.reason}\n{one.traceback}\n{one.log_tail}".splitlines()]
        for pattern, action in self.policies:
            if any(pattern.search(line[:MAX_SEARCHED]) for line in said):
                if action == "exclude_host":
                    reason = f"{ending.reason} (the log says {pattern.pattern!r})"
                    ending = replace(ending, cause=Cause.LOST, reason=reason)
                return action, ending
        return "", ending


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
    preempted: bool = False  # its worker was told to go: nobody's fault

    @property
    def running(self) -> bool:
        return bool(self.seats)

    def begin_again(self) -> None:
        """The next attempt of the same trial: nothing of the last one counts any more."""
        self.attempt += 1
        self.seats, self.exits, self.last_step, self.stopping, self.pruned = (), {}, -1, False, ""
        self.preempted = False

    @property
    def alive(self) -> tuple[Seat, ...]:
        return tuple(seat for seat in self.seats if seat.rank not in self.exits)

    def host_of(self, rank: int) -> str:
        return next(seat.host for seat in self.seats if seat.rank == rank)

    @property
    def first_fault(self) -> int:
        """The rank that ended first by a fault; when none did, the one that ended first."""
        return next((rank for rank, ending in self.exits.items() if ending.cause in FAULTS), next(iter(self.exits)))


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
            case Cause.LOST | Cause.PREEMPTED:
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
    if (
        ranks == 1
        or ending.cause in (*FINE, Cause.STOPPED, Cause.CANCELLED, Cause.PREEMPTED)
        or ending.reason.startswith("rank ")
    ):
        return ending
    return replace(ending, reason=f"rank {rank}: {ending.reason}")


def release(record: LiveTrial) -> Release:
    """The order that ends the lease of the current attempt, or its waiting for one."""
    return Release(trial=record.number, attempt=record.attempt)


def stop_order(record: LiveTrial, cause: Cause, reason: str, grace_s: float) -> StopAttempt:
    """The order to end what still runs of the current attempt.

    A gang that trains well is given a step to end at, one that no rank should have reached when it hears of it: a rank
    that left earlier than its peers would leave them in a collective. Should one be past it, the grace decides.
    """
    agreed = cause in (Cause.STOPPED, Cause.PREEMPTED, Cause.CANCELLED) and not record.exits and grace_s > 0
    return StopAttempt(
        trial=record.number,
        attempt=record.attempt,
        seats=record.alive,
        cause=cause,
        reason=reason,
        grace_s=grace_s,
        after_step=record.last_step + 1 if agreed and len(record.seats) > 1 and record.last_step >= 0 else None,
    )


def put_back(trial: int, attempt: int) -> Requeue | Withdraw:
    """What becomes of a trial that is ready when nothing is started any more."""
    return Withdraw(trial=trial) if attempt == 1 else Requeue(trial=trial)
