"""Samplers and pruners: all of Optuna's by short name, and anybody's own."""

import inspect
import warnings
from pathlib import Path

import optuna
import pytest
from spec_files import BASE, TRAIN, loaded, problems

from hpsearch.errors import StudyFileError
from hpsearch.spec import Component
from hpsearch.spec.arguments import argument_types
from hpsearch.spec.components import PRUNERS, SAMPLERS, load_class, make


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TRAIN)


@pytest.mark.parametrize(("catalog", "module"), [(SAMPLERS, optuna.samplers), (PRUNERS, optuna.pruners)])
def test_all_of_optunas_have_a_short_name(catalog, module):
    classes = {getattr(module, name) for name in module.__all__ if inspect.isclass(getattr(module, name))}
    abstract = {cls for cls in classes if inspect.isabstract(cls)}
    assert {load_class(kind.path) for kind in catalog.values()} == classes - abstract


@pytest.mark.parametrize("kind", [*SAMPLERS.values(), *PRUNERS.values()], ids=lambda kind: kind.path)
def test_what_is_said_of_a_component_is_about_arguments_it_has(kind):
    own, _ = argument_types(kind.path, ())
    ours = {"max_resource"} if kind is PRUNERS["asha"] else set()
    named = {*kind.left_out, *kind.renamed.values(), *kind.types, *kind.defaults, *kind.required, *kind.derived}
    assert named <= own.keys() | ours
    assert not kind.renamed.keys() & own.keys()


GOOD = {
    "sampler: {tpe: {n_startup_trials: 5, group: true, multivariate: true}}": {
        "n_startup_trials": 5,
        "group": True,
        "multivariate": True,
    },
    "sampler: {tpe: {seed: null}}": {"seed": None},
    "sampler: {tpe: {prior_weight: 2}}": {"prior_weight": 2.0},
    "sampler: {tpe: }": {},
    "sampler: random": {},
    "sampler: {cmaes: {with_margin: true, popsize: 8, independent_sampler: {random: {seed: 3}}}}": {
        "with_margin": True,
        "popsize": 8,
        "independent_sampler": {"random": {"seed": 3}},
    },
    "sampler: {gp: {deterministic_objective: true}}": {"deterministic_objective": True},
    "sampler: {nsgaii: {population_size: 10, crossover: {sbx: {eta: 2}}, mutation: polynomial}}": {
        "population_size": 10,
        "crossover": {"sbx": {"eta": 2.0}},
        "mutation": {"polynomial": {}},
    },
    "sampler: {nsgaiii: {reference_points: [[1, 0], [0, 1]]}}": {"reference_points": [[1, 0], [0, 1]]},
    "sampler: {qmc: {qmc_type: halton, scramble: true}}": {"qmc_type": "halton", "scramble": True},
    "sampler: brute_force": {},
    "sampler: {grid: {search_space: {a: [1, 2], b: [x]}}}": {"search_space": {"a": [1, 2], "b": ["x"]}},
    "sampler: {partial_fixed: {fixed_params: {a: 1}, base_sampler: tpe}}": {
        "fixed_params": {"a": 1},
        "base_sampler": {"tpe": {}},
    },
    "pruner: none": {},
    "pruner: {median: {n_warmup_steps: 3, n_min_trials: 2}}": {"n_warmup_steps": 3, "n_min_trials": 2},
    "pruner: {percentile: {percentile: 25}}": {"percentile": 25.0},
    "pruner: asha": {},
    "pruner: {asha: {min_resource: 2, max_resource: 20}}": {"min_resource": 2, "max_resource": 20},
    "pruner: {successive_halving: {min_resource: auto}}": {"min_resource": "auto"},
    "pruner: {hyperband: {max_resource: 27}}": {"max_resource": 27},
    "pruner: {patient: {wrapped: {asha: {min_resource: 2}}, patience: 3}}": {
        "wrapped_pruner": {"asha": {"min_resource": 2}},
        "patience": 3,
    },
    "pruner: {patient: {wrapped_pruner: null, patience: 3}}": {"wrapped_pruner": None, "patience": 3},
    "pruner: {threshold: {upper: 3}}": {"upper": 3.0},
    "pruner: {wilcoxon: {p_threshold: 0.2}}": {"p_threshold": 0.2},
}


@pytest.mark.parametrize("text", GOOD)
def test_a_component_is_read_without_a_warning(text):
    key = text.partition(":")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        component = getattr(loaded(text), key)
    assert component.arguments == GOOD[text]
    assert {type(value) for value in component.arguments.values()} == {type(value) for value in GOOD[text].values()}


