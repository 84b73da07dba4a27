"""The training jobs that ship: each runs by hand, in little time, and does what its study file expects of it."""

import math
import runpy
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest

ROOT = Path(__file__).parents[2]


def load(job: str) -> ModuleType:
    module = ModuleType(job)
    module.__dict__.update(runpy.run_path(str(ROOT / "trials" / f"{job}.py"), run_name=job))
    return module


class Recording:
    """As much of a trial as the jobs use; ``prune_at`` is the step at which the verdict is to prune."""

    def __init__(self, params: dict[str, Any], *, start: int = 0, prune_at: int | None = None) -> None:
        self.params, self.number, self.rank, self.world_size = params, 0, 0, 1
        self.start, self.prune_at = start, prune_at
        self.reports: dict[int, float] = {}
        self.saved: list[int] = []

    @property
    def device(self) -> Any:
        import torch

        return torch.device("cpu")

    def wrap(self, model: Any) -> Any:
        return model

    def load(self, state: dict[str, Any]) -> int:
        assert all(hasattr(part, "load_state_dict") for part in state.values())
        return self.start

    def save(self, state: dict[str, Any], step: int) -> None:
        self.saved.append(step)

    def report(self, value: float, step: int, **metrics: float) -> None:
        assert step not in self.reports
        self.reports[step] = value

    def should_prune(self) -> bool:
        return self.prune_at in self.reports


GPT = {
    "length": 16, "width": 16, "depth": 1, "n_heads": 2, "dropout": 0.0, "lr": 1e-2, "weight_decay": 0.01,
    "batch_size": 8, "rounds": 3, "steps_a_round": 10,
}  # fmt: skip
DIGITS = {"lr": 0.1, "width": 64, "batch_size": 64, "optimizer": "sgd", "momentum": 0.9, "epochs": 12}
BOOSTING = {"learning_rate": 0.3, "max_depth": 2, "min_samples_leaf": 5, "subsample": 0.8}


def test_digits_learns_and_saves_before_it_reports():
    trial = Recording(DIGITS)
    accuracy = load("digits").train(trial)
    assert accuracy >= 0.96
    assert trial.reports[11] == accuracy
    assert trial.saved == list(trial.reports) == list(range(12))


def test_tiny_gpt_learns_and_goes_on_where_an_attempt_died():
    trial = Recording(GPT)
    loss = load("tiny_gpt").train(trial)
    assert trial.reports[2] == loss < trial.reports[0] < math.log(100)
    assert trial.saved == list(trial.reports) == [0, 1, 2]
    again = Recording(GPT, start=2)
    load("tiny_gpt").train(again)
    assert list(again.reports) == [2]


def test_digits_goes_on_where_an_attempt_died():
    trial = Recording({**DIGITS, "optimizer": "adamw"}, start=10)
    load("digits").train(trial)
    assert list(trial.reports) == [10, 11]


def test_digits_that_is_over_already_returns_its_last_accuracy():
    trial = Recording(DIGITS, start=12)
    assert 0 <= load("digits").train(trial) <= 1


@pytest.mark.parametrize(
    ("job", "params"), [("digits", DIGITS), ("boosting", {**BOOSTING, "trees_a_step": 5, "max_trees": 30})]
)
def test_stops_at_the_verdict(job, params):
    steps = Recording(params)
    load(job).train(steps)
    second = list(steps.reports)[1]
    with pytest.raises(optuna.TrialPruned):
        load(job).train(trial := Recording(params, prune_at=second))
    assert list(trial.reports)[-1] == second


def test_boosting_reports_by_number_of_trees():
    trial = Recording({**BOOSTING, "trees_a_step": 10, "max_trees": 40})
    loss = load("boosting").train(trial)
    assert list(trial.reports) == [10, 20, 30, 40]
    assert math.isfinite(loss)
    assert loss < trial.reports[10]


def test_quadratic_is_an_ordinary_optuna_objective():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(load("quadratic").objective, n_trials=20)
    assert study.best_value >= 0
    assert {trial.params["shape"] for trial in study.trials} == {"parabola", "hyperbola"}


@pytest.mark.parametrize("job", ["digits", "boosting", "quadratic"])
def test_a_job_runs_by_plain_python(job, capsys):
    runpy.run_path(str(ROOT / "trials" / f"{job}.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1].startswith(("accuracy", "log loss", "best"))
