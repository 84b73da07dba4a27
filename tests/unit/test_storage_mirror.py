"""The mirror on its own: what it answers from memory, and what it queues."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from hpsearch.storage.mirror import Mirror
from hpsearch.storage.rows import Operation


class Recorder:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def put(self, operations: Sequence[Operation], *, urgent: bool = True) -> None:
        self.operations += operations

    def run(self, work: Callable[[Any], Any]) -> Any:
        return 7  # the row of a new study

    def bind(self, *, study: tuple[int, int] | None = None, trials: dict[int, int] | None = None) -> None:
        pass

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture
def sink() -> Recorder:
    return Recorder()


@pytest.fixture
def study(sink: Recorder) -> optuna.Study:
    mirror = Mirror(sink)
    mirror.create_new_study([StudyDirection.MINIMIZE], "digits")
    return optuna.Study("digits", mirror, sampler=optuna.samplers.RandomSampler(seed=1))


def test_an_adopted_trial_gets_the_next_number_and_is_asked_next_and_nothing_is_written(study, sink):
    study.ask({"lr": FloatDistribution(0, 1)})
    queued = list(sink.operations)
    foreign = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"lr": 0.25}})
    foreign._trial_id, foreign.number = 99, 50
    adopted = study._storage.adopt(study._study_id, foreign)
    assert (adopted.number, adopted._trial_id, adopted.state) == (1, 1, TrialState.WAITING)
    assert sink.operations == queued
    assert (foreign._trial_id, foreign.number) == (99, 50)
    trial = study.ask({"lr": FloatDistribution(0, 1)})
    assert (trial.number, trial.params) == (1, {"lr": 0.25})


def test_an_adopted_trials_distributions_bind_later_trials(study):
    study._storage.adopt(
        study._study_id, create_trial(value=1.0, params={"n": 3}, distributions={"n": IntDistribution(1, 9)})
    )
    with pytest.raises(ValueError, match="distribution"):
        study.ask({"n": FloatDistribution(1, 9)})
    assert study.best_trial.number == 0


def test_nothing_is_adopted_into_a_study_that_is_not_there(study):
    with pytest.raises(KeyError):
        study._storage.adopt(study._study_id + 1, create_trial(state=TrialState.WAITING))
