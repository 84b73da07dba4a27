"""A trial that is not over, and the rules by which an attempt may follow another."""

import re
from collections.abc import Iterable
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
FAULTS = frozenset({*RETRY_WORD, Cause.LOST})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """Which ends are worth another attempt, and how many of those the job may cause itself."""

    max: int = 2
    on: frozenset[str] = frozenset({"lost"})
    exclude_host_after: int = 2  # losses; 0: never
    policies: tuple[tuple[re.Pattern[str], str], ...] = ()  # what an attempt said -> "dont_retry" or "exclude_host"

    def policy(self, endings: Iterable[Ending]) -> tuple[str, str]:
        """Action and pattern of the first policy that matches one of an attempt's last lines; two "" if none does."""
        faults = [ending for ending in endings if ending.cause in FAULTS]
        said = [line for end in faults for line in f"{end.reason}\n{end.traceback}\n{end.log_tail}".splitlines()]
        for pattern, action in self.policies:
            if any(pattern.search(line) for line in said):
                return action, pattern.pattern
        return "", ""


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
    def holder(self) -> str:
        return f"trial {self.number} attempt {self.attempt}"

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


def decisive(exits: dict[int, Ending]) -> Ending:
    """The end that counts for the gang: the first fault, else what rank 0 says."""
    fine = (Cause.RETURNED, Cause.PRUNED)
    faults = [ending for ending in exits.values() if ending.cause not in fine]
    return faults[0] if faults else exits[min(exits)]
