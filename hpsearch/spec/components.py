"""Samplers and pruners by short name: which exist, and how one is made."""

import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hpsearch.spec.model import Component
from hpsearch.spec.objective import importable


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What one short name stands for."""

    path: str  # "optuna.samplers:TPESampler"
    needs: tuple[str, ...] = ()  # packages that Optuna imports only once the component works
    left_out: Mapping[str, str] = field(default_factory=dict)  # what a study file cannot give -> why
    renamed: Mapping[str, str] = field(default_factory=dict)  # our word -> Optuna's
    types: Mapping[str, str] = field(default_factory=dict)  # narrower than Optuna's, or only ours
    defaults: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()  # taken from the study if not given
    quick: bool = True  # can be made at once: imports nothing large, needs nothing of the study


Catalog = Mapping[str, Kind]

_FUNCTION = "takes a function: write a class of your own, and name it as module:Class"
_TRIALS = "takes trials of another study: write a class of your own, and name it as module:Class"
_CONSTRAINTS = {"constraints_func": "takes a function: call trial.set_constraint in the objective instead"}
_GENETIC = {
    "elite_population_selection_strategy": _FUNCTION,
    "child_generation_strategy": _FUNCTION,
    "after_trial_strategy": _FUNCTION,
    **_CONSTRAINTS,
}

SAMPLERS: dict[str, Kind] = {
    "tpe": Kind(path="optuna.samplers:TPESampler", left_out={"gamma": _FUNCTION, "weights": _FUNCTION, **_CONSTRAINTS}),
    "random": Kind(path="optuna.samplers:RandomSampler"),
    "grid": Kind(path="optuna.samplers:GridSampler", derived=("search_space",), quick=False),
    "cmaes": Kind(path="optuna.samplers:CmaEsSampler", needs=("cmaes",), left_out={"source_trials": _TRIALS}),
    "gp": Kind(path="optuna.samplers:GPSampler", needs=("scipy", "torch"), left_out=_CONSTRAINTS, quick=False),
    "nsgaii": Kind(path="optuna.samplers:NSGAIISampler", left_out=_GENETIC),
    "nsgaiii": Kind(path="optuna.samplers:NSGAIIISampler", left_out=_GENETIC),
    "qmc": Kind(path="optuna.samplers:QMCSampler", needs=("scipy",)),
    "brute_force": Kind(path="optuna.samplers:BruteForceSampler"),
    "partial_fixed": Kind(path="optuna.samplers:PartialFixedSampler"),
}

# Optuna's "auto" resources are frozen at whatever finishes first in each process, so that a study
# continued later is judged by other rungs: a number is asked for.
_RESOURCE = {"min_resource": "int", "max_resource": "int"}
PRUNERS: dict[str, Kind] = {
    "none": Kind(path="optuna.pruners:NopPruner"),
    "median": Kind(path="optuna.pruners:MedianPruner"),
    "percentile": Kind(path="optuna.pruners:PercentilePruner"),
    "asha": Kind(path="optuna.pruners:SuccessiveHalvingPruner", types=_RESOURCE, defaults={"min_resource": 1}),
    "successive_halving": Kind(path="optuna.pruners:SuccessiveHalvingPruner"),
    "hyperband": Kind(path="optuna.pruners:HyperbandPruner", types=_RESOURCE, required=("max_resource",)),
    "patient": Kind(path="optuna.pruners:PatientPruner", renamed={"wrapped": "wrapped_pruner"}),
    "threshold": Kind(path="optuna.pruners:ThresholdPruner"),
    "wilcoxon": Kind(path="optuna.pruners:WilcoxonPruner", needs=("scipy",)),
}

CROSSOVERS: dict[str, Kind] = {
    name: Kind(path=f"optuna.samplers.nsgaii:{cls}")
    for name, cls in {
        "uniform": "UniformCrossover",
        "blxalpha": "BLXAlphaCrossover",
        "sbx": "SBXCrossover",
        "vsbx": "VSBXCrossover",
        "spx": "SPXCrossover",
        "undx": "UNDXCrossover",
    }.items()
}
MUTATIONS: dict[str, Kind] = {"polynomial": Kind(path="optuna.samplers.nsgaii:PolynomialMutation")}

# an argument of this type is itself a component
NESTED: dict[str, Catalog] = {
    "BaseSampler": SAMPLERS,
    "BasePruner": PRUNERS,
    "BaseCrossover": CROSSOVERS,
    "BaseMutation": MUTATIONS,
}


def make(component: Component, catalog: Catalog, *, seed: int | None = None, **more: Any) -> Any:
    """The Optuna object (or anybody's own) that a component stands for.

    ``seed`` goes to every part that takes one and was not given its own; ``more`` are further arguments.
    Raises what the class raises, and ImportError or AttributeError where a ``module:Class`` isn't there.
    """
    kind = catalog.get(component.name)
    cls = load_class(kind.path if kind else component.name)
    parameters = signature(cls)
    arguments: dict[str, Any] = {**(kind.defaults if kind else {}), **component.arguments, **more}
    if kind:
        arguments = {name: value for name, value in arguments.items() if name in parameters}  # asha's max_resource
    if seed is not None and "seed" in parameters:
        arguments.setdefault("seed", seed)
    for name, value in arguments.items():
        annotation = parameters.get(name, "")
        if (inner := nested_catalog(annotation)) is not None and isinstance(value, Mapping):
            [(inner_name, inner_arguments)] = value.items()
            arguments[name] = make(Component(name=inner_name, arguments=inner_arguments), inner, seed=seed)
        elif "ndarray" in annotation and value is not None:
            import numpy

            arguments[name] = numpy.asarray(value, dtype=float)
    with quiet():
        return cls(**arguments)


def load_class(path: str) -> Any:
    """The class named ``module:Class``; modules in the working directory count too."""
    module, _, name = path.partition(":")
    if not importable(module.partition(".")[0]) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return getattr(importlib.import_module(module), name)


def nested_catalog(annotation: str) -> Catalog | None:
    """The catalog that an argument's value is from, where it is itself a component."""
    return next((catalog for base, catalog in NESTED.items() if base in annotation), None)


def signature(cls: Any) -> dict[str, str]:
    """Arguments of a class, each with its annotation as text, ``""`` where it has none."""
    return {
        name: _annotation(parameter)
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


@cache
def defaults(cls: Any) -> dict[str, Any]:
    """Arguments of a class that have a default, with it."""
    parameters = inspect.signature(cls).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def _annotation(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to ourselves that parts of Optuna are experimental: whoever names them in a study file knows."""
    with warnings.catch_warnings():
        from optuna.exceptions import ExperimentalWarning

        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
