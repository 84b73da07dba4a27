"""The one thread that writes: everything queued goes into one transaction, in the order it was queued."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from hpsearch.errors import HpsearchError, StorageFailed
from hpsearch.storage.connect import BUSY_S, in_words, is_transient
from hpsearch.storage.rows import Group, Operation, RowIds

T = TypeVar("T")
_NOTHING = sa.select(sa.literal(1))
LINGER_S = 0.05  # how long a report may wait for company
ENOUGH_OPERATIONS = 10_000  # for one transaction
FULL_OPERATIONS = 50_000  # queued: from here on nobody should make more
CLOSING_S = 20.0  # for a database that is away when the study is closed
FIRST_DELAY_S, LONGEST_DELAY_S = 0.05, 5.0


@dataclass(frozen=True, slots=True)
class Duty:
    """Something the writer thread does every ``every_s`` within a transaction.

    ``work`` answers what to do after the commit, or None. A raised HpsearchError ends the writer.
    """

    every_s: float
    work: Callable[[sa.Connection], Callable[[], None] | None]


class Arrivals(Protocol):
    """Trials that other programs put into the database."""

    def adopt(self, connection: sa.Connection) -> dict[int, int]:
        """Take over those that are new, within the transaction; mirror's ids and rows."""

    def known(self, rows: list[int]) -> None:
        """These rows are committed, and not new any more."""


@dataclass(slots=True)
class _Outcome:
    """What a committed transaction leaves to be done."""

    rows: dict[int, int] = field(default_factory=dict)  # of new trials, by the mirror's id
    after: list[Callable[[], None]] = field(default_factory=list)


@dataclass(slots=True)
class _Block:
    """Operations that are committed together."""

    operations: list[Operation]
    ticket: int  # of the last of them


@dataclass(frozen=True, slots=True)
class _Call:
    """Rare work in a transaction of its own, with somebody waiting for its result."""

    work: Callable[[sa.Connection], Any]
    future: "Future[Any]"


