"""The mirror on its own: what it answers from memory, and what it queues."""

import pickle
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.coordinator.proposals import Proposals
from hpsearch.events import Cause, Ending
from hpsearch.space import Parameter, Space
from hpsearch.storage.mirror import Mirror
from hpsearch.storage.reading import LoadedStudy
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


class Unread(list[FrozenTrial]):
    """A study's trials, where going through them fails."""

    def __iter__(self) -> NoReturn:
        raise AssertionError("all trials were read")

    def copy(self) -> NoReturn:
        raise AssertionError("all trials were copied")


@pytest.mark.parametrize(
    "pruner",
    [
        MedianPruner(n_startup_trials=1),
        SuccessiveHalvingPruner(),
        HyperbandPruner(max_resource=9),
        HyperbandPruner(),
        NopPruner(),
    ],
    ids=lambda pruner: type(pruner).__name__,
)
def test_no_report_and_no_trial_goes_through_all_trials(study, pruner):
    study.pruner = pruner
    proposals = Proposals(study, Space(declared=(Parameter(name="lr", distribution=FloatDistribution(0, 1)),)))

    def whole_trial() -> None:
        number = proposals.ask().number
        proposals.set_constraint(number, "memory", -1.0)
        for step in range(9):
            proposals.report(number, step, 0.5)
            proposals.judge(number, step)
            proposals.next_decision_step(number, step)
        proposals.tell(number, Ending(cause=Cause.RETURNED, reason="", values=(0.5,)))

    for _ in range(3):
        whole_trial()  # the first question of a pruner sorts what there is
    mirror = study._storage
    known, index = mirror._studies[study._study_id], mirror._indexes[study._study_id]
    known.trials = index._trials = Unread(known.trials)
    with pytest.raises(AssertionError, match="all trials were"):
        study.get_trials(deepcopy=False)
    for _ in range(3):
        whole_trial()
    proposals.requeue(proposals.ask().number)
    assert (proposals.n_unfinished, proposals.best.number) == (1, 0)
    assert [proposal.number for proposal in proposals.leftovers()] == []
    assert proposals.ask().number == 6


def test_a_withdrawn_trial_is_counted_no_more(study):
    study.tell(study.ask(), 1.0)
    trial = study.ask()
    assert study._storage.withdraw_trial(trial._trial_id)
    assert study._storage.get_n_trials(study._study_id) == 1
    assert study.get_trials(states=(TrialState.RUNNING,)) == []
    assert study.ask().number == 1


def test_the_best_trial_is_the_best_that_keeps_to_its_constraints(study):
    for value, constraint in ((3.0, -1.0), (1.0, 0.5), (2.0, 0.0), (2.0, -1.0), (4.0, None)):
        trial = study.ask()
        if constraint is not None:
            trial.set_constraint("memory", constraint)
        study.tell(trial, value)
    best = study._storage.get_best_feasible_trial(study._study_id)
    assert best.number == study.best_trial.number == 2


def test_where_no_trial_keeps_to_its_constraints_there_is_no_best(study):
    assert study._storage.get_best_feasible_trial(study._study_id) is None
    trial = study.ask()
    trial.set_constraint("memory", 1.0)
    study.tell(trial, 1.0)
    assert study._storage.get_best_feasible_trial(study._study_id) is None


def test_a_snapshot_sorts_again_what_pruners_ask_for(study):
    study.pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    proposals = Proposals(study, Space())
    number = proposals.ask().number
    proposals.report(number, 1, 0.5)
    proposals.judge(number, 1)
    proposals.tell(number, Ending(cause=Cause.RETURNED, reason="", values=(0.5,)))
    snapshot = pickle.loads(pickle.dumps(study._storage))
    with snapshot.indexed(study._study_id) as index:
        assert list(index.at_rung(0, 0, None)) == [0.5]
        assert index.reported(1) == ([0.5], 0)
        assert index.longest == 1


def test_what_was_loaded_keeps_its_rows(sink):
    trials = [create_trial(value=float(number)) for number in range(3)]
    for number, trial in enumerate(trials):
        trial.number, trial._trial_id = number, 70 + number
    loaded = LoadedStudy(7, "digits", [StudyDirection.MINIMIZE], {}, {}, trials)
    mirror = Mirror(sink)
    study_id = mirror.restore(loaded)
    assert [trial._trial_id for trial in loaded.trials] == [70, 71, 72]
    assert [trial._trial_id for trial in mirror.get_all_trials(study_id)] == [0, 1, 2]
