"""What others put into a study, and what a search makes of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import GridSampler
from optuna.trial import TrialState
from storage_desk import Desk

from hpsearch.coordinator.proposals import Proposals
from hpsearch.events import Cause, Ending
from hpsearch.space import Parameter, Space

OPTIMIZER = Parameter(name="optimizer", distribution=CategoricalDistribution(["sgd", "adam", "lion"]))
RATE = Parameter(name="lr", distribution=FloatDistribution(0, 1))
DONE = Ending(cause=Cause.RETURNED, reason="", values=(0.5,))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(f"sqlite:///{tmp_path / 'studies.db'}")
    yield desk
    desk.close()


@pytest.mark.parametrize("fixed", [{"optimizer": "sdg"}, {"lr": "fast"}, {"lr": None}, {"lr": [1]}])
@pytest.mark.parametrize("left_running", [False, True])
def test_a_trial_enqueued_with_what_its_parameter_cannot_take_fails_alone(
    desk: Desk, fixed: dict[str, object], left_running: bool
) -> None:
    store = desk.open()
    store.study.enqueue_trial(fixed)
    if left_running:
        store.study.ask()
    proposals = Proposals(store.study, Space(declared=(OPTIMIZER, RATE)))
    failed: list[tuple[int, str]] = []
    proposals.on_unusable = lambda number, reason: failed.append((number, reason))
    assert [proposal.number for proposal in proposals.leftovers()] == []
    assert proposals.ask().number == 1
    ((number, reason),) = failed
    assert number == 0
    assert reason.startswith(f"enqueued with an impossible {next(iter(fixed))}: ")
    assert [trial.state for trial in store.study.trials] == [TrialState.FAIL, TrialState.RUNNING]


def test_a_trial_that_is_no_point_of_the_grid_may_end_when_one_point_is_left(desk: Desk) -> None:
    store = desk.open(sampler=GridSampler({"optimizer": ["sgd", "adam", "lion"]}))
    proposals = Proposals(store.study, Space(declared=(OPTIMIZER,)))
    for _ in range(2):
        proposals.tell(proposals.ask().number, DONE)
    store.study.enqueue_trial({"optimizer": "sgd"})
    proposals.tell(proposals.ask().number, DONE)
    assert not proposals.exhausted
    proposals.tell(proposals.ask().number, DONE)
    assert proposals.exhausted
    points = {trial.params["optimizer"] for trial in store.study.trials if trial.number != 2}
    assert points == {"sgd", "adam", "lion"}
