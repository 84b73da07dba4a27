"""What status, trials, best and logs are told."""

import math
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import OperationalError
from storage_desk import Desk, attempt

from hpsearch.errors import NoSuchStudy, StorageUnreachable
from hpsearch.views import TrialView, open_views

SPACE = {"lr": FloatDistribution(0, 1), "kind": CategoricalDistribution(("sgd", None))}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(f"sqlite:///{tmp_path / 'studies.db'}")
    yield desk
    desk.close()


def look(desk: Desk, question: Callable[[Any], Any]) -> Any:
    with open_views(desk.url) as views:
        return question(views)


def add(store: Any, *values: float, state: TrialState = TrialState.COMPLETE, **system_attrs: Any) -> None:
    store.study.add_trial(create_trial(state=state, values=values or None, system_attrs=system_attrs))


def test_a_study_at_a_glance(desk: Desk) -> None:
    store = desk.open()
    for value in (0.25, 0.75, 0.75):
        store.study.tell(store.study.ask(SPACE), value)
    store.study.tell(store.study.ask(SPACE), state=TrialState.PRUNED)
    store.study.tell(store.study.ask(SPACE), state=TrialState.FAIL)
    store.study.ask(SPACE)
    store.study.enqueue_trial({"lr": 0.5})
    desk.wait_durable(store)
    summary = look(desk, lambda views: views.study("digits"))
    assert list(summary.counts.items()) == [
        ("complete", 3),
        ("pruned", 1),
        ("fail", 1),
        ("running", 1),
        ("waiting", 1),
    ]
    assert summary.n_trials == 7
    assert (summary.directions, summary.metric_names) == (("maximize",), ("accuracy",))
    assert (summary.best, summary.best_values) == (1, (0.75,))
    assert (summary.command, summary.directory) == ("hpsearch run", "/runs")
    assert summary.running
    assert summary.holder.startswith("process ")
    assert summary.created is not None
    assert summary.started is not None
    assert summary.created - 1 < summary.started < summary.created + 60
    store.close()
    summary = look(desk, lambda views: views.study("digits"))
    assert (summary.running, summary.holder) == (False, "")


def test_studies_are_listed_in_the_order_they_were_made_also_those_of_optuna(desk: Desk) -> None:
    desk.open("letters").close()
    optuna.create_study(storage=desk.url, study_name="stock", directions=["minimize", "maximize"])
    desk.open("digits").close()
    letters, stock, digits = look(desk, lambda views: views.studies())
    assert [study.name for study in (letters, stock, digits)] == ["letters", "stock", "digits"]
    assert (stock.directions, stock.metric_names, stock.created) == (("minimize", "maximize"), (), None)
    assert (stock.command, stock.best, stock.running) == ("", None, False)


def test_a_database_that_only_stock_optuna_knows(tmp_path: Path) -> None:
    desk = Desk(f"sqlite:///{tmp_path / 'stock.db'}")
    study = optuna.create_study(storage=desk.url, study_name="stock")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    study._storage.remove_session()
    assert look(desk, lambda views: views.study("stock")).counts["complete"] == 2
    assert [trial.attempts for trial in look(desk, lambda views: views.trials("stock"))] == [(), ()]
    assert look(desk, lambda views: views.events("stock")) == []


def test_trials_one_line_each(desk: Desk) -> None:
    store = desk.open()
    first = store.study.ask(SPACE)
    for step, value in ((0, 0.5), (4, math.nan), (9, math.inf)):
        first.report(value, step)
    ended = attempt(0, 1, state="ended", cause="lost", reason="the worker died", ended=101.0)
    store.put_attempt(ended)
    store.put_attempt(attempt(0, 2, state="ended", cause="returned", reason="returned 1.0", ended=102.0))
    store.study.tell(first, 1.0)
    second = store.study.ask(SPACE)
    store.put_attempt(attempt(1))
    desk.wait_durable(store)
    one, two = look(desk, lambda views: views.trials("digits"))
    assert (one.number, one.state, one.values, one.reason) == (0, "complete", (1.0,), "returned 1.0")
    assert (one.params, one.attempts[0], len(one.attempts)) == (first.params, ended, 2)
    assert (one.steps, one.last_step, one.last_value) == (3, 9, math.inf)
    assert one.started is not None
    assert one.ended is not None
    assert one.started == pytest.approx(store.study.trials[0].datetime_start.timestamp(), abs=1e-5)
    assert one.ended >= one.started
    assert (two.state, two.values, two.params, two.reason) == ("running", (), second.params, "")
    assert (two.steps, two.last_step, two.last_value, two.ended) == (0, None, None, None)
    assert look(desk, lambda views: views.trial("digits", 1)) == two
    assert look(desk, lambda views: views.trial("digits", 2)) is None


