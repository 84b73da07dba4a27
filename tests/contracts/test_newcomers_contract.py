"""What stock Optuna puts into the database of a study that runs."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from storage_desk import Desk

from hpsearch.errors import StudyHeld
from hpsearch.storage.connect import locate, writing_engine

SPACE = {"lr": FloatDistribution(0, 1)}


@pytest.fixture
def desk(url: str) -> Iterator[Desk]:
    desk = Desk(url)
    yield desk
    desk.close()


@pytest.fixture
def stock(desk: Desk) -> Iterator[Callable[[], optuna.Study]]:
    """Opens the study as another program would."""
    storages: list[RDBStorage] = []

    def load() -> optuna.Study:
        storages.append(RDBStorage(str(locate(desk.url).url.render_as_string(hide_password=False))))
        return optuna.load_study(study_name="digits", storage=storages[-1])

    yield load
    for storage in storages:
        storage.remove_session()
        storage.engine.dispose()


Stock = Callable[[], optuna.Study]


def test_an_enqueued_trial_is_asked_next_with_its_parameters(desk: Desk, stock: Stock) -> None:
    store = desk.open()
    desk.wait_durable(store)
    stock().enqueue_trial({"lr": 0.25}, user_attrs={"why": "a hunch"})
    desk.wait(lambda: desk.adopted)
    trial = store.study.ask(SPACE)
    assert (trial.number, trial.params, trial.user_attrs) == (0, {"lr": 0.25}, {"why": "a hunch"})
    store.study.tell(trial, 1.0)
    store.close()
    (found,) = stock().trials
    assert (found.number, found.params, found.values, found.user_attrs) == (0, {"lr": 0.25}, [1.0], {"why": "a hunch"})


def test_a_number_that_is_taken_here_is_not_taken_twice(desk: Desk, stock: Stock) -> None:
    store = desk.open()
    desk.wait_durable(store)
    with store.together():  # number 0 is ours, and the database does not know it yet
        ours = store.study.ask(SPACE)
        stock().enqueue_trial({"lr": 0.25})
        assert [trial.number for trial in stock().trials] == [0]
    desk.wait_durable(store)
    desk.wait(lambda: desk.adopted)
    theirs = store.study.ask(SPACE)
    assert (ours.number, theirs.number, theirs.params) == (0, 1, {"lr": 0.25})
    store.study.tell(ours, 0.5)
    store.study.tell(theirs, 1.0)
    store.close()
    trials = stock().trials
    assert [(trial.number, trial.value) for trial in trials] == [(0, 0.5), (1, 1.0)]
    assert trials[0].params == ours.params


def test_a_finished_trial_that_is_added_is_learned_from(desk: Desk, stock: Stock) -> None:
    store = desk.open()
    desk.wait_durable(store)
    stock().add_trial(create_trial(value=0.75, params={"lr": 0.5}, distributions=SPACE))
    desk.wait(lambda: desk.adopted)
    assert store.study.best_value == 0.75
    assert desk.adopted[0].state is TrialState.COMPLETE
    store.close()


def test_many_at_once_are_taken_over(desk: Desk, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpsearch.storage.newcomers.AT_ONCE", 2)
    store = desk.open()
    desk.wait_durable(store)
    others = stock()
    with store.together():
        for number in range(5):
            others.enqueue_trial({"lr": number / 10})
        store.study.ask(SPACE)
    desk.wait(lambda: len(desk.adopted) == 5)
    assert [store.study.ask(SPACE).params["lr"] for _ in range(5)] == [0.0, 0.1, 0.2, 0.3, 0.4]
    store.close()


@pytest.mark.parametrize("committed", [True, False])
def test_a_transaction_that_is_repeated_adopts_once_and_inserts_once(desk: Desk, stock: Stock, committed: bool) -> None:
    store = desk.open()
    desk.wait_durable(store)
    engine, faults = store._writer._engine, [1, 1]
    real = type(engine).begin

    class Flaky:
        def __getattr__(self, name: str) -> object:
            return getattr(engine, name)

        def begin(self) -> object:
            return self._begin()

        @contextmanager
        def _begin(self) -> Iterator[object]:
            error = sqlite3.OperationalError("the answer is lost")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            with real(engine) as connection:
                yield connection
                if faults and not committed:
                    faults.pop()
                    raise OperationalError("COMMIT", {}, error)
            if faults:
                faults.pop()
                raise OperationalError("COMMIT", {}, error)

    with store.together():
        ours = [store.study.ask(SPACE) for _ in range(3)]
        stock().enqueue_trial({"lr": 0.25})
        store._writer._engine = Flaky()  # type: ignore[assignment]
    desk.wait_durable(store)
    desk.wait(lambda: desk.adopted and desk.waiting[-1:] == [None])
    assert faults == []
    stock().enqueue_trial({"lr": 0.75})
    desk.wait(lambda: len(desk.adopted) == 2)
    asked = [store.study.ask(SPACE) for _ in range(2)]
    assert [trial.params["lr"] for trial in asked] == [0.25, 0.75]
    store.close()
    trials = stock().trials
    assert [trial.number for trial in trials] == list(range(5))
    assert [trial.params for trial in trials] == [trial.params for trial in [*ours, *asked]]
    assert {trial.state for trial in trials} == {TrialState.RUNNING}


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)  # SQLite waits for whoever writes
def test_who_is_frozen_in_a_transaction_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    patience = {"options": "-c lock_timeout=100ms"}
    monkeypatch.setattr("hpsearch.storage.connect._PATIENCE", patience)
    desk.open().abandon()
    engine = writing_engine(locate(desk.url))
    with engine.begin() as frozen:
        frozen.exec_driver_sql("UPDATE hpsearch_coordinator SET serial = serial + 1")
        with pytest.raises(StudyHeld, match=r"is being run by process \d+ on "):
            desk.open()
    engine.dispose()
    desk.open().close()


def test_the_number_of_a_withdrawn_trial_leaves_no_gap_before_a_newcomer(desk: Desk, stock: Stock) -> None:
    store = desk.open()
    first, second = store.study.ask(), store.study.ask()
    desk.wait_durable(store)
    with store.together():
        assert store.study._storage.withdraw_trial(second._trial_id)
        stock().enqueue_trial({"lr": 0.25})  # which still sees it
    store.close()
    assert [(trial.number, trial.state) for trial in stock().trials] == [
        (first.number, TrialState.RUNNING),
        (second.number, TrialState.WAITING),
    ]


def test_a_coordinator_that_dies_between_two_numbers_leaves_a_study_that_opens(desk: Desk, stock: Stock) -> None:
    store = desk.open()
    store.study.ask()
    desk.wait_durable(store)
    with store.together():  # as long as a sampler thinks about the trial
        store.study.ask()
        stock().enqueue_trial({"lr": 0.25})
        desk.wait(lambda: [trial.number for trial in stock().trials] == [0, 2])
        store.abandon()
    assert [trial.state for trial in desk.open().study.trials] == [TrialState.RUNNING, TrialState.WAITING]


def test_what_another_program_put_in_is_not_withdrawn(desk: Desk, stock: Stock) -> None:
    store = desk.open()
    desk.wait_durable(store)
    stock().add_trial(create_trial(state=TrialState.WAITING, params={"lr": 0.25}, distributions=SPACE))
    desk.wait(lambda: desk.adopted)
    assert not store.study._storage.withdraw_trial(store.study.ask()._trial_id)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)  # SQLite has one lock for all
def test_who_opens_a_study_never_holds_what_its_coordinator_waits_for(desk: Desk) -> None:
    store = desk.open()
    store.study.ask()
    desk.wait_durable(store)
    store.abandon()
    engine = writing_engine(locate(desk.url))
    waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as coordinator:
            coordinator.exec_driver_sql("UPDATE hpsearch_coordinator SET serial = serial + 1")
            opening = pool.submit(desk.open)
            deadline = time.monotonic() + 8
            while not coordinator.scalar(waits):
                assert time.monotonic() < deadline
            coordinator.exec_driver_sql("SELECT study_id FROM studies FOR UPDATE NOWAIT")
        assert len(opening.result().study.trials) == 1
    engine.dispose()
