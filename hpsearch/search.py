"""Samplers and pruners from the spec, when a pruner can speak next, and what it says."""

import copy
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
)
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler, QMCSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

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
        brackets = _brackets(pruner, study_name)
        if brackets is None:
            return step + 1
        return _next_rung(pruner._min_resource, pruner._reduction_factor, brackets(trial_number), step)
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


@dataclass(frozen=True, slots=True)
class _Brackets:
    """The brackets that Hyperband, https://jmlr.org/papers/v18/16-558.html, puts trials in, as Optuna computes them."""

    study_name: str
    shares: tuple[int, ...]

    def __call__(self, trial_number: int) -> int:
        left = zlib.crc32(f"{self.study_name}_{trial_number}".encode()) % sum(self.shares)
        for bracket, share in enumerate(self.shares):
            left -= share
            if left < 0:
                return bracket
        raise AssertionError("a remainder is less than the sum")


def _brackets(pruner: HyperbandPruner, study_name: str) -> _Brackets | None:
    """Optuna can be asked only once it has judged a first report. None where ``max_resource`` isn't known yet."""
    if not isinstance(pruner._max_resource, int):
        return None
    factor = pruner._reduction_factor
    n_brackets = math.floor(math.log(pruner._max_resource / pruner._min_resource, factor)) + 1
    shares = (math.ceil(n_brackets * factor**s / (s + 1)) for s in reversed(range(n_brackets)))
    return _Brackets(study_name, tuple(shares))


# ------------------------------------------------------------------------------------------- judging


class Index(Protocol):
    """What is known of a study's trials without going through them."""

    @property
    def n_complete(self) -> int:
        """Trials in the state COMPLETE."""

    @property
    def longest(self) -> int | None:
        """The last step of the COMPLETE trial that came furthest."""

    def reported(self, step: int) -> tuple[Sequence[float], int]:
        """What COMPLETE trials reported at a step: all but NaN, sorted; how many were NaN."""

    def at_rung(self, rung: int, number: int, group: Callable[[int], int] | None) -> Any:
        """A SortedList of what the trial's competitors had at a rung; None: some of it is no number."""


def judge(pruner: BasePruner, study: optuna.Study, trial: FrozenTrial, index: Index) -> bool:
    """What ``pruner.prune(study, trial)`` answers and writes, without going through all trials of the study.

    ``index`` is of the study's trials as they are now. Optuna's own code is asked for other pruners than Median,
    Percentile, SuccessiveHalving, Hyperband and, around these, Patient; subclasses count as others.
    """
    if len(study.directions) == 1:
        if type(pruner) is PatientPruner and pruner._wrapped_pruner is not None:
            alone = copy.copy(pruner)
            alone._wrapped_pruner = None
            return bool(alone.prune(study, trial)) and judge(pruner._wrapped_pruner, study, trial, index)
        if type(pruner) in (MedianPruner, PercentilePruner):
            return _is_below_percentile(pruner, study.direction, trial, index)
        if type(pruner) is SuccessiveHalvingPruner:
            return _halve(pruner, study, trial, index, None)
        if type(pruner) is HyperbandPruner:
            if not pruner._pruners and (pruner._max_resource != "auto" or index.longest is not None):
                pruner._try_initialization(study)
            brackets = _brackets(pruner, study.study_name)
            if brackets is None or not pruner._pruners:
                return False
            return _halve(pruner._pruners[brackets(trial.number)], study, trial, index, brackets)
    return bool(pruner.prune(study, trial))


def _is_below_percentile(pruner: Any, direction: StudyDirection, trial: FrozenTrial, index: Index) -> bool:
    """The median stopping rule of Vizier, https://doi.org/10.1145/3097983.3098043, with any percentile."""
    step, warmup = trial.last_step, pruner._n_warmup_steps
    if index.n_complete < max(1, pruner._n_startup_trials) or step is None or step < warmup:
        return False
    if pruner._interval_steps > 1:
        due = (step - warmup) // pruner._interval_steps * pruner._interval_steps + warmup
        if any(due <= earlier != step for earlier in trial.intermediate_values):
            return False
    own = [value for value in trial.intermediate_values.values() if value == value]
    if not own:
        return True
    others, n_nan = index.reported(step)
    if not others or len(others) + n_nan < pruner._n_min_trials:
        return False
    if direction is StudyDirection.MAXIMIZE:
        return max(own) < _percentile(others, 100 - pruner._percentile)
    return min(own) > _percentile(others, pruner._percentile)


def _percentile(ordered: Sequence[float], percent: float) -> float:
    """As ``numpy.nanpercentile``, by the same operations, so that not one bit differs; infinities may give NaN."""
    at = (len(ordered) - 1) * (percent / 100)
    if at >= len(ordered) - 1:
        left = right = ordered[-1]
        share = at + 1
    else:
        left, right = ordered[int(at)], ordered[int(at) + 1]
        share = at - int(at)
    return right - (right - left) * (1 - share) if share >= 0.5 else left + (right - left) * share


def _halve(pruner: Any, study: optuna.Study, trial: FrozenTrial, index: Index, group: _Brackets | None) -> bool:
    """ASHA, https://arxiv.org/abs/1810.05934, among the trials of one group; notes the rungs that the trial reached."""
    step = trial.last_step
    if step is None:
        return False
    if pruner._min_resource is None:
        if index.longest is None:
            return False
        pruner._min_resource = max(index.longest // 100, 1)
    value = trial.intermediate_values[step]
    rung = 0
    while f"completed_rung_{rung}" in trial.system_attrs:
        rung += 1
    while step >= pruner._min_resource * pruner._reduction_factor ** (pruner._min_early_stopping_rate + rung):
        if value != value:
            return True
        others = index.at_rung(rung, trial.number, group)
        if others is None:
            return bool(pruner.prune(study, trial))
        n = len(others) + 1
        n_better = others.bisect_left(value)
        if study.direction is StudyDirection.MAXIMIZE:
            n_better = len(others) - others.bisect_right(value)
        study._storage.set_trial_system_attr(trial._trial_id, f"completed_rung_{rung}", value)
        if n <= pruner._bootstrap_count or n_better > max(n // pruner._reduction_factor - 1, 0):
            return True
        rung += 1
    return False
