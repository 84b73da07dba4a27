"""The writer thread when the database is locked, loses an answer, or refuses."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from sqlalchemy.exc import DatabaseError, OperationalError
from storage_desk import Desk, attempt

from hpsearch.errors import HpsearchError, StorageFailed
from hpsearch.storage import Mirror, schema
from hpsearch.storage.connect import is_transient, locate, writing_engine
from hpsearch.storage.rows import Upsert
from hpsearch.storage.writer import Duty, Writer
from hpsearch.views import open_views

SPACE = {f"x{i}": FloatDistribution(0, 1) for i in range(5)}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(f"sqlite:///{tmp_path / 'studies.db'}")
    yield desk
    desk.close()


def test_a_locked_database_is_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpsearch.storage.connect.BUSY_S", 0.01)
    store = desk.open()
    desk.wait_durable(store)
    durable = desk.durable
    other = sqlite3.connect(desk.url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for _ in range(10):
        trial = store.study.ask(SPACE)
        for step in range(3):
            trial.report(0.5, step)
        store.study.tell(trial, 1.0)
    store.put_event("trial.completed", 9, 1, "done", {})
    desk.wait(lambda: desk.waiting)
    assert desk.durable == durable  # nothing is called durable before it is
    assert len(store.study.trials) == 10  # and nobody waited
    other.execute("ROLLBACK")
    other.close()
    desk.wait_durable(store)
    with open_views(desk.url) as views:
        assert [(trial.number, trial.state, trial.steps) for trial in views.trials("digits")] == [
            (number, "complete", 3) for number in range(10)
        ]
        assert len(views.events("digits")) == 1
    assert desk.errors == []
    assert desk.waiting == ["database is locked", None]  # said once, and once that it is over


def test_abandoning_does_not_wait_for_a_lock(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpsearch.storage.connect.BUSY_S", 0.01)
    store = desk.open()
    desk.wait_durable(store)
    other = sqlite3.connect(desk.url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    store.study.ask()
    desk.wait(lambda: desk.waiting)
    store.abandon()
    other.close()
    assert desk.open().study.trials == []


# ----------------------------------------------------------------------------------------- a flaky engine


class Flaky:
    """An engine that raises ``faults`` one after the other, each after a transaction was committed for real."""

    def __init__(self, engine: sa.Engine, faults: list[Exception], *, commit: bool) -> None:
        self._engine = engine
        self._faults = faults
        self._commit = commit
        self.n_begun = 0

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        self.n_begun += 1
        if self._faults and not self._commit:
            raise self._faults.pop(0)
        with self._engine.begin() as connection:
            yield connection
        if self._faults:
            raise self._faults.pop(0)


def sqlite_error(code: int, words: str = "oh") -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(words)
    error.sqlite_errorcode = code
    return error


def locked() -> OperationalError:
    return OperationalError("COMMIT", {}, sqlite_error(sqlite3.SQLITE_BUSY, "database is locked"))


class Bench:
    """A mirror over a flaky engine, with the desk's schema."""

    def __init__(self, desk: Desk, *, duties: tuple[Duty, ...] = ()) -> None:
        desk.open("unused").close()
        self.faults: list[Exception] = []
        self.durable: list[int] = []
        self.errors: list[HpsearchError] = []
        self.failed = threading.Event()
        self._real = writing_engine(locate(desk.url))
        self.engine = Flaky(self._real, self.faults, commit=True)
        self.writer = Writer(
            cast("sa.Engine", self.engine),
            on_commit=self.durable.append,
            on_error=self._failed,
            duties=duties,
        )
        self.mirror = Mirror(self.writer)

    def _failed(self, error: HpsearchError) -> None:
        self.errors.append(error)
        self.failed.set()

    def close(self) -> None:
        self.writer.close(drain=True)
        self._real.dispose()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._real.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]


