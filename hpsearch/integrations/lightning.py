"""For Lightning: ``Trainer(callbacks=[HpsearchCallback("val_loss")])``."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from hpsearch.integrations import Reporter, StepUnit
from hpsearch.trial import Trial


class HpsearchCallback(Callback):  # type: ignore[misc]
    """Reports a logged metric after every validation, and ends the training when its trial is pruned.

    Args:
        monitor: name under which the module logs it; under DDP with ``sync_dist=True``, as for any callback.
        step: what is counted; "epoch" counts from 0.
        trial: that of the process if not given.

    Raises KeyError, with the names that there are, if nothing of that name is logged by the end of a validation.
    """

    def __init__(self, monitor: str, *, step: StepUnit = "epoch", trial: Trial | None = None) -> None:
        self._reporter = Reporter(monitor, step, trial)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Called by Lightning on every rank."""
        if trainer.sanity_checking:
            return
        metrics, monitor = trainer.callback_metrics, self._reporter.monitor
        if monitor not in metrics:
            raise KeyError(f"{monitor!r} is not logged (logged: {', '.join(sorted(metrics)) or 'nothing'})")
        self._reporter.tell(float(metrics[monitor]), epoch=trainer.current_epoch, optimizer_step=trainer.global_step)
