"""Samplers and pruners from the spec, and when a pruner can speak next."""

import math
import zlib
from typing import Any

from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
)
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler, QMCSampler, RandomSampler

from hpsearch.errors import Problem, StudyFileError
from hpsearch.space import Space
from hpsearch.spec import Component
from hpsearch.spec.compatibility import grid_of
from hpsearch.spec.components import PRUNERS, SAMPLERS, Catalog, make


def build_sampler(component: Component, *, seed: int | None, space: Space) -> BaseSampler:
    """Optuna's sampler, or anybody's own.

    Args:
        component: a short name, or ``module:Class``.
        seed: for every part of the sampler that takes one, and was given none of its own.
        space: what a grid is made of, unless the component brings its own ``search_space``.

    Raises:
        StudyFileError: a class of the user's own is not there, or can't be made.
    """
    more: dict[str, Any] = {}
    if component.name == "grid" and "search_space" not in component.arguments:
        try:
            more["search_space"] = grid_of(space)
        except ValueError as error:
            raise StudyFileError([Problem("", "sampler", str(error))]) from None
    sampler = _built("sampler", component, SAMPLERS, BaseSampler, seed=seed, **more)
    assert isinstance(sampler, BaseSampler)
    return sampler


def build_pruner(component: Component) -> BasePruner:
    """Optuna's pruner, or anybody's own. Raises StudyFileError as :func:`build_sampler` does."""
    pruner = _built("pruner", component, PRUNERS, BasePruner)
    assert isinstance(pruner, BasePruner)
    return pruner


def n_proposals(sampler: BaseSampler) -> int | None:
    """How many trials a sampler proposes before it has nothing new; None where that isn't known beforehand."""
    return len(sampler._all_grids) if type(sampler) is GridSampler else None


def ask_ahead_depth(sampler: BaseSampler) -> int:
    """How many trials may be proposed before a slot is free for them, where the study does not say.

    What is proposed early is proposed without the results that come in meanwhile: one trial more in flight for a
    sampler that learns from them, no loss at all for one that does not. Brute force may find its last combination
    running and nothing left to propose ahead.
    """
    if type(sampler) is BruteForceSampler:
        return 0
    return 8 if type(sampler) in (RandomSampler, GridSampler, QMCSampler) else 1


def next_decision_step(pruner: BasePruner, study_name: str, trial_number: int, step: int) -> int | None:
    """The first step after ``step`` at which the pruner can say prune; None: at no step at all.

    A rank that has reported ``step`` need not wait for a verdict before it reports the step returned or a later one.
    ``step`` is the last one reported in this attempt, -1 before the first. Exact for the pruners whose decisions
    depend on the step alone; ``step + 1`` for all others, subclasses of these included. Right for a study with one
    metric.
    """
    # By exact type: a subclass may have overridden prune().
    if type(pruner) is NopPruner:
        return None
    if type(pruner) in (MedianPruner, PercentilePruner, ThresholdPruner):
        return _next_interval(pruner, step)
    if type(pruner) is SuccessiveHalvingPruner:
        return _next_rung(pruner._min_resource, pruner._reduction_factor, pruner._min_early_stopping_rate, step)
    if type(pruner) is HyperbandPruner:
        bracket = _bracket(pruner, study_name, trial_number)
        if bracket is None:
            return step + 1
        return _next_rung(pruner._min_resource, pruner._reduction_factor, bracket, step)
    return step + 1


def _built(key: str, component: Component, catalog: Catalog, base: type, **more: Any) -> Any:
    try:
        made = make(component, catalog, **more)
    except Exception as error:  # the constructor may be anybody's
        message = f"{component.name}: {type(error).__name__}: {' '.join(str(error).split())}"
        raise StudyFileError([Problem("", key, message)]) from error
    if not isinstance(made, base):
        raise StudyFileError([Problem("", key, f"{component.name} is no {base.__name__}")])
    return made


def _next_interval(pruner: Any, step: int) -> int:
    """Median, Percentile, Threshold: the first report at or past each multiple of the interval after the warmup."""
    warmup, interval = pruner._n_warmup_steps, pruner._interval_steps
    if step < warmup:
        return int(warmup)
    return int(warmup + ((step - warmup) // interval + 1) * interval)


def _next_rung(min_resource: int | None, reduction_factor: int, first_rung: int, step: int) -> int:
    """ASHA, https://arxiv.org/abs/1810.05934: rung k is reached at ``min_resource * reduction_factor ** k``."""
    if min_resource is None:  # Optuna's "auto": not estimated yet, may be at any time
        return step + 1
    rung_step = min_resource * reduction_factor**first_rung
    while rung_step <= step:
        rung_step *= reduction_factor
    return int(rung_step)


def _bracket(pruner: HyperbandPruner, study_name: str, trial_number: int) -> int | None:
    """The bracket that Hyperband, https://jmlr.org/papers/v18/16-558.html, puts a trial in, as Optuna computes it.

    Optuna can be asked only once it has judged a first report. None where ``max_resource`` isn't known yet.
    """
    if not isinstance(pruner._max_resource, int):
        return None
    factor = pruner._reduction_factor
    n_brackets = math.floor(math.log(pruner._max_resource / pruner._min_resource, factor)) + 1
    shares = [math.ceil(n_brackets * factor**s / (s + 1)) for s in reversed(range(n_brackets))]
    left = zlib.crc32(f"{study_name}_{trial_number}".encode()) % sum(shares)
    for bracket, share in enumerate(shares):
        left -= share
        if left < 0:
            return bracket
    raise AssertionError("a remainder is less than the sum")
