"""The trial of a training job that a search runs."""

import datetime
import json
import math
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import BaseTrial

from hpsearch.checkpoint import KEPT, MAX_REPORTS, Checkpoints, Report, open_place
from hpsearch.events import MAX_DEPTH, MAX_STEP, NAME_RULE, is_name, is_shallow
from hpsearch.trial import parallel
from hpsearch.trial.line import Line, TrialStopped

if TYPE_CHECKING:
    import torch

Choice = TypeVar("Choice")
COLLECTIVE_S = 600.0  # of one collective, where the study sets no deadline of its own for progress


@dataclass(frozen=True, slots=True)
class StudyView:
    """The little that a training job may know of its study."""

    study_name: str
    directions: tuple[str, ...]

    @property
    def direction(self) -> str:
        """Of a study with one objective: "minimize" or "maximize"."""
        return self.directions[0]


class Trial(BaseTrial):
    """One trial as its training job sees it. Made by hpsearch; threads may share it, forked processes may not.

    ``params`` holds all parameters of a declared space from the start, constants included. Times are naive local time,
    as Optuna has them.
    """

    attempt: int  # counts from 1; a resumed or retried trial has a higher one
    rank: int
    local_rank: int
    world_size: int
    seed: int | None  # Python's, NumPy's and torch's generators were seeded with it
    directory: Path  # of this trial, for files of its own; the same in every attempt
    resumed_step: int  # the step to go on with, as load() gave it; 0 on a fresh start

    def __init__(self, assignment: Mapping[str, Any], line: Line | None) -> None:
        self._line = line
        self._number = int(assignment["trial"])
        self.attempt, self.seed = assignment["attempt"], assignment["seed"]
        self.rank, self.local_rank = assignment["rank"], assignment["local_rank"]
        self.world_size = assignment["world_size"]
        self.directory = Path(assignment["directory"])
        self.resumed_step = 0
        self._checkpoints: Checkpoints | None = None  # opened when first needed
        self._last_reports: deque[Report] = deque(maxlen=MAX_REPORTS)
        self._checkpoint_rules: Mapping[str, Any] = assignment.get("checkpoints", {})
        # A rank sees its own GPUs alone, so its first is number 0; a script of a gang sees its neighbours', too.
        self._device: int = assignment.get("device", 0)
        self._reported_through: int = assignment.get("reported_through", -1)
        self._reports_expected: bool = assignment.get("reports_expected", False)
        self.study = StudyView(assignment["study"], tuple(assignment["directions"]))
        self._params: dict[str, Any] = dict(assignment["params"])
        self._distributions = {k: json_to_distribution(v) for k, v in assignment["distributions"].items()}
        self._user_attrs: dict[str, Any] = dict(assignment["user_attrs"])
        self._constraints: dict[str, float] = {}
        self._datetime_start = datetime.datetime.fromisoformat(assignment["datetime_start"])
        self._reported: set[int] = set()
        self._last_step: int | None = None
        self._next_decision_step: int | None = assignment["next_decision_step"]
        self._verdicts: deque[dict[str, Any]] = deque()  # heard, for steps that this rank has yet to reach
        self._collective_s = float(assignment.get("collective_s", COLLECTIVE_S))
        self._pruned = False
        self._stop_reason: str | None = None
        self._stop_after: int | None = None
        self._answers: dict[str, dict[str, Any]] = {}  # to suggestions, by name
        self._lock = threading.RLock()

    # ------------------------------------------------------------------------------------- parameters

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """As in Optuna. ValueError if the study knows the parameter with another range."""
        return float(self._suggest(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """As in Optuna. ValueError if the study knows the parameter with another range."""
        return int(self._suggest(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Choice]) -> Choice:
        """As in Optuna. ValueError if the study knows the parameter with other choices."""
        value: Choice = self._suggest(name, CategoricalDistribution(choices))  # type: ignore[arg-type]
        return value

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """Deprecated in Optuna: ``suggest_float``."""
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """Deprecated in Optuna: ``suggest_float(log=True)``."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """Deprecated in Optuna: ``suggest_float(step=q)``."""
        return self.suggest_float(name, low, high, step=q)

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        known = self._distributions.get(name)
        if known is not None and not _equal(known, distribution):
            raise ValueError(f"parameter {name!r} is {known} in this study, not {distribution}")
        if name not in self._params:
            self._params[name] = self._ask(name, distribution)
            self._distributions[name] = distribution
        return self._params[name]

    def _ask(self, name: str, distribution: BaseDistribution) -> Any:
        self._hear()
        self._say({"op": "suggest", "name": name, "distribution": distribution_to_json(distribution)})
        self._hear(until=lambda: name in self._answers)
        answer = self._answers.pop(name)
        if answer["op"] == "refused":
            raise ValueError(answer["message"])
        if isinstance(distribution, CategoricalDistribution):  # a tuple comes back from JSON as a list
            told = json.dumps(answer["value"])
            return next(choice for choice in distribution.choices if json.dumps(choice) == told)
        return answer["value"]

    # ---------------------------------------------------------------------------------------- reports

    def report(self, value: float, step: int, **more_metrics: float) -> None:
        """Report the metric, and any others beside it, at a step (an epoch, say). Never waits.

        The first report of a step counts; another one for the same step is ignored with a warning. In a gang only
        rank 0's values count; the other ranks report at the same places, so that all agree on where they are.

        Raises:
            TypeError: something is no number.
            ValueError: the step is negative or above 2**31 - 1, or the name of a metric is too long.
            NotImplementedError: in a study with several objectives, as in Optuna.
            TrialStopped: this attempt shall end.
        """
        if len(self.study.directions) > 1:
            raise NotImplementedError("Trial.report is not supported for multi-objective optimization.")
        value = _float("value", value)
        metrics = {name: _float(name, metric) for name, metric in more_metrics.items()}
        try:
            step = int(step)
        except (TypeError, ValueError):
            raise TypeError(f"`step` is of type {type(step).__name__!r} but must be an int") from None
        if step < 0:
            raise ValueError(f"`step` is {step} but must not be negative")
        if step > MAX_STEP:
            raise ValueError(f"`step` is {step} but must be at most {MAX_STEP}: count in larger units")
        for name in metrics:
            _check_name(name)
        with self._lock:
            self._last_step = step
            if step in self._reported:
                warnings.warn(f"step {step} is already reported: this report is ignored", stacklevel=2)
                return
            self._reported.add(step)
            self._last_reports.append((step, value, metrics))
            if self._checkpoints is not None:
                self._checkpoints.reported((step, value, metrics))
        # Said before a stop is heard: a checkpoint of this step may exist, and then no other attempt reports it.
        if self.is_main:
            self._say({"op": "report", "step": step, "value": value, "metrics": metrics})
        self._hear()

    def should_prune(self) -> bool:
        """Whether to stop here and ``raise optuna.TrialPruned``. Waits only at steps at which the pruner decides.

        Every rank of a gang gets the same answer after the same step, however far the others are.

        Raises:
            RuntimeError: only rank 0 reports; the other ranks cannot know which step is meant.
            TrialStopped: this attempt shall end.
        """
        self._hear(until=self._is_decided)
        if self._last_step is None and self._verdicts:
            raise RuntimeError(
                "should_prune: call report on every rank, at the same steps (only rank 0's values count)"
            )
        return self._pruned

    def _is_decided(self) -> bool:
        """Whether nothing is to be waited for at this rank's step; a verdict on a later one is kept until then."""
        with self._lock:
            last = self._last_step
            while self._verdicts and last is not None and self._verdicts[0]["step"] <= last:
                verdict = self._verdicts.popleft()
                self._next_decision_step = verdict["next_step"]
                self._pruned = self._pruned or verdict["verdict"] == "prune"
            decision = self._next_decision_step
            return self._pruned or last is None or decision is None or last < decision

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keep something that JSON can express with the trial; rank 0's counts.

        TypeError: it cannot; ValueError: bad key, too deep.
        """
        _check_name(key)
        if not is_shallow(value):
            raise ValueError(f"user attribute {key!r}: more than {MAX_DEPTH} lists and dicts are nested in each other")
        if self.is_main:
            self._say({"op": "user_attr", "key": key, "value": value})
        self._user_attrs[key] = value

    def set_constraint(self, key: str, value: float) -> None:
        """As in Optuna: the trial is feasible if all constraints are zero or less; the first value of a key counts."""
        value = _float(key, value)
        if math.isnan(value):
            raise ValueError(f"constraint {key!r} must not be NaN")
        _check_name(f"constraints:{key}")  # as Optuna keeps it
        if key in self._constraints:
            warnings.warn(f"constraint {key!r} is already set: this value is ignored", stacklevel=2)
            return
        self._constraints[key] = value
        if self.is_main:
            self._say({"op": "constraint", "key": key, "value": value})

    # -------------------------------------------------------------------------------------- the channel

    def _say(self, message: Mapping[str, Any]) -> None:
        if self._line is not None:
            self._line.send(message)

    def _hear(self, until: Callable[[], bool] | None = None) -> None:
        if self._line is not None:
            self._line.receive(self._take, until and (lambda: self._stops_here() or until()))
        if self._stops_here():
            raise TrialStopped(self._stop_reason)

    def _stops_here(self) -> bool:
        """Whether a stop was heard that holds at this rank's step: in a gang, one that no rank has reached yet."""
        last = -1 if self._last_step is None else self._last_step
        return self._stop_reason is not None and (self._stop_after is None or last > self._stop_after)

    def _take(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "verdict":
                self._verdicts.append(message)
            case "suggested" | "refused":
                self._answers[message["name"]] = message
            case "stop":
                self._stop_reason, self._stop_after = message["reason"], message.get("after_step")

    # ------------------------------------------------------------------------------------- checkpoints

    def save(self, state: Mapping[str, Any], step: int) -> None:
        """Keep the state of the training after ``step``, so that another attempt can go on from there.

        Args:
            state: objects with ``state_dict()`` (models, optimizers, schedulers, scalers), tensors, numbers, text, and
                lists and dicts of these, by name. Generators of random numbers are not part of it unless given.
            step: the last step that is done.

        Every rank may call it, and rank 0 writes. Where the state is spread over the ranks (DTensor: FSDP2, tensor
        parallel) every rank must call it: all write, and another number of ranks can go on from it. The last two
        checkpoints are kept, and the one with the best reported value.

        Raises:
            hpsearch.errors.CheckpointError: the state cannot be kept or written; the earlier checkpoints are intact.
        """
        step = int(step)  # NumPy's are no JSON
        with self._lock:
            path = self._kept().save(state, step)
        if self.is_main:
            self._say({"op": "saved", "step": step, "path": path})

    def load(self, state: MutableMapping[str, Any]) -> int:
        """Restore the last good checkpoint into ``state`` and return the next step to run; 0 if there is none.

        Objects with ``load_state_dict()`` are changed in place; for plain values the entry of ``state`` is replaced.
        Where the state is spread over the ranks, every rank must call it.

        Raises:
            hpsearch.errors.CheckpointError: the checkpoint is sound but of other objects than these.
        """
        with self._lock:
            loaded = self._kept().load(state)
        self.resumed_step = loaded.next_step
        if self.is_main:
            for step, value, metrics in loaded.unsaid:  # their way was cut when an earlier attempt died
                self._say({"op": "report", "step": step, "value": value, "metrics": dict(metrics)})
            self._say({"op": "resumed", "step": loaded.next_step, "path": loaded.path})
        return self.resumed_step

    def _kept(self) -> Checkpoints:
        if self._checkpoints is None:
            rules = self._checkpoint_rules
            single = len(self.study.directions) == 1
            self._checkpoints = Checkpoints(
                place=open_place(rules.get("at") or str(self.directory / "checkpoints")),
                attempt=self.attempt,
                rank=self.rank,
                world_size=self.world_size,
                keep=rules.get("keep", KEPT),
                goal=self.study.direction if single and rules.get("keep_best", True) else "",
                reported_through=self._reported_through,
                reports_expected=self._reports_expected,
                reports=self._last_reports,
            )
        return self._checkpoints

    # --------------------------------------------------------------------------------------- properties

    @property
    def device(self) -> "torch.device":
        """This rank's GPU, or the CPU."""
        import torch

        return torch.device("cuda", self._device) if torch.cuda.is_available() else torch.device("cpu")

    def wrap(self, model: "torch.nn.Module") -> "torch.nn.Module":
        """The model on this rank's device; in a gang, in DistributedDataParallel.

        Initialises the process group unless the job has done so itself: NCCL on GPUs, gloo on CPUs.
        """
        if self.world_size == 1:
            return model.to(self.device)
        parallel.join(self.device, self._collective_s)
        return parallel.wrap(model, self.device)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, whose reports, result and checkpoints count."""
        return self.rank == 0

    @property
    def number(self) -> int:
        """Of the trial in its study, from 0."""
        return self._number

    @property
    def params(self) -> dict[str, Any]:
        """Values by name."""
        return self._params

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Distributions by name; constants have none."""
        return self._distributions

    @property
    def user_attrs(self) -> dict[str, Any]:
        """What set_user_attr was given, in earlier attempts too."""
        return self._user_attrs

    @property
    def constraints(self) -> dict[str, float]:
        """What set_constraint was given."""
        return self._constraints

    @property
    def datetime_start(self) -> datetime.datetime | None:
        """When the trial began, in its first attempt."""
        return self._datetime_start


def _float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name!r} is of type {type(value).__name__!r} but must be a number") from None


def _check_name(name: str) -> None:
    """Here, where the job can still be told: later it would be the study that could not be written."""
    if not isinstance(name, str):
        raise TypeError(f"a name is of type {type(name).__name__!r} but must be a str")
    if not is_name(name):
        raise ValueError(f"{name[:40]!r}: {NAME_RULE}")


def _equal(known: BaseDistribution, asked: BaseDistribution) -> bool:
    return known == asked or distribution_to_json(known) == distribution_to_json(asked)