@pytest.mark.parametrize(
    ("direction", "values", "best"),
    [
        ("maximize", [1.0, 3.0, 3.0, 2.0], 1),
        ("minimize", [1.0, 3.0, 1.0], 0),
        ("maximize", [1.0, math.inf, -math.inf], 1),
        ("minimize", [1.0, math.inf, -math.inf], 2),
        ("minimize", [], None),
    ],
)
def test_best_is_optunas_best(desk: Desk, direction: str, values: list[float], best: int | None) -> None:
    store = desk.open(directions=[direction])
    add(store, state=TrialState.FAIL)
    for value in values:
        add(store, value)
    store.close()
    found = look(desk, lambda views: views.best("digits"))
    if best is None:
        assert found is None
    else:
        assert isinstance(found, TrialView)
        assert found.number == best + 1 == optuna.load_study(study_name="digits", storage=desk.url).best_trial.number


def test_best_keeps_its_constraints(desk: Desk) -> None:
    store = desk.open()
    add(store, 1.0, **{"constraints:memory": -1.0})
    add(store, 2.0, **{"constraints:memory": 0.0, "constraints:time": -3.0})
    add(store, 3.0, **{"constraints:memory": 0.5})
    add(store, 4.0, constraints=[-1.0, 2.0])
    store.close()
    assert look(desk, lambda views: views.best("digits")).number == 1
    assert look(desk, lambda views: views.study("digits")).best == 1
    assert optuna.load_study(study_name="digits", storage=desk.url).best_trial.number == 1


def test_best_of_several_objectives_is_optunas_pareto_front(desk: Desk) -> None:
    store = desk.open(directions=["maximize", "minimize"], metric_names=["accuracy", "latency"])
    assert look(desk, lambda views: views.best("digits")) == []
    for values in ((0.5, 5.0), (0.9, 9.0), (0.5, 4.0), (0.9, 9.0), (0.4, 6.0), (1.0, math.inf), (0.2, 4.0)):
        add(store, *values)
    add(store, 2.0, 0.0, **{"constraints:c": 1.0})
    store.close()
    front = [trial.number for trial in look(desk, lambda views: views.best("digits"))]
    assert front == [1, 2, 3, 5]
    optunas = optuna.load_study(study_name="digits", storage=desk.url).best_trials
    assert front == sorted(trial.number for trial in optunas)


def test_events_are_read_on_from_where_one_was(desk: Desk) -> None:
    store = desk.open()
    store.study.ask()
    for number in range(5):
        store.put_event("trial.reported", 0, 1, f"step {number}", {"step": number})
    desk.wait_durable(store)
    with open_views(desk.url) as views:
        first = views.events("digits", limit=2)
        rest = views.events("digits", after_id=first[-1].id)
    assert [event.fields["step"] for event in [*first, *rest]] == [0, 1, 2, 3, 4]
    assert (first[0].kind, first[0].trial, first[0].attempt) == ("trial.reported", 0, 1)


def test_an_unknown_study_names_the_known_ones(desk: Desk) -> None:
    desk.open("letters").close()
    for question in ("study", "trials", "best", "events"):
        with pytest.raises(NoSuchStudy, match="it has: letters"):
            look(desk, lambda views, question=question: getattr(views, question)("digits"))


def test_no_database_is_made_by_looking(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(StorageUnreachable, match="there is no database yet: `hpsearch run` makes it"):
        open_views(desk.url)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "studies.db").touch()
    assert look(desk, lambda views: views.studies()) == []
    with pytest.raises(NoSuchStudy, match="none yet"):
        look(desk, lambda views: views.study("digits"))
    assert (tmp_path / "studies.db").stat().st_size == 0


def test_views_cannot_write(desk: Desk) -> None:
    desk.open().close()
    with (
        open_views(desk.url) as views,
        views._engine.connect() as connection,
        pytest.raises(OperationalError, match="readonly"),
    ):
        connection.execute(sa.text("DELETE FROM studies"))


def test_views_of_a_newer_hpsearch_are_refused(desk: Desk) -> None:
    desk.open().close()
    connection = sqlite3.connect(desk.url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("update hpsearch_version set version_num = '99'")
    connection.close()
    with pytest.raises(StorageUnreachable, match="pip install -U hpsearch"):
        open_views(desk.url)


def test_many_trials_take_no_more_statements_than_few(desk: Desk) -> None:
    store = desk.open()
    counted: list[int] = []
    for n_more in (2, 100):
        for _ in range(n_more):
            trial = store.study.ask(SPACE)
            trial.report(0.5, 1)
            store.put_attempt(attempt(trial.number))
            store.study.tell(trial, 1.0)
        desk.wait_durable(store)
        n = 0

        def count(*_: object) -> None:
            nonlocal n
            n += 1

        with open_views(desk.url) as views:
            sa.event.listen(views._engine, "before_cursor_execute", count)
            views.trials("digits")
            views.studies()
            views.best("digits")
        counted.append(n)
    assert counted[0] == counted[1] < 60
