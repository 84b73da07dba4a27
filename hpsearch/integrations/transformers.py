"""For Hugging Face: ``Trainer(callbacks=[HpsearchCallback("eval_loss")])``."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hpsearch.integrations import Reporter, StepUnit
from hpsearch.trial import Trial


class HpsearchCallback(TrainerCallback):  # type: ignore[misc]
    """Reports a metric after every evaluation, and ends the training when its trial is pruned.

    Args:
        monitor: its name in the evaluation's metrics.
        step: what is counted; "epoch" is the number of epochs that are done.
        trial: that of the process if not given.

    Raises KeyError, with the names that there are, if an evaluation gives nothing of that name.
    """

    def __init__(self, monitor: str = "eval_loss", *, step: StepUnit = "epoch", trial: Trial | None = None) -> None:
        self._reporter = Reporter(monitor, step, trial)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called by the Trainer on every rank."""
        metrics, monitor = kwargs["metrics"], self._reporter.monitor
        if monitor not in metrics:
            raise KeyError(f"{monitor!r} is not among the metrics (there are: {', '.join(sorted(metrics))})")
        self._reporter.tell(float(metrics[monitor]), epoch=state.epoch or 0.0, optimizer_step=state.global_step)