class Writer:
    """Queue and thread between the mirror and the database.

    While the database is locked, full or away the thread tries again with growing delays, without end; training goes
    on, and what is not committed is not called durable.

    Args:
        engine: of the database.
        on_commit: called on the writer thread after each commit: all operations up to that ticket are durable.
        on_error: called once, when a write is refused for good; what is queued later is dropped.
        on_waiting: called with the database's words when it stops answering, and with None when it is back.
        fence: begins the transaction of this number; False if it was committed before. It raises HpsearchError when
            this writer may write no more.
        duties: done every now and then within a transaction.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        on_commit: Callable[[int], None],
        on_error: Callable[[HpsearchError], None],
        on_waiting: Callable[[str | None], None] = lambda reason: None,
        fence: Callable[[sa.Connection, int], bool] | None = None,
        duties: Sequence[Duty] = (),
    ) -> None:
        self._engine = engine
        self._on_commit = on_commit
        self._on_error = on_error
        self._on_waiting = on_waiting
        self._fence = fence
        self._duties = list(duties)
        self._due = [time.monotonic() + duty.every_s for duty in self._duties]
        self._arrivals: Arrivals | None = None
        self._ids = RowIds()
        self._changed = threading.Condition()
        self._queue: deque[_Block | _Call] = deque()
        self._open: _Block | None = None  # the last of the queue, while it may still grow
        self._held = 0  # how many `together` are open: nothing of the queue is taken
        self._n_calls = 0  # in the queue; somebody waits for each, so they break a hold
        self._ticket = 0
        self._durable = 0
        self._serial = 0  # of the transaction
        self._urgent = False
        self._oldest = 0.0  # monotonic time since which something waits
        self._closing = False
        self._close_by = math.inf  # monotonic time at which a database that is away is given up
        self._abandoned = threading.Event()
        self.n_commits = 0
        self.failure: HpsearchError | None = None
        self._thread = threading.Thread(target=self._run, name="hpsearch-writer", daemon=True)
        self._thread.start()

    # -------------------------------------------------------------------------------- on the caller's thread

    @property
    def ticket(self) -> int:
        """The number of the operation queued last; 0 before the first."""
        return self._ticket

    @property
    def is_full(self) -> bool:
        """Whether so much is queued that whoever can wait should: the database is slower than the study, or away."""
        return self._ticket - self._durable >= FULL_OPERATIONS

    def watch(self, arrivals: Arrivals) -> None:
        """From now on take over what other programs put into the study."""
        self._arrivals = arrivals

    def put(self, operations: Sequence[Operation], *, urgent: bool = True) -> None:
        """Queue operations; they are committed in one transaction. Never waits."""
        with self._changed:
            if self._closing or self.failure is not None:
                return
            was_empty = not self._queue
            if was_empty:
                self._oldest = time.monotonic()
            self._ticket += len(operations)
            if self._open is not None:
                self._open.operations += operations
                self._open.ticket = self._ticket
            else:
                self._queue.append(block := _Block(list(operations), self._ticket))
                self._open = block if self._held else None
            if was_empty or (urgent and not self._urgent):
                self._urgent = self._urgent or urgent
                self._wake()

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Do ``work`` in a transaction of its own, after all that is queued, and wait for it."""
        future: Future[T] = Future()
        with self._changed:
            if self._closing or self.failure is not None:
                raise StorageFailed("the study is closed") from self.failure
            self._queue.append(_Call(work, future))
            self._open = None
            self._n_calls += 1
            self._urgent = True
            self._changed.notify_all()
        return future.result()

    def bind(self, *, study: tuple[int, int] | None = None, trials: dict[int, int] | None = None) -> None:
        """Say which row a mirror's id stands for."""
        with self._changed:
            if study is not None:
                self._ids.studies[study[0]] = study[1]
            self._ids.trials.update(trials or {})

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is queued inside, by any thread, is committed in one transaction, after the end of the block."""
        with self._changed:
            self._held += 1
        try:
            yield
        finally:
            with self._changed:
                self._held -= 1
                if not self._held:
                    self._open = None
                    self._changed.notify_all()

    def close(self, *, drain: bool, patience_s: float | None = None) -> None:
        """Write what is queued, or drop it, and end the thread. Closing twice is closing once.

        ``failure`` then says whether something could not be written: the database is away for longer than this.
        """
        with self._changed:
            self._closing = True
            self._close_by = min(self._close_by, time.monotonic() + (CLOSING_S if patience_s is None else patience_s))
            self._held = 0
            if not drain:
                self._abandoned.set()
            self._changed.notify_all()
        # One statement may hang on a dead connection; who drops what is queued does not wait for that.
        self._thread.join(None if drain else 2 * BUSY_S)

    def _wake(self) -> None:
        if not self._held:
            self._changed.notify_all()

    # --------------------------------------------------------------------------------- on the writer thread

    def _run(self) -> None:
        try:
            while (work := self._take()) is not None:
                if isinstance(work, _Call):
                    self._answer(work)
                else:
                    self._commit(work)
        except Exception as error:
            self._fail(error)
        finally:
            self._refuse_calls()

    def _take(self) -> _Block | _Call | None:
        """Wait for work: operations (none: a duty is due), a call, or None at the end."""
        with self._changed:
            while not self._abandoned.is_set():
                now = time.monotonic()
                ready = self._queue and (not self._held or self._n_calls)
                if ready and (self._urgent or self._closing or now >= self._oldest + LINGER_S):
                    return self._pop()
                if self._closing and not self._queue:
                    return None
                wake = min(self._due, default=now + 3600)
                if now >= wake:
                    return _Block([], 0)
                self._changed.wait((min(wake, self._oldest + LINGER_S) if ready else wake) - now)
            return None

    def _pop(self) -> _Block | _Call:
        first = self._queue.popleft()
        if isinstance(first, _Call):
            self._n_calls -= 1
            return first
        while self._queue and len(first.operations) < ENOUGH_OPERATIONS:
            if isinstance(following := self._queue[0], _Call):
                break
            first.operations += following.operations
            first.ticket = following.ticket
            self._queue.popleft()
        self._urgent = bool(self._queue)
        return first

    def _answer(self, call: _Call) -> None:
        try:
            with self._engine.begin() as connection:
                result = call.work(connection)
        except Exception as error:
            call.future.set_exception(error)
        else:
            call.future.set_result(result)

    def _commit(self, work: _Block) -> None:
        group = Group(work.operations)
        now = time.monotonic()
        due = [i for i, at in enumerate(self._due) if now >= at]
        outcome = self._persist(group, [self._duties[i] for i in due])
        if outcome is None:
            return
        self._ids.trials.update(outcome.rows)
        if self._arrivals is not None and outcome.rows:
            self._arrivals.known(list(outcome.rows.values()))
        self.n_commits += 1
        for i in due:
            self._due[i] = time.monotonic() + self._duties[i].every_s
        if work.operations:
            self._durable = work.ticket
            self._on_commit(work.ticket)
        for call in outcome.after:
            call()

    def _persist(self, group: Group, duties: Sequence[Duty]) -> _Outcome | None:
        """One committed transaction, however many tries it takes; None if the writer was abandoned meanwhile."""
        self._serial += 1
        outcome, delay, waiting = _Outcome(), FIRST_DELAY_S, False
        while True:
            try:
                with self._engine.begin() as connection:
                    if self._fence is None or self._fence(connection, self._serial):
                        self._write(connection, group, duties, outcome, repeated=waiting and self._fence is None)
                    else:  # done by an earlier try whose answer was lost
                        outcome.rows |= group.find(connection, self._ids)
            except DBAPIError as error:
                if not is_transient(error) or time.monotonic() > self._close_by:
                    raise
                if not waiting:
                    self._on_waiting(in_words(error))
                waiting = True
            else:
                if waiting:
                    self._on_waiting(None)
                return outcome
            if self._abandoned.wait(min(delay, max(0.0, self._close_by - time.monotonic()))):
                return None
            delay = min(2 * delay, LONGEST_DELAY_S)

    def _write(
        self, connection: sa.Connection, group: Group, duties: Sequence[Duty], outcome: _Outcome, *, repeated: bool
    ) -> None:
        """All statements of one try; ``outcome`` becomes what it leaves, should it be the one that is committed."""
        outcome.after = [then for duty in duties if (then := duty.work(connection)) is not None]
        outcome.rows = {}
        if self._arrivals is not None and (duties or group.numbers_trials):
            outcome.rows = self._arrivals.adopt(connection)
        outcome.rows |= group.write(connection, self._ids, repeated=repeated)
        if connection.dialect.name == "postgresql":
            # After an executemany in psycopg's pipeline the server's timer of idle transactions stands still: one whose
            # client is frozen here would keep its locks for ever.
            connection.execute(_NOTHING)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, HpsearchError):
            self.failure = error
        else:
            words = in_words(error) if isinstance(error, DBAPIError) else f"{type(error).__name__}: {error}"
            self.failure = StorageFailed(f"the study cannot be written any more: {words}")
            self.failure.__cause__ = error
        self._on_error(self.failure)

    def _refuse_calls(self) -> None:
        with self._changed:
            self._closing = True
            for item in self._queue:
                if isinstance(item, _Call):
                    item.future.set_exception(StorageFailed("the study is closed"))
            self._queue.clear()
