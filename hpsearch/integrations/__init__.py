"""Callbacks for trainers of other libraries, a module for each; nothing is imported before it is asked for."""

from typing import Literal

from optuna import TrialPruned

from hpsearch.trial import Trial, current

StepUnit = Literal["epoch", "optimizer_step"]


class Reporter:
    """Reports a metric to a trial and asks whether to go on. Meant for every rank: rank 0's value counts."""

    def __init__(self, monitor: str, step: StepUnit, trial: Trial | None) -> None:
        self.monitor = monitor
        self.step = step
        self._trial = trial

    def tell(self, value: float, *, epoch: float, optimizer_step: int) -> None:
        """Report; raises optuna.TrialPruned if the trial is not worth going on with, TrialStopped if it must end."""
        trial = self._trial = self._trial or current()
        trial.report(value, round(epoch) if self.step == "epoch" else optimizer_step)
        if trial.should_prune():
            raise TrialPruned
