"""What a training job sees, over a socket whose other end is in the test."""

import functools
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from ranks import assignment

import hpsearch
from hpsearch import trial as trials
from hpsearch.trial import Line, StandIn, Trial, TrialStopped


class Supervisor:
    """The other end: says lines, and hears them."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._heard = end.makefile("rb")

    def say(self, **message: Any) -> None:
        self._end.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        return json.loads(self._heard.readline())

    def close(self) -> None:
        self._heard.close()
        self._end.close()


@pytest.fixture
def ends() -> Iterator[tuple[Line, Supervisor]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    supervisor = Supervisor(theirs)
    yield Line(ours), supervisor
    supervisor.close()
    ours.close()


@pytest.fixture
def supervisor(ends: tuple[Line, Supervisor]) -> Supervisor:
    return ends[1]


@pytest.fixture
def make(ends: tuple[Line, Supervisor], tmp_path: Path):
    return lambda **changes: Trial(assignment(tmp_path, **changes), ends[0])


LR = FloatDistribution(1e-4, 1.0, log=True)


def test_it_is_optunas_trial_and_knows_its_place(make, tmp_path):
    trial = make(attempt=3, rank=1, local_rank=1, world_size=4, seed=5, user_attrs={"old": 1})
    assert isinstance(trial, optuna.trial.BaseTrial)
    assert (trial.number, trial.attempt, trial.rank, trial.local_rank, trial.world_size) == (7, 3, 1, 1, 4)
    assert not trial.is_main
    assert trial.seed == 5
    assert trial.directory == tmp_path / "trial"
    assert trial.datetime_start.year == 2026
    assert trial.user_attrs == {"old": 1}
    assert (trial.study.study_name, trial.study.direction) == ("tests", "minimize")


def test_declared_parameters_need_no_message(make):
    trial = make(params={"lr": 0.1, "epochs": 20}, distributions={"lr": distribution_to_json(LR)})
    assert trial.params == {"lr": 0.1, "epochs": 20}
    assert trial.distributions == {"lr": LR}
    assert trial.suggest_float("lr", 1e-4, 1.0, log=True) == 0.1
    assert trial.suggest_int("epochs", 1, 100) == 20  # a constant
    with pytest.raises(ValueError, match="parameter 'lr' is FloatDistribution"):
        trial.suggest_float("lr", 1e-4, 2.0, log=True)
    with pytest.raises(ValueError, match="not IntDistribution"):
        trial.suggest_int("lr", 1, 2)


def test_a_suggestion_is_asked_once(make, supervisor):
    trial = make()
    supervisor.say(op="suggested", name="lr", value=0.25)
    assert trial.suggest_float("lr", 1e-4, 1.0, log=True) == 0.25
    assert supervisor.hear() == {"op": "suggest", "name": "lr", "distribution": distribution_to_json(LR)}
    assert trial.suggest_float("lr", 1e-4, 1.0, log=True) == 0.25
    assert trial.params == {"lr": 0.25}
    assert trial.distributions == {"lr": LR}
    with pytest.raises(ValueError, match="in this study"):
        trial.suggest_float("lr", 0.1, 1.0)


def test_choices_come_back_as_they_were_given(make, supervisor):
    trial = make()
    supervisor.say(op="suggested", name="shape", value=[3, 4])
    with pytest.warns(UserWarning, match="Choices for a categorical distribution"):
        assert trial.suggest_categorical("shape", [(1, 2), (3, 4)]) == (3, 4)
    supervisor.say(op="suggested", name="flag", value=None)
    assert trial.suggest_categorical("flag", ["a", None]) is None


def test_the_deprecated_names_still_work(make, supervisor):
    trial = make()
    for name in ("a", "b", "c"):
        supervisor.say(op="suggested", name=name, value=0.5)
    assert trial.suggest_uniform("a", 0, 1) == trial.suggest_loguniform("b", 0.1, 1) == 0.5
    assert trial.suggest_discrete_uniform("c", 0, 1, 0.5) == 0.5
    assert [json.loads(supervisor.hear()["distribution"])["attributes"]["step"] for _ in range(3)] == [None, None, 0.5]


def test_a_refused_suggestion_is_a_value_error(make, supervisor):
    trial = make()
    supervisor.say(op="refused", name="x", message="parameter 'x' was a float before")
    with pytest.raises(ValueError, match="was a float before"):
        trial.suggest_int("x", 1, 2)
    assert trial.params == {}


def test_reports_carry_more_metrics(make, supervisor):
    trial = make()
    trial.report(0.5, step=0, loss=1)
    trial.report(math.nan, step=2)
    assert supervisor.hear() == {"op": "report", "step": 0, "value": 0.5, "metrics": {"loss": 1.0}}
    assert math.isnan(supervisor.hear()["value"])


def test_a_second_report_of_a_step_is_ignored(make, supervisor):
    trial = make()
    trial.report(0.5, step=0)
    with pytest.warns(UserWarning, match="already reported"):
        trial.report(0.7, step=0)
    trial.report(0.9, step=1)
    assert [supervisor.hear()["value"] for _ in range(2)] == [0.5, 0.9]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda trial: trial.report("high", 0), TypeError),
        (lambda trial: trial.report(None, 0), TypeError),
        (lambda trial: trial.report(0.5, "first"), TypeError),
        (lambda trial: trial.report(0.5, -1), ValueError),
        (lambda trial: trial.report(0.5, 2**31), ValueError),
        (lambda trial: trial.report(0.5, 0, **{"a" * 513: 1.0}), ValueError),
        (lambda trial: trial.set_user_attr("a" * 513, 1), ValueError),
        (lambda trial: trial.set_user_attr("a\udcff", 1), ValueError),
        (lambda trial: trial.set_user_attr(5, 1), TypeError),
        (
            lambda trial: trial.set_user_attr("deep", functools.reduce(lambda inner, _: [inner], range(600), 1)),
            ValueError,
        ),
        (lambda trial: trial.set_constraint("a\udcff", 1.0), ValueError),
        (lambda trial: trial.set_constraint("a" * 510, 1.0), ValueError),
        (lambda trial: trial.report(0.5, 0, loss="low"), TypeError),
        (lambda trial: trial.set_constraint("c", "x"), TypeError),
        (lambda trial: trial.set_constraint("c", math.nan), ValueError),
        (lambda trial: trial.set_user_attr("a", object()), TypeError),
        (lambda trial: trial.suggest_float("x", 2, 1), ValueError),
    ],
)
def test_bad_arguments_are_refused_at_once(make, call, error):
    with pytest.raises(error):
        call(make())


def test_several_objectives_have_no_reports(make):
    with pytest.raises(NotImplementedError):
        make(directions=["minimize", "maximize"], n_objectives=2).report(0.5, step=0)


def test_should_prune_waits_only_where_the_pruner_decides(make, supervisor):
    trial = make(next_decision_step=4)
    assert trial.should_prune() is False  # nothing reported
    trial.report(0.5, step=3)
    assert trial.should_prune() is False  # no verdict was ever sent
    trial.report(0.5, step=4)
    supervisor.say(op="verdict", step=4, verdict="continue", next_step=8)
    assert trial.should_prune() is False
    trial.report(0.5, step=7)
    assert trial.should_prune() is False
    trial.report(0.5, step=9)
    supervisor.say(op="verdict", step=9, verdict="prune", next_step=None)
    assert trial.should_prune() is True
    assert trial.should_prune() is True


def test_without_a_pruner_it_never_waits(make):
    trial = make(next_decision_step=None)
    trial.report(0.5, step=10**6)
    assert trial.should_prune() is False


def test_a_verdict_of_an_earlier_step_moves_the_next_decision(make, supervisor):
    trial = make(next_decision_step=4)
    trial.report(0.5, step=4)
    trial.report(0.5, step=5)  # without asking about 4
    supervisor.say(op="verdict", step=4, verdict="continue", next_step=8)
    assert trial.should_prune() is False


def test_a_stop_is_heard_at_the_next_call_after_the_report_is_out(make, supervisor):
    trial = make(next_decision_step=None)
    supervisor.say(op="stop", reason="the study drains")
    with pytest.raises(TrialStopped, match="the study drains"):
        trial.report(0.5, step=1)
    assert supervisor.hear()["step"] == 1
    with pytest.raises(TrialStopped):
        trial.should_prune()
    with pytest.raises(TrialStopped):
        trial.suggest_float("x", 0, 1)
    assert not issubclass(TrialStopped, Exception)


def test_a_stop_ends_the_waiting(make, supervisor):
    trial = make(next_decision_step=0)
    trial.report(0.5, step=0)
    supervisor.say(op="stop", reason="enough")
    with pytest.raises(TrialStopped):
        trial.should_prune()


def test_a_gang_goes_on_to_the_step_that_was_agreed_on(make, supervisor):
    trial = make(next_decision_step=2, world_size=2)
    trial.report(0.5, step=1)
    supervisor.say(op="stop", reason="the study drains", after_step=2)
    assert trial.should_prune() is False
    trial.report(0.5, step=2)
    supervisor.say(op="verdict", step=2, verdict="continue", next_step=9)
    assert trial.should_prune() is False  # the verdict is waited for as ever
    with pytest.raises(TrialStopped, match="the study drains"):
        trial.report(0.5, step=3)


def test_a_supervisor_that_is_gone_stops_the_trial(make, supervisor):
    trial = make(next_decision_step=0)
    trial.report(0.5, step=0)
    supervisor.close()
    with pytest.raises(TrialStopped, match="the supervisor is gone"):
        trial.should_prune()


def test_one_thread_waits_while_others_report(make, supervisor):
    trial = make(next_decision_step=0)
    trial.report(0.5, step=0)
    answers: list[bool] = []
    waiting = [threading.Thread(target=lambda: answers.append(trial.should_prune())) for _ in range(2)]
    for thread in waiting:
        thread.start()
    for _ in range(200):
        trial.set_user_attr("beat", time.monotonic())
    assert answers == []
    supervisor.say(op="verdict", step=0, verdict="prune", next_step=None)
    for thread in waiting:
        thread.join(5)
    assert answers == [True, True]
    assert [supervisor.hear()["op"] for _ in range(201)].count("user_attr") == 200


def test_attributes_and_constraints(make, supervisor):
    trial = make()
    trial.set_user_attr("note", {"a": [1]})
    trial.set_constraint("size", 2)
    with pytest.warns(UserWarning, match="already set"):
        trial.set_constraint("size", 3)
    assert supervisor.hear() == {"op": "user_attr", "key": "note", "value": {"a": [1]}}
    assert supervisor.hear() == {"op": "constraint", "key": "size", "value": 2.0}
    assert trial.user_attrs == {"note": {"a": [1]}}
    assert trial.constraints == {"size": 2.0}


def test_only_the_main_rank_saves_and_all_load(make, supervisor, tmp_path):
    make(rank=1).save({"x": 1}, step=3)
    assert make().load({"x": 0}) == 0
    assert supervisor.hear() == {"op": "resumed", "step": 0, "path": ""}
    make().save({"x": 1}, step=3)
    assert supervisor.hear()["op"] == "saved"
    other, state = make(rank=1), {"x": 0}
    assert other.load(state) == other.resumed_step == 4
    assert state == {"x": 1}


def test_a_step_may_be_numpys(make, supervisor):
    numpy = pytest.importorskip("numpy")
    make().save({"x": 1}, step=numpy.int64(3))
    assert supervisor.hear()["step"] == 3


def test_a_save_is_told_even_when_the_trial_is_to_stop(make, supervisor):
    trial = make()
    supervisor.say(op="stop", reason="enough")
    trial.save({"x": 1}, step=3)
    assert supervisor.hear()["step"] == 3


def test_the_device_is_a_cpu_without_gpus(make):
    assert str(make().device) == "cpu"


def test_the_first_line_may_be_long(ends):
    line, supervisor = ends
    sending = threading.Thread(target=supervisor.say, kwargs={"op": "assignment", "blob": "x" * (3 << 20)})
    sending.start()
    assert len(line.assignment()["blob"]) == 3 << 20
    sending.join()
    supervisor.close()
    with pytest.raises(EOFError):
        line.assignment()


# ------------------------------------------------------------------------------------------ stand-in


def test_outside_a_search_there_is_a_stand_in(capsys):
    trial = hpsearch.current(lr=0.5)
    assert isinstance(trial, StandIn)
    assert trial.suggest_float("lr", 1e-4, 1.0, log=True) == 0.5
    assert trial.suggest_float("momentum", 0.0, 1.0) == 0.5
    assert trial.suggest_float("decay", 1e-4, 1.0, log=True) == pytest.approx(1e-2)
    assert trial.suggest_float("dropout", 0.0, 0.9, step=0.1) == pytest.approx(0.4)
    assert trial.suggest_int("width", 16, 256, log=True) == 64
    assert trial.suggest_int("depth", 1, 9, step=2) == 5
    assert trial.suggest_categorical("optimizer", ["sgd", "adamw"]) == "sgd"
    assert trial.params["depth"] == 5
    assert trial.distributions["optimizer"] == CategoricalDistribution(["sgd", "adamw"])
    trial.report(0.9, step=3, loss=0.125)
    assert trial.should_prune() is False
    trial.save({"x": 1}, step=3)
    assert trial.load({"x": 0}) == 0
    trial.set_user_attr("a", 1)
    assert capsys.readouterr().out == "step 3: 0.9 loss=0.125\n"


def test_inside_a_search_it_is_the_trial(make, monkeypatch):
    monkeypatch.setattr(trials, "_current", None)
    trial = make()
    trials.enter(trial)
    assert hpsearch.current(lr=3) is trial


def verdict(step, verdict="continue", next_step=None):
    return {"op": "verdict", "step": step, "verdict": verdict, "next_step": next_step}


def test_a_rank_that_is_behind_gets_the_verdict_of_its_own_step(make, supervisor):
    trial = make(rank=1, world_size=2, next_decision_step=0)
    supervisor.say(**verdict(0, next_step=2))
    supervisor.say(**verdict(2, "prune"))  # rank 0 is ahead
    answers = []
    for step in range(3):
        trial.report(0.0, step)
        answers.append(trial.should_prune())
    assert answers == [False, False, True]


def test_a_rank_that_is_ahead_waits_for_rank_0(make, supervisor):
    trial = make(rank=1, world_size=2, next_decision_step=0)
    trial.report(0.0, 0)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(trial.should_prune()))
    waiting.start()
    waiting.join(0.1)
    assert answers == []
    supervisor.say(**verdict(0, "prune"))
    waiting.join(5)
    assert answers == [True]


def test_only_rank_0_speaks_for_the_gang(make, supervisor):
    trial = make(rank=1, world_size=2)
    trial.report(1.0, 0)
    trial.set_user_attr("a", 1)
    trial.set_constraint("c", 0.0)
    asking = threading.Thread(target=trial.suggest_float, args=("lr", 0.0, 1.0))
    asking.start()
    assert supervisor.hear()["op"] == "suggest"  # nothing came before it
    supervisor.say(op="suggested", name="lr", value=0.5)
    asking.join(5)


def test_a_rank_that_does_not_report_is_told_so(make, supervisor):
    trial = make(rank=1, world_size=2, next_decision_step=0)
    assert trial.should_prune() is False
    supervisor.say(**verdict(0, "prune"))
    with pytest.raises(RuntimeError, match="call report on every rank"):
        trial.should_prune()


def test_a_rank_alone_wraps_nothing(make):
    model = torch.nn.Linear(1, 1)
    assert make().wrap(model) is model
