"""Opening a study: schema, row, coordinator, mirror and writer thread, put together."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from hpsearch.errors import HpsearchError, StorageUnreachable, StudyHeld, UsageError
from hpsearch.events import MAX_STEP
from hpsearch.storage import requests, schema
from hpsearch.storage.attempts import AttemptRow, StudyRecord, attempt_row, clean, load_attempts, load_record
from hpsearch.storage.connect import Location, is_lock, locate, reaching, reading_engine, writing_engine
from hpsearch.storage.holder import Held, Holder, read_holder, read_holders, refuse_held, take
from hpsearch.storage.mirror import Mirror
from hpsearch.storage.newcomers import Newcomers, close_gaps
from hpsearch.storage.reading import METRIC_NAMES, load_study
from hpsearch.storage.rows import UPSERT_RECORD, Upsert, metric_row
from hpsearch.storage.studies import delete_study, find_study, insert_study
from hpsearch.storage.writer import Duty, Writer


class _AtomicStudy(optuna.Study):
    """A study whose ``ask`` and ``tell`` are one transaction each: a crash never leaves half a trial."""

    _storage: Mirror

    def ask(self, fixed_distributions: dict[str, BaseDistribution] | None = None) -> Trial:
        with self._storage.together():
            return super().ask(fixed_distributions)

    def tell(
        self,
        trial: Trial | int,
        values: float | Sequence[float] | None = None,
        state: TrialState | None = None,
        skip_if_finished: bool = False,
    ) -> FrozenTrial:
        with self._storage.together():
            return super().tell(trial, values, state, skip_if_finished)


class StudyStore:
    """One open study: Optuna's view of it in memory, and what else a coordinator puts on record.

    No method but ``close`` and ``abandon`` waits for the database.
    """

    def __init__(
        self, study: optuna.Study, attempts: dict[int, list[AttemptRow]], writer: Writer, held: Held, engine: sa.Engine
    ) -> None:
        self.study = study
        self.attempts = attempts  # by trial number, as they were when the study was opened
        self._writer = writer
        self._held = held
        self._engine = engine
        self._serials = itertools.count(1)

    def ticket(self) -> int:
        """The number of the last queued write; ``on_commit(n)`` says that all up to n are durable."""
        return self._writer.ticket

    @property
    def n_commits(self) -> int:
        """Transactions committed since the study was opened."""
        return self._writer.n_commits

    @property
    def token(self) -> int:
        """Of this coordinator: larger than that of every earlier one of the study."""
        return self._held.token

    @property
    def is_full(self) -> bool:
        """Whether the database is so far behind that nothing should be taken on that can wait."""
        return self._writer.is_full

    def together(self) -> AbstractContextManager[None]:
        """All writes made inside the block are committed in one transaction, after its end."""
        return self._writer.together()

    def put_attempt(self, row: AttemptRow) -> None:
        """Put an attempt on record, or change what is there."""
        self._put(schema.ATTEMPTS, attempt_row(row))

    def put_metrics(self, trial: int, attempt: int, step: int, metrics: Mapping[str, float]) -> None:
        """All metrics of one report. A repeated report overwrites. ValueError: a name or step no database takes."""
        if not -MAX_STEP <= step <= MAX_STEP or any(len(name) > schema.NAME_LENGTH for name in metrics):
            raise ValueError(f"step {step}: out of range, or the name of a metric is too long")
        rows = [metric_row(trial, attempt, step, clean(name), float(value)) for name, value in metrics.items()]
        self._put(schema.METRICS, *rows, urgent=False)

    def put_event(
        self, kind: str, trial: int | None, attempt: int | None, text: str, fields: Mapping[str, Any]
    ) -> None:
        """One line of the study's history. ``fields`` that are no JSON are kept as text."""
        row = {
            "token": self._held.token,
            "serial": next(self._serials),
            "time": time.time(),
            "kind": kind,
            "trial": trial,
            "attempt": attempt,
            "text": clean(text),
            "fields": json.dumps(fields, default=str),
        }
        self._put(schema.EVENTS, row, urgent=False)

    def _put(self, table: sa.Table, *rows: dict[str, Any], urgent: bool = True) -> None:
        self._writer.put([Upsert(table, self.study._study_id, row) for row in rows], urgent=urgent)

    def close(self) -> None:
        """Write what is queued and give the study back; what is written after that stays in memory.

        Closing twice is closing once. Raises StorageFailed if the database stays locked or away: what was called
        durable is in it, the rest is lost.
        """
        self._writer.close(drain=True)
        if self._writer.failure is None:
            with self._giving_up(), self._engine.begin() as connection:
                self._held.release(connection)
        self._end()
        if self._writer.failure is not None:
            raise self._writer.failure

    def abandon(self) -> None:
        """Drop what is queued and leave at once, as a crash would."""
        self._writer.close(drain=False)
        self._end()

    def _end(self) -> None:
        self._held.forget()
        self._engine.dispose()

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        # All data is durable by now, and a row that is not given back ages by itself.
        try:
            yield
        except SQLAlchemyError:
            self._held.forget()