def test_a_commit_whose_answer_was_lost_is_not_doubled(desk: Desk) -> None:
    bench = Bench(desk)
    study = bench.mirror.create_new_study([StudyDirection.MINIMIZE], "digits")
    bench.faults += [locked(), locked()]
    with bench.writer.together():
        for _ in range(3):
            trial = bench.mirror.create_new_trial(study)
            bench.mirror.set_trial_param(trial, "x", 0.5, FloatDistribution(0, 1))
            bench.mirror.set_trial_intermediate_value(trial, 1, 0.25)
            bench.mirror.set_trial_user_attr(trial, "host", "a")
        event = {
            "token": 1,
            "serial": 1,
            "time": 0.0,
            "kind": "k",
            "trial": None,
            "attempt": None,
            "text": "",
            "fields": "",
        }
        bench.writer.put([Upsert(schema.EVENTS, study, event)])
    bench.mirror.create_new_trial(study)
    bench.close()
    assert bench.rows("select number from trials order by trial_id") == [(0,), (1,), (2,), (3,)]
    for table in ("trial_params", "trial_intermediate_values", "trial_user_attributes"):
        assert bench.rows(f"select count(*), count(distinct trial_id) from {table}") == [(3, 3)]
    assert bench.rows("select count(*) from hpsearch_event") == [(1,)]
    assert bench.errors == []
    assert bench.durable == sorted(bench.durable)
    assert bench.durable[-1] == bench.writer.ticket


def test_a_refused_write_is_told_once_and_ends_the_writing(desk: Desk) -> None:
    bench = Bench(desk)
    study = bench.mirror.create_new_study([StudyDirection.MINIMIZE], "digits")
    bench.engine._commit = False
    bench.faults.append(DatabaseError("INSERT", {}, sqlite3.DatabaseError("database disk image is malformed")))
    bench.mirror.create_new_trial(study)
    assert bench.failed.wait(30)
    bench.mirror.create_new_trial(study)  # dropped, not raised: whoever has to know was told
    with pytest.raises(StorageFailed, match="closed"):
        bench.mirror.create_new_study([StudyDirection.MINIMIZE], "letters")
    bench.close()
    (error,) = bench.errors
    assert isinstance(error, StorageFailed)
    assert "malformed" in str(error)
    assert bench.durable == []
    assert bench.rows("select count(*) from trials") == [(0,)]


def test_a_database_that_stays_away_is_given_up_when_the_study_is_closed(desk: Desk) -> None:
    bench = Bench(desk)
    bench.mirror.create_new_study([StudyDirection.MINIMIZE], "digits")
    bench.faults += [locked() for _ in range(1000)]
    bench.engine._commit = False
    bench.mirror.create_new_trial(0)
    bench.writer.close(drain=True, patience_s=0.0)
    bench.close()
    (error,) = bench.errors
    assert "database is locked" in str(error)
    assert error is bench.writer.failure


