"""When a search is over: trials, time, target, plateau, failures. Pure."""

from dataclasses import dataclass
from typing import Literal

from hpsearch.events import Cause

# Below this many finished trials a share of failures says nothing.
MIN_FOR_PERCENT = 5
# A job that cannot run at all shows it in its first trials.
FIRST_ALL_FAILED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """All limits of one study; ``None`` is no limit.

    Attributes:
        trials: total over all runs; pruned and failed ones counted.
        time_s: of one run, seconds.
        target: stop when a value is at least (maximize) or at most (minimize) this.
        plateau_trials: stop when this many trials ended without a better value.
        min_delta: what counts as better, in units of the metric.
        failures: stop when more than this many trials failed.
        failures_percent: stop when more than this share of the finished trials failed.
    """

    goal: Literal["minimize", "maximize"] = "minimize"
    trials: int | None = None
    time_s: float | None = None
    target: float | None = None
    plateau_trials: int | None = None
    min_delta: float = 0.0
    failures: int | None = None
    failures_percent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """A budget that is used up; ``for_good``: no later run would go on with what runs now."""

    reason: str
    exit_code: int
    for_good: bool = False


class Standing:
    """Counts and best value so far, over all runs of the study."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self.n_complete = 0
        self.n_pruned = 0
        self.n_failed = 0
        self.best: float | None = None
        self._best_before_plateau: float | None = None
        self._n_since_better = 0

    @property
    def n_over(self) -> int:
        """Trials in a terminal state."""
        return self.n_complete + self.n_pruned + self.n_failed

    @property
    def over(self) -> bool:
        """Whether a run that starts now would have nothing to add: all trials are done, or the search is for good."""
        return self.over_for_good or (self._budgets.trials is not None and self.n_over >= self._budgets.trials)

    @property
    def over_for_good(self) -> bool:
        """Whether not even a trial that was cut off would go on: the target is reached, the plateau was long enough."""
        spent = self.spent(elapsed_s=0.0)
        return spent is not None and spent.for_good

    def count(self, cause: Cause, values: tuple[float, ...] = ()) -> None:
        """Enter one trial that is over. Only a single objective has a best value."""
        self._n_since_better += 1
        match cause:
            case Cause.RETURNED:
                self.n_complete += 1
                if len(values) == 1:
                    self._enter(values[0])
            case Cause.PRUNED:
                self.n_pruned += 1
            case _:
                self.n_failed += 1

    def _enter(self, value: float) -> None:
        if self._better(value, self.best, 0.0):
            self.best = value
        if self._better(value, self._best_before_plateau, self._budgets.min_delta):
            self._best_before_plateau = value
            self._n_since_better = 0

    def _better(self, value: float, than: float | None, by: float) -> bool:
        if than is None:
            return True
        return value > than + by if self._budgets.goal == "maximize" else value < than - by

    def spent(self, *, elapsed_s: float) -> Spent | None:
        """The first budget that is used up, or ``None``. The number of trials is not asked here: it ends by itself."""
        budgets = self._budgets
        if self._target_reached():
            return Spent(reason=f"target {budgets.target:g} reached: {self.best:g}", exit_code=0, for_good=True)
        if failed := self._failures_spent():
            return Spent(reason=failed, exit_code=4)
        if budgets.plateau_trials is not None and self._n_since_better >= budgets.plateau_trials and self.n_complete:
            return Spent(
                reason=f"no better value in the last {self._n_since_better} trials", exit_code=0, for_good=True
            )
        if budgets.time_s is not None and elapsed_s >= budgets.time_s:
            return Spent(reason=f"time budget of {budgets.time_s:g} s used up", exit_code=0)
        return None

    def _target_reached(self) -> bool:
        target = self._budgets.target
        if target is None or self.best is None:
            return False
        return self.best >= target if self._budgets.goal == "maximize" else self.best <= target

    def _failures_spent(self) -> str:
        budgets = self._budgets
        if budgets.failures is not None and self.n_failed > budgets.failures:
            return f"{self.n_failed} trials failed, more than the budget of {budgets.failures}"
        if budgets.failures_percent is not None:
            share = 100 * self.n_failed / max(self.n_over, 1)
            if self.n_over >= MIN_FOR_PERCENT and share > budgets.failures_percent:
                return f"{share:.0f} % of the trials failed, more than the budget of {budgets.failures_percent:g} %"
        if budgets.failures is None and budgets.failures_percent is None:
            all_failed = self.n_failed == self.n_over
            # A study as small as that ends by its number of trials, with the same lesson.
            fewer = budgets.trials is not None and budgets.trials <= FIRST_ALL_FAILED
            if all_failed and self.n_failed >= FIRST_ALL_FAILED and not fewer:
                return f"the first {self.n_failed} trials all failed"
        return ""