BAD = {
    "sampler: {tpe: {group: 1}}": "sampler.tpe.group: must be true or false (got 1)",
    "sampler: {tpe: {n_startup_trials: 1.5}}": "sampler.tpe.n_startup_trials: must be a whole number (got 1.5)",
    "sampler: {tpe: {n_startup_trials: true}}": "sampler.tpe.n_startup_trials: must be a whole number (got true)",
    "sampler: {tpe: {seed: -1}}": "sampler.tpe.seed: must be from 0 to 4294967295 (got -1)",
    "sampler: {tpe: {multivariate: false, group: true}}": "sampler.tpe: tpe: ``group`` option can only be enabled",
    "sampler: {qmc: {qmc_type: sobel}}": "sampler.qmc: qmc: The `qmc_type='sobel'` is invalid",
    "sampler: {nsgaii: {population_size: 2, crossover: undx}}": "sampler.nsgaii: nsgaii: Using UNDXCrossover",
    "sampler: {nsgaii: {crossover: xbs}}": "sampler.nsgaii.crossover: unknown crossover 'xbs'",
    "sampler: {nsgaii: {after_trial_strategy: x}}": "sampler.nsgaii.after_trial_strategy: takes a function",
    "sampler: {cmaes: {source_trials: []}}": "sampler.cmaes.source_trials: takes trials of another study",
    "sampler: {cmaes: {lr_adapt: true, with_margin: true}}": "sampler.cmaes: cmaes: It is prohibited",
    "sampler: {nsgaiii: {reference_points: [[1, 0], [0]]}}": "sampler.nsgaiii.reference_points: must be a list of",
    "sampler: {nsgaiii: {reference_points: [[1, x]]}}": "sampler.nsgaiii.reference_points: has something in it",
    "sampler: {grid: {search_space: 3}}": "sampler.grid.search_space: must be a mapping of parameters (got 3)",
    "sampler: {grid: {search_space: {a: 3}}}": "sampler.grid.search_space.a: must be a list of values (got 3)",
    "sampler: {partial_fixed: {fixed_params: {a: 1}}}": "sampler.partial_fixed: partial_fixed needs base_sampler",
    "pruner: {threshold: {}}": "pruner.threshold: threshold: Either lower or upper must be specified.",
    "pruner: {threshold: {lower: 2, upper: 1}}": "pruner.threshold: threshold: lower should be smaller than upper.",
    "pruner: {wilcoxon: {p_threshold: 2}}": "pruner.wilcoxon: wilcoxon: p_threshold must be between 0 and 1",
    "pruner: {successive_halving: {min_resource: 3x}}": "pruner.successive_halving: successive_halving: The value of",
    "pruner: {asha: {reduction_factor: 1}}": "pruner.asha.reduction_factor: must be from 2 to 1000000 (got 1)",
    "pruner: {asha: {min_resource: 2, max_resource: 1}}": "pruner.asha: max_resource must be at least min_resource (2)",
    "pruner: {patient: {wrapped: 3, patience: 1}}": "pruner.patient.wrapped: must be one wrapped_pruner such as none",
    "pruner: {patient: {wrapped: {patient: {patience: -1}}, patience: 1}}": (
        "pruner.patient.wrapped.patient.patience: must be at least 0 (got -1)"
    ),
}


@pytest.mark.parametrize("text", BAD)
def test_a_component_is_refused(text):
    lines = problems(f"{BASE}{text}\n")
    assert any(line.split(": ", 1)[1].startswith(BAD[text]) for line in lines), lines


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("hpsearch.spec.arguments.importable", lambda package: package != "cmaes")
    assert problems(f"{BASE}sampler: cmaes\n") == [
        "study.yaml:4:10: sampler: cmaes needs the package cmaes: pip install cmaes"
    ]


OWN = """\
import optuna

raise_at_import = 1 / 0


class Mine(optuna.samplers.RandomSampler):
    pass
"""


def test_anybodys_own_class_is_looked_up_but_not_run():
    Path("own_sampler_a.py").write_text(OWN)
    spec = loaded("sampler: {'own_sampler_a:Mine': {a: [1, 2]}}\npruner: own_sampler_a:Mine")
    assert spec.sampler == Component(name="own_sampler_a:Mine", arguments={"a": [1, 2]})
    assert spec.pruner == Component(name="own_sampler_a:Mine")


def test_one_seed_reaches_every_part():
    component = Component(name="cmaes", arguments={"independent_sampler": {"random": {}}})
    first, again, other = (make(component, SAMPLERS, seed=seed) for seed in (3, 3, 4))
    draws = [sampler._independent_sampler._rng.rng.random() for sampler in (first, again, other)]
    assert draws[0] == draws[1] != draws[2]
    own = make(Component(name="random", arguments={"seed": 4}), SAMPLERS, seed=3)
    assert own._rng.rng.random() == draws[2]


def test_what_asha_says_of_its_end_is_not_told_to_optuna():
    pruner = make(Component(name="asha", arguments={"max_resource": 20}), PRUNERS)
    assert pruner._min_resource == 1


def test_a_spec_with_problems_is_no_spec():
    with pytest.raises(StudyFileError):
        loaded("sampler: {tpe: {n_startup_trials: five}}\nparameters: {lr: {min: 2, max: 1}}")
