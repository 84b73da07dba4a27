"""What our storage promises to Optuna, on SQLite and on PostgreSQL: its conformance suite, and no visible difference.

The reference is stock ``RDBStorage`` itself: the same operations through both leave the same study behind.
"""

import dataclasses
import io
import itertools
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.errors import StudyHeld
from hpsearch.storage import AttemptRow, Mirror, StudyRecord, StudyStore, open_study, peek, send_request
from hpsearch.storage.connect import locate, writing_engine
from hpsearch.storage.writer import Writer
from hpsearch.views import open_views

RECORD = StudyRecord(spec_text="", space_json="{}", command="", directory="", version="0")


# --------------------------------------------------------------------------------------------- databases


@contextmanager
def _stock(url: str) -> Iterator[RDBStorage]:
    """Stock Optuna on the same database, without its patience with the disk and the connections it leaves behind."""
    storage = RDBStorage(url)
    if storage.engine.dialect.name == "sqlite":
        storage.engine.dispose()
        sa.event.listen(storage.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


# ------------------------------------------------------------------------------------------- comparison


def facts(trial: FrozenTrial) -> dict[str, str]:
    """All of a trial but its row, in a form in which NaN equals NaN."""
    kept: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state,
        "values": None if trial.values is None else [float(value) for value in trial.values],
        "params": list(trial.params.items()),  # their order is promised, too
        "distributions": sorted(trial.distributions.items()),
        "intermediate_values": sorted((step, float(value)) for step, value in trial.intermediate_values.items()),
        "user_attrs": sorted(trial.user_attrs.items()),
        "system_attrs": sorted(trial.system_attrs.items()),
    }
    return {key: repr(value) for key, value in kept.items()}


def times(trial: FrozenTrial) -> tuple[datetime | None, datetime | None]:
    return trial.datetime_start, trial.datetime_complete


# ------------------------------------------------------------------------------------ conformance suite


class TestOptunasConformanceSuite(StorageTestCase):
    """Each test ends with the question whether the database has what the mirror answered from memory."""

    @pytest.fixture
    def storage(self, url: str) -> Iterator[BaseStorage]:
        engine = writing_engine(locate(url))
        writer = Writer(engine, on_commit=lambda ticket: None, on_error=_never)
        mirror = Mirror(writer)
        yield mirror
        writer.close(drain=True)
        engine.dispose()
        with _stock(url) as stock:
            written = {study.study_name: study for study in stock.get_all_studies()}
            assert set(written) == {study.study_name for study in mirror.get_all_studies()}
            for study in mirror.get_all_studies():
                found = written[study.study_name]
                assert found.directions == study.directions
                assert repr(sorted(found.user_attrs.items())) == repr(sorted(study.user_attrs.items()))
                assert repr(sorted(found.system_attrs.items())) == repr(sorted(study.system_attrs.items()))
                theirs = stock.get_all_trials(found._study_id)
                ours = mirror.get_all_trials(study._study_id)
                assert [facts(trial) for trial in theirs] == [facts(trial) for trial in ours]
                assert [times(trial) for trial in theirs] == [times(trial) for trial in ours]


# ------------------------------------------------------------------- the same operations through both

DISTRIBUTIONS: dict[str, Any] = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "width": IntDistribution(16, 256, log=True),
    "depth": IntDistribution(1, 9, step=2),
    "dropout": FloatDistribution(0.0, 0.5, step=0.1),
    "kind": CategoricalDistribution(("sgd", None, True, 0.5, 3)),
}
INTERNAL = {"lr": 0.25, "width": 32, "depth": 3, "dropout": 0.2, "kind": 1}
FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=64)
NUMBERS = st.floats(allow_nan=False, allow_infinity=True, width=64)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=12)
WHICH = st.integers(0, 5)
OPERATIONS = st.one_of(
    st.tuples(st.just("ask"), st.sets(st.sampled_from(sorted(DISTRIBUTIONS)))),
    st.tuples(st.just("enqueue"), st.floats(1e-5, 1.0), JSON),
    st.tuples(st.just("add"), st.sampled_from(list(TrialState)), NUMBERS, FLOATS),
    st.tuples(st.just("suggest"), WHICH, st.sampled_from(sorted(DISTRIBUTIONS))),
    st.tuples(st.just("report"), WHICH, st.integers(0, 6), FLOATS),
    st.tuples(st.just("user_attr"), WHICH, KEYS, JSON),
    st.tuples(st.just("system_attr"), WHICH, KEYS, JSON),
    st.tuples(st.just("tell"), WHICH, NUMBERS),
    st.tuples(st.just("prune"), WHICH),
    st.tuples(st.just("fail"), WHICH),
    st.tuples(st.just("wait again"), WHICH),
    st.tuples(st.just("study_user_attr"), KEYS, JSON),
    st.tuples(st.just("commit")),
)


