"""Samplers and pruners as they are built, and next_decision_step against Optuna's own pruners."""

import copy
import math
import random
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import (
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)

from hpsearch.errors import StudyFileError
from hpsearch.search import _brackets, build_pruner, build_sampler, n_proposals, next_decision_step
from hpsearch.space import Parameter, Space
from hpsearch.spec import Component
from hpsearch.spec.components import PRUNERS, SAMPLERS

SPACE = Space(
    declared=(
        Parameter(name="a", distribution=IntDistribution(0, 6, step=3)),
        Parameter(name="b", distribution=FloatDistribution(0.0, 0.5, step=0.1)),
        Parameter(name="c", distribution=CategoricalDistribution(("x", "y"))),
        Parameter(name="d", distribution=FloatDistribution(2.0, 2.0)),
    )
)
ARGUMENTS = {
    "partial_fixed": {"fixed_params": {"a": 3}, "base_sampler": {"tpe": {}}},
    "percentile": {"percentile": 25.0},
    "hyperband": {"max_resource": 27},
    "patient": {"wrapped_pruner": {"median": {}}, "patience": 2},
    "threshold": {"upper": 3.0},
}


# ------------------------------------------------------------------------------------------- building


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_sampler_is_built_silently_and_proposes(name):
    component = Component(name=name, arguments=ARGUMENTS.get(name, {}))
    with warnings.catch_warnings():
        if name != "gp":  # builds torch's first tensors
            warnings.simplefilter("error")
        sampler = build_sampler(component, seed=3, space=SPACE)
    study = optuna.create_study(sampler=sampler)
    trial = study.ask({parameter.name: parameter.distribution for parameter in SPACE})
    assert trial.params.keys() == {"a", "b", "c", "d"}


@pytest.mark.parametrize("name", PRUNERS)
def test_each_pruner_is_built_silently(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner = build_pruner(Component(name=name, arguments=ARGUMENTS.get(name, {})))
    assert type(pruner).__name__ == PRUNERS[name].path.partition(":")[2]


def test_a_grid_is_made_of_the_space():
    sampler = build_sampler(Component(name="grid"), seed=3, space=SPACE)
    assert n_proposals(sampler) == 3 * 6 * 2
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_int("a", 0, 6, step=3) + trial.suggest_float("b", 0, 0.5, step=0.1))
    assert len(study.trials) == 36


def test_a_grid_of_its_own():
    component = Component(name="grid", arguments={"search_space": {"z": [1, 2, 3]}})
    assert n_proposals(build_sampler(component, seed=None, space=Space())) == 3


def test_most_samplers_never_end():
    assert n_proposals(optuna.samplers.TPESampler()) is None
    assert n_proposals(optuna.samplers.BruteForceSampler()) is None


def test_a_grid_over_a_continuous_range_is_refused():
    space = Space(declared=(Parameter(name="lr", distribution=FloatDistribution(0.0, 1.0)),))
    with pytest.raises(StudyFileError, match="sampler: grid needs a step for the parameter lr"):
        build_sampler(Component(name="grid"), seed=None, space=space)


def test_the_same_seed_proposes_the_same():
    def values(seed: int) -> list[float]:
        study = optuna.create_study(sampler=build_sampler(Component(name="tpe"), seed=seed, space=Space()))
        return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]

    assert values(3) == values(3) != values(4)


OWN = """\
import optuna


class Mine(optuna.samplers.RandomSampler):
    def __init__(self, flavour, seed=None):
        super().__init__(seed)
        self.flavour, self.seed = flavour, seed


class Strict(optuna.pruners.ThresholdPruner):
    def __init__(self):
        super().__init__(upper=0)


class Nothing:
    pass
"""


@pytest.fixture
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_classes_b.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_own")
def test_anybodys_own_class():
    component = Component(name="own_classes_b:Mine", arguments={"flavour": "sweet"})
    sampler = build_sampler(component, seed=3, space=Space())
    assert (sampler.flavour, sampler.seed) == ("sweet", 3)
    pruner = build_pruner(Component(name="own_classes_b:Strict"))
    assert next_decision_step(pruner, "study", 0, 4) == 5


@pytest.mark.usefixtures("_own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_classes_b:Mine", "TypeError: .*missing 1 required positional argument: 'flavour'"),
        ("own_classes_b:Nothing", " is no BaseSampler"),
        ("own_classes_b:Nobody", "AttributeError: module 'own_classes_b' has no attribute 'Nobody'"),
        ("own_classes_c:Mine", "ModuleNotFoundError: No module named 'own_classes_c'"),
    ],
)
def test_a_class_that_cannot_be_made_is_refused(name, message):
    with pytest.raises(StudyFileError, match=f"^sampler: {name}.*{message}"):
        build_sampler(Component(name=name), seed=None, space=Space())


# ------------------------------------------------------------------------------------- decision steps

