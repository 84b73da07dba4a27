"""What happened (events, in the past tense) and what to do about it (commands, imperatives).

The lifecycle maps the first to the second. All are frozen values: they can be logged, replayed and compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MAX_STEP = 2**31 - 1  # of a report: what a database's integer holds
MAX_NAME = 512  # characters of a metric's or attribute's name: what Optuna's tables hold
MAX_DEPTH = 100  # of lists and dicts in each other: Optuna copies them by recursion
NAME_RULE = f"a name has at most {MAX_NAME} characters, no NUL, and nothing that UTF-8 cannot express"


def is_name(text: str) -> bool:
    """Whether every database takes it; Python makes lone surrogates of file names that are not UTF-8."""
    return len(text) <= MAX_NAME and "\x00" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


def is_shallow(value: object, depth: int = MAX_DEPTH) -> bool:
    """Whether no more than ``depth`` lists and dicts are nested in each other."""
    if not isinstance(value, dict | list | tuple):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(is_shallow(item, depth - 1) for item in inner)


class Verdict(StrEnum):
    """The answer to a report."""

    CONTINUE = "continue"
    PRUNE = "prune"


class Cause(StrEnum):
    """Why an attempt ended. LOST and PREEMPTED are the infrastructure's doing and never charged to the job."""

    RETURNED = "returned"
    PRUNED = "pruned"
    ERROR = "error"  # an exception, at import or later
    BAD_RESULT = "bad_result"  # returned something that is no number
    EXIT = "exit"  # left by sys.exit, os._exit or without a word
    SIGNAL = "signal"  # killed by a signal that we did not send
    TIMEOUT = "timeout"  # ran past resources.time
    STALLED = "stalled"  # no report for resources.no_progress
    OOM = "oom"  # host or GPU memory
    STOPPED = "stopped"  # the study drains; the trial goes on in a later run
    CANCELLED = "cancelled"  # a person stopped this trial for good
    PREEMPTED = "preempted"  # its worker was told to go, and told it in time
    LOST = "lost"  # worker, launcher or connection gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one rank ended, in words."""

    cause: Cause
    reason: str  # one line
    values: tuple[float, ...] = ()  # of Cause.RETURNED
    exit_code: int | None = None  # negative: the signal's number
    traceback: str = ""
    log_tail: str = ""


# ---------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJoined(Event):
    worker: str  # address
    host: str
    cpus: int
    gpus: tuple[str, ...] = ()  # what CUDA_VISIBLE_DEVICES understands
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost(Event):
    worker: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPreempted(Event):
    """It will be gone soon; what runs there has as long as its grace to save itself."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReady(Event):
    """A trial whose parameters are committed: the answer to Ask, or an expected one, left over by an earlier run."""

    trial: int
    attempt: int  # the one to run now
    n_charged: int = 0  # earlier attempts that ended by the job's own fault
    next_step: int | None = None  # first decision step


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchExhausted(Event):
    """The answer to Ask when the sampler has nothing left to propose (a grid is through)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued(Event):
    """The answer to Acquire when the seats are not free: Seated follows once they are."""

    trial: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seated(Event):
    """All ranks of an attempt have their seats."""

    trial: int
    attempt: int
    seats: "tuple[Seat, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStarted(Event):
    trial: int
    attempt: int
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported(Event):
    trial: int
    attempt: int
    rank: int
    step: int
    value: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Event):
    trial: int
    attempt: int
    step: int
    value: float
    verdict: Verdict
    next_step: int | None  # the next step with a decision; None: no more
    reason: str = ""  # of a prune, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class RankExited(Event):
    """The rank's process group is reaped: its slot is free."""

    trial: int
    attempt: int
    rank: int
    ending: Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStopRequested(Event):
    """A person stops one trial for good."""

    trial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRequested(Event):
    """No new trials; running ones stop at their next report and stay resumable."""

    reason: str
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KillRequested(Event):
    """At once; what runs stays resumable."""

    reason: str
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked(Event):
    """Time went by."""


AnyEvent = (
    WorkerJoined
    | WorkerLost
    | WorkerPreempted
    | TrialReady
    | SearchExhausted
    | Queued
    | Seated
    | RankStarted
    | Reported
    | Judged
    | RankExited
    | TrialStopRequested
    | DrainRequested
    | KillRequested
    | Ticked
)

# ------------------------------------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """An order to the shell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where one rank of a gang sits."""

    worker: str
    host: str
    slot: int  # index of the slot on its worker
    rank: int
    local_rank: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Command):
    """Propose one more trial and answer with TrialReady once it is committed.

    ``ahead``: no slot waits for it, so it may be done when there is nothing else to do.
    """

    ahead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquire(Command):
    """Ask for the seats of a gang, and answer with Seated, or with Queued first."""

    trial: int
    attempt: int
    avoid: frozenset[str] = frozenset()  # hosts, as long as there are enough others


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Command):
    """The attempt needs its seats no more, or no longer waits for any. Twice is once."""

    trial: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch(Command):
    trial: int
    attempt: int
    seats: tuple[Seat, ...]
    next_step: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Command):
    """Keep a report of the running attempt."""

    trial: int
    attempt: int
    step: int
    value: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge(Command):
    """Ask the pruner about this step and answer with Judged."""

    trial: int
    attempt: int
    step: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver(Command):
    """Send a verdict to every rank of the attempt."""

    trial: int
    attempt: int
    step: int
    verdict: Verdict
    next_step: int | None
    seats: tuple[Seat, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAttempt(Command):
    trial: int
    attempt: int
    seats: tuple[Seat, ...]
    cause: Cause
    reason: str
    grace_s: float
    after_step: int | None = None  # all ranks of a gang go on to this step, so that they end at one; None: at once


@dataclass(frozen=True, slots=True, kw_only=True)
class EndAttempt(Command):
    """Put the attempt on record; ``retry`` says that the trial goes on with another one."""

    trial: int
    attempt: int
    ending: Ending
    retry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell(Command):
    """The trial is over: one winner, told once."""

    trial: int
    attempt: int
    ending: Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeue(Command):
    """The trial waits for a later run; it is not over."""

    trial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw(Command):
    """The trial was proposed and never ran: as if nobody had asked."""

    trial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Warn(Command):
    """Tell people."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish(Command):
    """Nothing runs any more."""

    reason: str
    exit_code: int


AnyCommand = (
    Ask
    | Acquire
    | Release
    | Launch
    | Record
    | Judge
    | Deliver
    | StopAttempt
    | EndAttempt
    | Tell
    | Requeue
    | Withdraw
    | Warn
    | Finish
)

# -------------------------------------------------------------------------------------------- notices


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One state change as people, logs and ``--json`` get to see it."""

    kind: str  # "trial.pruned"
    time: float  # unix seconds
    fields: Mapping[str, object]