@dataclass
class Driver:
    """Does operations to a study; two of them with equal seeds do the same."""

    study: optuna.Study
    commit: Callable[[], None]
    refused: list[tuple[str, str]] = field(default_factory=list)

    def do(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self, name.replace(" ", "_"))(*arguments)
        except (ValueError, optuna.exceptions.OptunaError) as error:
            self.refused.append((name, type(error).__name__))

    def ask(self, names: set[str]) -> None:
        self.study.ask({name: DISTRIBUTIONS[name] for name in sorted(names)})

    def enqueue(self, lr: float, attr: Any) -> None:
        self.study.enqueue_trial({"lr": lr}, user_attrs={"note": attr})

    def add(self, state: TrialState, value: float, reported: float) -> None:
        at = datetime(2026, 1, 2, 3, 4, 5, 678901)
        trial = create_trial(
            state=state,
            value=value if state == TrialState.COMPLETE else None,
            params={"width": 32, "kind": None},
            distributions={name: DISTRIBUTIONS[name] for name in ("width", "kind")},
            user_attrs={"a": [1, {"b": None}]},
            system_attrs={"s": "t"},
            intermediate_values={0: reported, 7: 1.0},
        )
        trial.datetime_start = None if state == TrialState.WAITING else at
        trial.datetime_complete = at if state.is_finished() else None
        self.study.add_trial(trial)

    def suggest(self, which: int, name: str) -> None:
        trial = self._trial(which)
        if trial is not None and name not in trial.params:  # Optuna itself never sets one twice
            self.study._storage.set_trial_param(trial._trial_id, name, INTERNAL[name], DISTRIBUTIONS[name])

    def report(self, which: int, step: int, value: float) -> None:
        if (trial := self._trial(which)) is not None:
            self.study._storage.set_trial_intermediate_value(trial._trial_id, step, value)

    def user_attr(self, which: int, key: str, value: Any) -> None:
        if (trial := self._trial(which)) is not None:
            self.study._storage.set_trial_user_attr(trial._trial_id, key, value)

    def system_attr(self, which: int, key: str, value: Any) -> None:
        if (trial := self._trial(which)) is not None:
            self.study._storage.set_trial_system_attr(trial._trial_id, f"our:{key}", value)

    def tell(self, which: int, value: float) -> None:
        if (trial := self._trial(which)) is not None:
            self.study.tell(trial.number, value)

    def prune(self, which: int) -> None:
        if (trial := self._trial(which)) is not None:
            self.study.tell(trial.number, state=TrialState.PRUNED)

    def fail(self, which: int) -> None:
        if (trial := self._trial(which)) is not None:
            self.study.tell(trial.number, state=TrialState.FAIL)

    def wait_again(self, which: int) -> None:
        if (trial := self._trial(which)) is not None:
            self.study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def study_user_attr(self, key: str, value: Any) -> None:
        self.study.set_user_attr(key, value)

    def _trial(self, which: int) -> FrozenTrial | None:
        trials = self.study.get_trials(deepcopy=False)
        return trials[-1 - which] if which < len(trials) else None


