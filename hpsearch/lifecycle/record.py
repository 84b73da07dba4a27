"""A trial that is not over, and the rules by which an attempt may follow another."""

from dataclasses import dataclass, field

from hpsearch.events import Cause, Ending, Seat

# A job that takes its worker down each time looks like bad luck each time; somewhere it has to end.
MAX_LOST = 20
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
    def holder(self) -> str:
        return f"trial {self.number} attempt {self.attempt}"

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


def decisive(exits: dict[int, Ending]) -> Ending:
    """The end that counts for the gang: the first fault, else what rank 0 says."""
    fine = (Cause.RETURNED, Cause.PRUNED)
    faults = [ending for ending in exits.values() if ending.cause not in fine]
    return faults[0] if faults else exits[min(exits)]