EXACT = {
    "asha": lambda: SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    "asha of 2": lambda: SuccessiveHalvingPruner(min_resource=4, reduction_factor=2, min_early_stopping_rate=1),
    "hyperband": lambda: HyperbandPruner(min_resource=1, max_resource=27, reduction_factor=3),
    "hyperband of 2": lambda: HyperbandPruner(min_resource=2, max_resource=17, reduction_factor=2),
    "median": lambda: MedianPruner(n_startup_trials=2),
    "median with warmup": lambda: MedianPruner(n_startup_trials=2, n_warmup_steps=5, interval_steps=4),
    "percentile": lambda: PercentilePruner(25.0, n_startup_trials=2, n_warmup_steps=3, interval_steps=7),
    "threshold": lambda: ThresholdPruner(lower=0.0, n_warmup_steps=2, interval_steps=3),
    "nop": lambda: NopPruner(),
}
CAUTIOUS = {
    "asha, auto": lambda: SuccessiveHalvingPruner(),
    "hyperband, auto": lambda: HyperbandPruner(),
    "patient": lambda: PatientPruner(MedianPruner(n_startup_trials=2), patience=2),
    "wilcoxon": lambda: WilcoxonPruner(),
}
N_STEPS = 40
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def judged(study: optuna.Study, trial: optuna.Trial, step: int, value: float) -> bool:
    """Report and ask the pruner, as a coordinator does."""
    trial.report(value, step)
    return study.pruner.prune(study, study._storage.get_trial(trial._trial_id))


def study_with_history(pruner: optuna.pruners.BasePruner, n_trials: int = 40) -> optuna.Study:
    """Trials that all went the same way, 10 a step, and were never pruned."""
    study = optuna.create_study(study_name="history", pruner=pruner, direction="maximize")
    for _ in range(n_trials):
        trial = study.ask()
        for step in range(N_STEPS):
            assert not judged(study, trial, step, 10.0 * step)
        study.tell(trial, 10.0 * N_STEPS)
    return study


@pytest.mark.parametrize("pruner", EXACT)
def test_the_next_decision_is_exactly_where_a_trial_that_turns_bad_is_pruned(pruner):
    history = study_with_history(EXACT[pruner]())
    for last_good in range(-1, 30):
        study = copy.deepcopy(history)
        trial = study.ask()
        for step in range(last_good + 1):
            # better than all others up to the last good step, worse than all past it
            assert not judged(study, trial, step, 10.0 * last_good + 5)
        expected = next_decision_step(study.pruner, study.study_name, trial.number, last_good)
        bad = range(last_good + 1, N_STEPS)
        pruned_at = next((step for step in bad if judged(study, trial, step, -1000.0 + step)), None)
        assert pruned_at == (expected if expected is not None and expected < N_STEPS else None)


@pytest.mark.parametrize("pruner", [*EXACT, *CAUTIOUS])
def test_no_pruner_ever_prunes_at_a_step_that_was_skipped(pruner):
    """Many trials with steps and values by chance: where no verdict is awaited, none would have been prune."""
    chance = random.Random(pruner)
    make = {**EXACT, **CAUTIOUS}[pruner]
    n_pruned = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Wilcoxon dislikes NaN, numpy all-NaN
        for _ in range(6):
            study = optuna.create_study(pruner=make(), direction=chance.choice(["minimize", "maximize"]))
            for _ in range(40):
                n_pruned += walk(study, chance)
    assert (n_pruned > 0) == (pruner != "nop"), "the test tests nothing"


def walk(study: optuna.Study, chance: random.Random) -> bool:
    trial = study.ask()
    pace = chance.choice([1, 1, 1, 2, 5, 9])
    decision = next_decision_step(study.pruner, study.study_name, trial.number, -1)
    step = chance.randrange(pace) if chance.random() < 0.5 else 0
    while step < N_STEPS:
        value = math.nan if chance.random() < 0.03 else chance.gauss(0, 1)
        prune = judged(study, trial, step, value)
        if decision is None or step < decision:
            assert not prune, f"pruned at step {step}, though the next decision was to be at {decision}"
        if prune:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return True
        decision = next_decision_step(study.pruner, study.study_name, trial.number, step)
        assert decision is None or decision > step
        step += chance.randint(1, pace)
    study.tell(trial, chance.gauss(0, 1))
    return False


@pytest.mark.parametrize("least", [1, 2, 5])
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("most", [5, 27, 100])
def test_the_bracket_is_the_one_that_optuna_computes(least, factor, most):
    pruner = HyperbandPruner(min_resource=least, max_resource=most, reduction_factor=factor)
    study = optuna.create_study(study_name=f"{least} {factor} {most}", pruner=pruner)
    trials = [study.ask() for _ in range(40)]
    brackets = _brackets(pruner, study.study_name)
    ours = [brackets(trial.number) for trial in trials]
    pruner._try_initialization(study)
    frozen = study.get_trials(deepcopy=False)
    assert ours == [pruner._get_bracket_id(study, trial) for trial in frozen]
    assert len(set(ours)) > 1 or pruner._n_brackets == 1


def test_hyperband_with_auto_waits_until_it_knows():
    pruner = HyperbandPruner()
    study = optuna.create_study(study_name="auto", pruner=pruner)
    assert next_decision_step(pruner, "auto", 1, 5) == 6
    trial = study.ask()
    for step in range(27):
        judged(study, trial, step, 1.0)
    study.tell(trial, 1.0)
    assert next_decision_step(pruner, "auto", 1, 5) == 6
    assert not judged(study, study.ask(), 0, 1.0)
    assert next_decision_step(pruner, "auto", 1, 10) == 27


def test_a_subclass_is_not_trusted_to_prune_like_its_parent():
    class Hasty(MedianPruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return True

    assert next_decision_step(Hasty(n_warmup_steps=100), "study", 0, 3) == 4


def test_the_study_of_the_design():
    pruner = build_pruner(Component(name="asha", arguments={"max_resource": 20, "reduction_factor": 3}))
    steps, step = [], -1
    while (following := next_decision_step(pruner, "digits", 0, step)) is not None and following <= 20:
        steps.append(step := following)
    assert steps == [1, 3, 9]
