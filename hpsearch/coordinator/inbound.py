"""Everything that reaches the coordinator, in one queue."""

import queue
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from hpsearch.coordinator.link import Arrived, TaskDone
from hpsearch.errors import HpsearchError
from hpsearch.events import AnyEvent, Ticked
from hpsearch.storage import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """Everything queued up to this ticket is durable."""

    ticket: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WritesFailed:
    """The storage gave up; nothing can be acknowledged any more."""

    error: HpsearchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """A thread of the coordinator's has something to say."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseAway:
    """The database does not answer, for this reason; None: it is back."""

    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """Another program has put a trial into the study."""

    trial: FrozenTrial


Incoming = Arrived | TaskDone | Committed | WritesFailed | Warned | DatabaseAway | Adopted | Request | AnyEvent


class Inbound:
    """The one queue into the coordinator; everything may put, only the coordinator takes.

    A SimpleQueue, because its ``put`` may be called from a signal handler.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Incoming] = queue.SimpleQueue()

    def put(self, incoming: Incoming) -> None:
        """From any thread, and from a signal handler."""
        self._queue.put(incoming)

    @property
    def is_idle(self) -> bool:
        """Whether nothing has arrived that was not taken."""
        return self._queue.empty()

    def get(self, timeout_s: float) -> Incoming:
        """The next one, or a tick when none came in time."""
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return Ticked()