class Commits:
    """Lets a test wait for what it wrote."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._durable = 0

    def __call__(self, ticket: int) -> None:
        with self._changed:
            self._durable = ticket
            self._changed.notify_all()

    def wait(self, ticket: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._durable >= ticket, 30)


def _open(url: str, name: str, commits: Commits, seed: int = 0, **changes: Any) -> StudyStore:
    arguments: dict[str, Any] = {
        "directions": ["minimize"],
        "metric_names": [],
        "record": RECORD,
        "sampler": optuna.samplers.RandomSampler(seed=seed),
        "pruner": optuna.pruners.NopPruner(),
        "fresh": False,
        "on_commit": commits,
        "on_error": _never,
        "on_request": _never,
    }
    return open_study(url, name, **{**arguments, **changes})


def _never(what: object) -> None:
    raise AssertionError(what)


_marks = itertools.count()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to shrink a failure at a database's speed takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operations=st.lists(OPERATIONS, min_size=5, max_size=40), again=st.lists(OPERATIONS, max_size=10))
def test_stock_eyes_see_what_stock_would_have_written(
    url: str, operations: list[tuple[Any, ...]], again: list[tuple[Any, ...]]
) -> None:
    mark = next(_marks)  # one database for all examples
    with _stock(url) as stock:
        reference = optuna.create_study(
            storage=stock,
            study_name=f"stock-{mark}",
            sampler=optuna.samplers.RandomSampler(seed=1),
            direction="minimize",
        )
        theirs = Driver(reference, lambda: None)
        for part, seed in ((operations, 1), (again, 2)):  # in two runs, the second of which loads the first
            reference.sampler = optuna.samplers.RandomSampler(seed=seed)
            commits = Commits()
            store = _open(url, f"ours-{mark}", commits, seed)
            ours = Driver(store.study, lambda store=store, commits=commits: commits.wait(store.ticket()))
            for operation in part:
                theirs.do(*operation)
                ours.do(*operation)
            store.close()
            assert ours.refused == theirs.refused[len(theirs.refused) - len(ours.refused) :]
            written = optuna.load_study(study_name=f"ours-{mark}", storage=stock)
            assert [facts(t) for t in written.trials] == [facts(t) for t in reference.trials]
            for one, other in zip(written.trials, reference.trials, strict=True):
                assert [at is None for at in times(one)] == [at is None for at in times(other)]
            assert repr(sorted(written.user_attrs.items())) == repr(sorted(reference.user_attrs.items()))
            assert [facts(t) for t in store.study.trials] == [facts(t) for t in written.trials]
            assert [times(t) for t in store.study.trials] == [times(t) for t in written.trials]


# ------------------------------------------------------------------------------------ Optuna's own tools


@pytest.fixture
def searched(url: str) -> Iterator[str]:
    """A database with one small study of ours in it, "digits"."""
    commits = Commits()
    store = _open(url, "digits", commits)
    store.study._storage.set_study_system_attr(store.study._study_id, "study:metric_names", ["loss"])
    for number in range(4):
        trial = store.study.ask(DISTRIBUTIONS)
        trial.report(float(number), 0)
        trial.set_user_attr("host", "a")
        if number < 3:
            store.study.tell(trial, [0.5, math.inf, -1.0][number])
    store.put_event("trial.completed", 0, 1, "done", {})
    store.close()
    return url


def test_load_study_gives_the_same_best_and_a_dataframe(searched: str) -> None:
    with _stock(searched) as stock:
        study = optuna.load_study(study_name="digits", storage=stock)
        assert study.best_trial.number == 2
        assert study.metric_names == ["loss"]
        frame = study.trials_dataframe()
        assert list(frame["state"]) == ["COMPLETE", "COMPLETE", "COMPLETE", "RUNNING"]
        assert list(frame["number"]) == [0, 1, 2, 3]
        assert {f"params_{name}" for name in DISTRIBUTIONS} < set(frame.columns)
        assert frame["duration"].notna().tolist() == [True, True, True, False]


def test_stock_optuna_can_go_on_with_our_study_and_delete_it(searched: str) -> None:
    with _stock(searched) as stock:
        study = optuna.load_study(study_name="digits", storage=stock)
        trial = study.ask(DISTRIBUTIONS)
        assert trial.number == 4
        study.tell(trial, 0.25)
        optuna.delete_study(study_name="digits", storage=stock)
        assert optuna.get_all_study_names(stock) == []


def test_optuna_dashboard_lists_it(searched: str) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    with _stock(searched) as stock:
        app = dashboard.wsgi(stock)
        (summary,) = _get(app, "/api/studies")["study_summaries"]
        assert summary["study_name"] == "digits"
        detail = _get(app, f"/api/studies/{summary['study_id']}")
        assert [trial["state"] for trial in detail["trials"]] == ["Complete", "Complete", "Complete", "Running"]
        assert [trial["values"] for trial in detail["trials"][:3]] == [[0.5], ["inf"], [-1.0]]
        assert len(detail["trials"][0]["params"]) == len(DISTRIBUTIONS)


def _get(app: Callable[..., Any], path: str) -> Any:
    answers: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
    }
    body = b"".join(app(environ, lambda status, headers, error=None: answers.append(status)))
    assert answers[0].startswith("200"), (answers, body)
    return json.loads(body)


def test_studies_of_stock_optuna_are_taken_over(url: str) -> None:
    with _stock(url) as stock:
        study = optuna.create_study(storage=stock, study_name="old", direction=StudyDirection.MINIMIZE)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
        study.enqueue_trial({"x": 0.125})
        store = _open(url, "old", Commits())
        assert [facts(trial) for trial in store.study.trials] == [facts(trial) for trial in study.trials]
        trial = store.study.ask({"x": FloatDistribution(0, 1)})
        assert (trial.number, trial.params) == (3, {"x": 0.125})
        store.study.tell(trial, 0.125)
        with pytest.raises(ValueError, match="different distribution kind"):
            store.study.ask({"x": CategoricalDistribution([0, 1])})
        store.close()
        assert study.trials[3].value == 0.125


def test_what_optuna_does_not_see_is_the_same_on_both(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpsearch.storage.requests.POLL_S", 0.01)
    assert peek(url, "digits") is None
    commits, asked = Commits(), threading.Event()
    store = _open(url, "digits", commits, on_request=lambda request: asked.set())
    with pytest.raises(StudyHeld):
        _open(url, "digits", Commits())
    trial = store.study.ask(DISTRIBUTIONS)
    for step, value in enumerate((0.5, math.nan, math.inf)):
        trial.report(value, step)
        store.put_metrics(0, 1, step, {"loss": value})
    attempt = AttemptRow(trial=0, attempt=1, state="ended", reason="nul \x00", started=1.0, exit_code=-9)
    store.put_attempt(attempt)
    store.put_event("trial.failed", 0, 1, "died", {"n": 1})
    store.study.tell(trial, 1.0)
    send_request(url, "digits", "stop")
    assert asked.wait(30)
    commits.wait(store.ticket())
    with open_views(url) as views:
        assert views.study("digits").running
        (view,) = views.trials("digits")
        assert (view.steps, view.last_step, view.values, view.params) == (3, 2, (1.0,), trial.params)
        assert views.best("digits") == view
        assert view.attempts == [dataclasses.replace(attempt, reason="nul \N{REPLACEMENT CHARACTER}")]
        assert [event.text for event in views.events("digits")] == ["died"]
        with pytest.raises(sa.exc.DBAPIError, match=r"read-?only"), views._engine.connect() as connection:
            connection.execute(sa.text("DELETE FROM studies"))
    store.close()
    assert peek(url, "digits") == RECORD
    again = _open(url, "digits", Commits(), fresh=True)
    assert (again.study.trials, again.attempts) == ([], {})
    again.close()
    with open_views(url) as views:
        (summary,) = views.studies()
        assert (summary.n_trials, summary.running) == (0, False)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_connection_that_the_server_ends_is_made_again(url: str) -> None:
    commits = Commits()
    store = _open(url, "digits", commits)
    engine = sa.create_engine(locate(url).url)
    ended = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hpsearch'")
    for number in range(3):
        commits.wait(store.ticket())
        with engine.connect() as connection:
            assert connection.scalars(ended).all() == [True]
        trial = store.study.ask(DISTRIBUTIONS)
        trial.report(0.5, 1)
        store.study.tell(trial, float(number))
    store.close()
    engine.dispose()
    with _stock(url) as stock:
        study = optuna.load_study(study_name="digits", storage=stock)
        assert [trial.value for trial in study.trials] == [0.0, 1.0, 2.0]


def test_many_may_open_an_empty_database_at_the_same_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    errors: list[BaseException] = []

    def start(name: str) -> None:
        try:
            _open(url, name, Commits()).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(f"study {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with _stock(url) as stock:
        assert len(optuna.get_all_study_names(stock)) == 4
