"""The Optuna side of the coordinator: ask, suggest, report, judge, tell, by trial number.

All calls go to the study's mirror in memory; the write-behind makes them durable. Nobody else calls Optuna while a
study runs.
"""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.samplers import GridSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from hpsearch.errors import ComponentFailed, HpsearchError
from hpsearch.events import Cause, Ending, Verdict
from hpsearch.search import judge, next_decision_step
from hpsearch.space import Space
from hpsearch.storage import Mirror


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A trial with its parameters, ready to be run."""

    number: int
    params: dict[str, Any]  # as Optuna keeps them; labels not resolved, constants not in
    distributions: dict[str, str]  # name -> JSON
    user_attrs: dict[str, Any]
    datetime_start: str  # ISO, naive local time; of the first attempt
    first_decision_step: int | None
    reported_through: int = -1  # last step on record
    reports_expected: bool = False  # trials of this study report at all


class Proposals:
    """Trials of one study.

    Args:
        study: over the mirror; to ask only, over any storage.
        space: declared parameters; empty when the objective suggests its own.
    """

    def __init__(self, study: optuna.Study, space: Space) -> None:
        self._study = study
        self._storage = cast("Mirror", study._storage)
        self._space = space
        self._single = len(study.directions) == 1
        self._open: dict[int, Trial] = {}  # asked or found, not told
        self.exhausted = False
        self.on_unusable: Callable[[int, str], None] = lambda number, reason: None  # a trial that failed for its values
        trials = study.get_trials(deepcopy=False)
        self._reports = any(trial.intermediate_values for trial in trials)  # whether this study's trials report at all
        # Samplers with an end (grids) call this from after_trial; Optuna's own raises outside of optimize().
        study.stop = self._exhaust  # type: ignore[method-assign]

    def _exhaust(self) -> None:
        self.exhausted = True

    def ask(self) -> Proposal:
        """The next trial: a waiting one if there is one, else a new one from the sampler."""
        with _of("sampler", self._study.sampler):
            while not self._is_usable(trial := self._study.ask()):
                pass
            return self._with_params(trial)

    def leftovers(self) -> Iterator[Proposal]:
        """Trials that an earlier coordinator left running, oldest first."""
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial = Trial(self._study, frozen._trial_id)
            if self._is_usable(trial):
                yield self._with_params(trial)

    def over(self) -> Iterator[tuple[Cause, tuple[float, ...]]]:
        """Trials in a terminal state, as the budgets count them, in the order of their numbers."""
        for frozen in self._study.get_trials(deepcopy=False, states=tuple(_ENDS)):
            if ended := as_ended(frozen):
                yield ended

    def requeue_leftovers(self) -> None:
        """Leave what an earlier coordinator left running waiting: this one runs nothing."""
        for proposal in list(self.leftovers()):
            self.requeue(proposal.number)

    @property
    def n_running(self) -> int:
        """Trials that run, or ran when an earlier coordinator died."""
        return self._storage.get_n_trials(self._study._study_id, TrialState.RUNNING)

    @property
    def n_unfinished(self) -> int:
        """Trials that run or wait."""
        return self._storage.get_n_trials(self._study._study_id, (TrialState.RUNNING, TrialState.WAITING))

    @property
    def best(self) -> FrozenTrial | None:
        """The best trial; ``None`` when none succeeded, or with several objectives."""
        return self._storage.get_best_feasible_trial(self._study._study_id) if self._single else None

    def _is_usable(self, trial: Trial) -> bool:
        """Whether its parameters can take what somebody enqueued it with; a trial that cannot be run has failed."""
        attrs = self._storage.get_trial(trial._trial_id).system_attrs
        fixed = attrs.get("fixed_params", {})
        for parameter in self._space:
            try:
                if parameter.name in fixed:
                    parameter.distribution.to_internal_repr(fixed[parameter.name])
            except (ValueError, TypeError) as error:
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                self.on_unusable(trial.number, f"enqueued with an impossible {parameter.name}: {error}")
                return False
        sampler = self._study.sampler
        if isinstance(sampler, GridSampler) and "grid_id" not in attrs:
            # No point of the grid; but Optuna looks for one when any trial ends, and raises where there is none.
            self._storage.set_trial_system_attr(trial._trial_id, "search_space", dict(sampler._search_space))
            self._storage.set_trial_system_attr(trial._trial_id, "grid_id", -1)
        return True

    def _with_params(self, trial: Trial) -> Proposal:
        self._open[trial.number] = trial
        params = trial.params  # a copy each time it is asked for
        for parameter in self._space:
            if self._space.active(parameter.name, params):
                params[parameter.name] = suggest(trial, parameter.name, parameter.distribution)
        frozen = self._storage.get_trial(trial._trial_id)
        return Proposal(
            number=trial.number,
            params=trial.params,
            distributions={name: distribution_to_json(dist) for name, dist in frozen.distributions.items()},
            user_attrs=trial.user_attrs,
            datetime_start=(trial.datetime_start or datetime.now()).isoformat(),
            first_decision_step=self.next_decision_step(trial.number, -1),
        )

    def suggest(self, number: int, name: str, distribution_json: str) -> Any:
        """Answer a define-by-run suggestion.

        Raises:
            ValueError: the name is known with another distribution, perhaps by another rank of the gang.
        """
        trial, distribution = self._open[number], json_to_distribution(distribution_json)
        known = trial.distributions.get(name)
        if known is not None and distribution_to_json(known) != distribution_to_json(distribution):
            raise ValueError(f"parameter {name!r} is {known} in this trial, not {distribution}")
        return suggest(trial, name, distribution)

    def report(self, number: int, step: int, value: float) -> None:
        """Keep an intermediate value. A later attempt of the trial writes over what an earlier one reported."""
        self._reports = True
        self._storage.set_trial_intermediate_value(self._open[number]._trial_id, step, value)

    def as_known(self, proposal: Proposal) -> Proposal:
        """The proposal with what is on record of its reports by now: its next attempt has to know."""
        reported = self._storage.get_trial(self._open[proposal.number]._trial_id).intermediate_values
        return replace(proposal, reported_through=max(reported, default=-1), reports_expected=self._reports)

    def finished(self) -> frozenset[int]:
        """Numbers of the trials that are over."""
        return frozenset(t.number for t in self._study.get_trials(deepcopy=False) if t.state.is_finished())

    def judge(self, number: int, step: int) -> Verdict:
        """Ask the pruner about the trial as it stood at ``step``."""
        frozen = self._storage.get_trial(self._open[number]._trial_id)
        if any(known > step for known in frozen.intermediate_values):
            frozen = _until(frozen, step)
        with _of("pruner", self._study.pruner), self._storage.indexed(self._study._study_id) as index:
            prune = judge(self._study.pruner, self._study, frozen, index)
        return Verdict.PRUNE if prune else Verdict.CONTINUE

    @property
    def pruner_name(self) -> str:
        """For reasons: ``median``, ``successive halving``."""
        words = re.sub(r"(?<!^)(?=[A-Z])", " ", type(self._study.pruner).__name__.removesuffix("Pruner"))
        return words.lower()

    def next_decision_step(self, number: int, step: int) -> int | None:
        """The next step after ``step`` at which the pruner can decide; ``None`` for never."""
        if not self._single:
            return None
        return next_decision_step(self._study.pruner, self._study.study_name, number, step)

    def set_user_attr(self, number: int, key: str, value: Any) -> None:
        """As ``optuna.Trial.set_user_attr``."""
        self._open[number].set_user_attr(key, value)

    def set_constraint(self, number: int, key: str, value: float) -> None:
        """As ``optuna.Trial.set_constraint``."""
        self._open[number].set_constraint(key, value)

    def params(self, number: int) -> dict[str, Any]:
        """The parameters of an open trial, those that the objective suggested by now included."""
        return self._open[number].params

    def tell(self, number: int, ending: Ending) -> None:
        """End the trial for good."""
        trial = self._open.pop(number)
        with _of("sampler", self._study.sampler):  # it hears of every end
            match ending.cause:
                case Cause.RETURNED:
                    self._study.tell(trial, list(ending.values))
                case Cause.PRUNED:
                    self._study.tell(trial, state=TrialState.PRUNED)
                case _:
                    self._study.tell(trial, state=TrialState.FAIL)

    def requeue(self, number: int) -> None:
        """Leave the trial waiting: a later run, or any Optuna worker, pops it with the same parameters."""
        trial = self._open.pop(number)
        self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def withdraw(self, number: int) -> None:
        """Take back a proposal that never ran. One that somebody put in, or that others follow, waits instead."""
        if isinstance(self._storage, Mirror) and self._storage.withdraw_trial(self._open[number]._trial_id):
            del self._open[number]
        else:
            self.requeue(number)


_ENDS = {TrialState.COMPLETE: Cause.RETURNED, TrialState.PRUNED: Cause.PRUNED, TrialState.FAIL: Cause.ERROR}


def as_ended(trial: FrozenTrial) -> tuple[Cause, tuple[float, ...]] | None:
    """How budgets count a trial that is over; None for one that is not."""
    if (cause := _ENDS.get(trial.state)) is None:
        return None
    return cause, tuple(trial.values or ()) if cause is Cause.RETURNED else ()


@contextmanager
def _of(role: str, component: object) -> Iterator[None]:
    """Name whose fault an exception is: these may be anybody's own classes."""
    try:
        yield
    except HpsearchError:
        raise
    except Exception as error:
        raise ComponentFailed(
            f"the {role} {type(component).__name__} failed ({type(error).__name__}: {error}): "
            f"what is done is kept; go on with another {role}"
        ) from error


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    """Suggest from a distribution object through Optuna's public methods."""
    match distribution:
        case FloatDistribution():
            return trial.suggest_float(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case IntDistribution():
            return trial.suggest_int(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
    raise ValueError(f"{name}: unknown kind of distribution {type(distribution).__name__}")


def _until(frozen: FrozenTrial, step: int) -> FrozenTrial:
    """The trial without what an earlier attempt reported past this step."""
    earlier = copy.copy(frozen)
    earlier.intermediate_values = {known: value for known, value in frozen.intermediate_values.items() if known <= step}
    return earlier