def open_study(
    url: str,
    name: str,
    *,
    directions: Sequence[str],
    metric_names: Sequence[str],
    record: StudyRecord,
    sampler: BaseSampler,
    pruner: BasePruner,
    fresh: bool,
    on_commit: Callable[[int], None],
    on_error: Callable[[HpsearchError], None],
    on_request: Callable[[requests.Request], None],
    on_waiting: Callable[[str | None], None] = lambda reason: None,
    on_adopted: Callable[[FrozenTrial], None] = lambda trial: None,
    take_over: bool = False,
) -> StudyStore:
    """Open a study for this process alone, making it if there is none; ``fresh`` deletes an older one first.

    ``directions`` are "minimize" or "maximize". The callbacks run on the writer thread and must be quick; after
    ``on_error`` nothing is written any more. ``on_waiting`` hears why the database does not answer, and None when it is
    back; ``on_adopted`` of each trial that another program has put into the study. ``take_over`` replaces a coordinator
    that is alive: its next transaction is refused, and it ends. An older study with another search space is not
    noticed here: ``peek`` first.

    Raises StorageUnreachable, StudyHeld, and UsageError if the study has other directions.
    """
    location = locate(url)
    engine = writing_engine(location)
    wanted = [StudyDirection[direction.upper()] for direction in directions]
    held: Held | None = None
    try:
        with reaching(location), _naming_the_holder(location, name), schema.alone(location, engine):
            schema.prepare(location, engine)
            with engine.begin() as connection:
                held, row = _hold(connection, name, wanted, fresh=fresh, take_over=take_over)
                if location.path is not None:
                    _refuse_other_hosts(location, connection)
                _put_record(connection, row, name, record)
                close_gaps(connection, row)
                loaded, attempts = load_study(connection, row), load_attempts(connection, row)
    except BaseException:
        if held is not None:
            held.forget()
        engine.dispose()
        raise
    duty = Duty(requests.POLL_S, lambda connection: requests.poll(connection, row, on_request))
    writer = Writer(
        engine, on_commit=on_commit, on_error=on_error, on_waiting=on_waiting, fence=held.fence, duties=[duty]
    )
    mirror = Mirror(writer)
    last_row = max((trial._trial_id for trial in loaded.trials), default=0)
    study_id = mirror.restore(loaded)  # takes the trials themselves, under ids of its own
    writer.watch(Newcomers(mirror, (study_id, row), last_row, on_adopted))
    if loaded.system_attrs.get(METRIC_NAMES) != list(metric_names):
        mirror.set_study_system_attr(study_id, METRIC_NAMES, list(metric_names))
    return StudyStore(_AtomicStudy(name, mirror, sampler=sampler, pruner=pruner), attempts, writer, held, engine)


@contextmanager
def _naming_the_holder(location: Location, name: str) -> Iterator[None]:
    """Say who it is that we would wait for: a coordinator that is frozen in the middle of a transaction."""
    try:
        yield
    except DBAPIError as error:
        if not is_lock(error):
            raise
        holder = _holder_of(location, name)
        raise StudyHeld(
            name, holder.words if holder and holder.pid else "a program that keeps its database locked"
        ) from None


def _holder_of(location: Location, name: str) -> Holder | None:
    engine = reading_engine(location)  # readers wait for nobody
    try:
        with engine.connect() as connection:
            if not schema.is_prepared(connection):
                return None
            row = connection.scalar(sa.select(schema.STUDIES.c.study_id).where(schema.STUDIES.c.study_name == name))
            return None if row is None else read_holder(connection, row)
    finally:
        engine.dispose()


def peek(url: str, name: str) -> StudyRecord | None:
    """What is on record of a study, or None. Creates and changes nothing; StorageUnreachable."""
    location = locate(url)
    if location.is_missing:
        return None
    engine = reading_engine(location)
    try:
        with reaching(location), engine.connect() as connection:
            if not schema.is_prepared(connection):
                return None
            schema.check_version(location, connection)
            query = sa.select(schema.STUDIES.c.study_id).where(schema.STUDIES.c.study_name == name)
            row = connection.scalar(query)
            return None if row is None else load_record(connection, row)
    finally:
        engine.dispose()


def _refuse_other_hosts(location: Location, connection: sa.Connection) -> None:
    for holder in read_holders(connection).values():
        if holder.is_elsewhere and holder.is_alive():
            raise StorageUnreachable(
                f"{location.label}: {holder.words} writes to it, and SQLite serves one host: use PostgreSQL "
                "(`hpsearch db copy` takes the studies there)"
            )


def _hold(
    connection: sa.Connection, name: str, directions: Sequence[StudyDirection], *, fresh: bool, take_over: bool
) -> tuple[Held, int]:
    """Find or make the study and become its coordinator, in the caller's transaction."""
    last_token = 0
    seen = connection.scalar(sa.select(schema.STUDIES.c.study_id).where(schema.STUDIES.c.study_name == name))
    if seen is not None:  # the coordinator's row is locked before the study's, as its writer does: no deadlock
        last_token = refuse_held(connection, name, seen, over=take_over)
    row = find_study(connection, name)
    if row is not None and fresh:
        delete_study(connection, name)
        row = None
    if row is None:
        row = insert_study(connection, name, directions)
    else:
        _refuse_other_directions(connection, name, row, directions)
    held = take(connection, name, row, after=last_token, over=take_over)
    requests.drop_old(connection, row)
    return held, row


def _refuse_other_directions(
    connection: sa.Connection, name: str, row: int, directions: Sequence[StudyDirection]
) -> None:
    c = schema.DIRECTIONS.c
    query = sa.select(c.direction).where(c.study_id == row).order_by(c.objective)
    found = list(connection.scalars(query))
    if found != list(directions):
        was, now = (", ".join(d.name.lower() for d in some) for some in (found, directions))
        raise UsageError(
            f"study {name!r} was begun with direction {was}, not {now}: "
            "give it another --name, or --fresh to delete it and start over"
        )


def _put_record(connection: sa.Connection, row: int, name: str, record: StudyRecord) -> None:
    kept = {key: clean(value) for key, value in asdict(record).items()}
    values = {"study_id": row, "name": name, "created": time.time(), **kept}
    connection.execute(UPSERT_RECORD[connection.dialect.name], values)