def test_closing_a_study_says_what_could_not_be_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpsearch.storage.connect.BUSY_S", 0.01)
    monkeypatch.setattr("hpsearch.storage.writer.CLOSING_S", 0.05)
    store = desk.open()
    desk.wait_durable(store)
    other = sqlite3.connect(desk.url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    store.study.ask()
    with pytest.raises(StorageFailed, match="locked"):
        store.close()
    other.close()
    assert desk.open().study.trials == []


def test_a_queue_that_is_too_long_is_full_until_it_is_committed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpsearch.storage.writer.FULL_OPERATIONS", 20)
    store = desk.open()
    desk.wait_durable(store)
    with store.together():
        trial = store.study.ask()
        assert not store.is_full
        for step in range(20):
            trial.report(1.0, step)
        assert store.is_full
    desk.wait_durable(store)
    assert not store.is_full


def test_a_duty_that_fails_is_told(desk: Desk) -> None:
    def work(connection: sa.Connection) -> None:
        raise ZeroDivisionError("oh")

    bench = Bench(desk, duties=(Duty(0.01, work),))
    assert bench.failed.wait(30)
    bench.close()
    assert "ZeroDivisionError: oh" in str(bench.errors[0])


def test_waiting_work_is_answered_when_the_writer_ends(desk: Desk) -> None:
    bench = Bench(desk)
    begun, go = threading.Event(), threading.Event()
    answers: list[BaseException | int] = []

    def slow(connection: sa.Connection) -> int:
        begun.set()
        go.wait(30)
        return 1

    def ask(work: Any) -> None:
        try:
            answers.append(bench.writer.run(work))
        except StorageFailed as error:
            answers.append(error)

    first = threading.Thread(target=ask, args=(slow,))
    first.start()
    assert begun.wait(30)
    second = threading.Thread(target=ask, args=(lambda connection: 2,))
    with bench.writer._changed:
        second.start()
        bench.writer._abandoned.set()
        bench.writer._changed.wait_for(lambda: bench.writer._n_calls == 1, 30)
    go.set()
    first.join()
    second.join()
    bench.close()
    assert 1 in answers
    assert any(isinstance(answer, StorageFailed) for answer in answers)


def test_work_that_somebody_waits_for_breaks_a_hold(desk: Desk) -> None:
    bench = Bench(desk)
    with bench.writer.together():
        study = bench.mirror.create_new_study([StudyDirection.MINIMIZE], "digits")
        bench.mirror.create_new_trial(study)
        bench.mirror.delete_study(study)
    bench.close()
    assert bench.rows("select study_name from studies") == [("unused",)]
    assert bench.errors == []


def test_reports_wait_for_company_and_states_do_not(desk: Desk) -> None:
    store = desk.open()
    trial = store.study.ask(SPACE)
    desk.wait_durable(store)
    before = store.n_commits
    with store.together():  # so that no slow machine comes in between
        for step in range(10):
            trial.report(1.0, step)
        store.put_metrics(0, 1, 1, {"loss": 1.0})
    assert not store._writer._urgent
    desk.wait_durable(store)
    assert store.n_commits == before + 1
    store.put_attempt(attempt(0))
    desk.wait_durable(store)
    store.close()


def test_no_number_of_writes_tears_what_belongs_together(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpsearch.storage.writer.ENOUGH_OPERATIONS", 3)
    sizes: list[int] = []
    bench = Bench(desk)
    bench.writer._on_commit = lambda ticket: sizes.append(ticket - sum(sizes))
    study = bench.mirror.create_new_study([StudyDirection.MINIMIZE], "digits")
    begun, go = threading.Event(), threading.Event()

    def occupy(connection: sa.Connection) -> None:
        begun.set()
        go.wait(30)

    occupied = threading.Thread(target=bench.writer.run, args=(occupy,))
    occupied.start()
    assert begun.wait(30)
    with bench.writer.together():
        trial = bench.mirror.create_new_trial(study)
        for step in range(6):
            bench.mirror.set_trial_intermediate_value(trial, step, 1.0)
    for step in range(4):
        bench.mirror.set_trial_intermediate_value(trial, step, 2.0)
    go.set()
    occupied.join()
    bench.close()
    assert sizes == [7, 3, 1]


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (sqlite_error(sqlite3.SQLITE_BUSY), True),
        (sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), True),
        (sqlite_error(sqlite3.SQLITE_FULL), True),
        (sqlite_error(sqlite3.SQLITE_IOERR_WRITE), True),
        (sqlite_error(sqlite3.SQLITE_ERROR, "no such table: trials"), False),
        (sqlite_error(sqlite3.SQLITE_CORRUPT), False),
        (sqlite_error(sqlite3.SQLITE_READONLY), False),
        (sqlite3.IntegrityError("UNIQUE constraint failed"), False),
        (ConnectionError("server closed the connection unexpectedly"), True),
    ],
)
def test_what_is_tried_again(error: Exception, transient: bool) -> None:
    assert is_transient(OperationalError("COMMIT", {}, error)) is transient
