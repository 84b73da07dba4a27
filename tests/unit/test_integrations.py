"""The callbacks in the trainers they are made for, which run for real on a few numbers."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hpsearch.trial import StandIn

pytestmark = [
    pytest.mark.timeout(110),
    pytest.mark.filterwarnings("ignore"),  # other people's deprecations
]


class Recorder(StandIn):
    """A trial that is pruned once it has reported at ``prune_at``."""

    def __init__(self, prune_at: int | None = None) -> None:
        super().__init__({})
        self.steps: list[int] = []
        self.values: list[float] = []
        self._prune_at = prune_at

    def report(self, value: float, step: int, **more: float) -> None:
        self.steps.append(step)
        self.values.append(value)

    def should_prune(self) -> bool:
        return self._prune_at is not None and self.steps[-1] >= self._prune_at


def fit_lightning(directory: Path, trial: Recorder, monitor: str = "val_loss") -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra integrations")
    from hpsearch.integrations.lightning import HpsearchCallback

    class Line(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            return self.layer(batch[0]).square().mean()

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self.layer(batch[0]).square().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    loader = DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=2)
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=directory,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[HpsearchCallback(monitor, trial=trial)],
    )
    trainer.fit(Line(), loader, loader)


def fit_transformers(directory: Path, trial: Recorder, monitor: str = "eval_loss") -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra integrations")
    from hpsearch.integrations.transformers import HpsearchCallback

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            found = self.layer(x)
            return {"loss": (found - labels).square().mean(), "logits": found}

    data = [{"x": torch.ones(1), "labels": torch.zeros(1)} for _ in range(4)]
    arguments = transformers.TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=3,
        per_device_train_batch_size=2,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=Line(), args=arguments, train_dataset=data, eval_dataset=data,
        callbacks=[HpsearchCallback(monitor, trial=trial)],
    )  # fmt: skip
    trainer.train()


FITS = {"lightning": (fit_lightning, [0, 1, 2]), "transformers": (fit_transformers, [1, 2, 3])}


@pytest.mark.parametrize("library", FITS)
def test_every_evaluation_is_reported(library, tmp_path):
    fit, steps = FITS[library]
    trial = Recorder()
    fit(tmp_path, trial)
    assert trial.steps == steps
    assert trial.values[0] > trial.values[2] > 0


@pytest.mark.parametrize("library", FITS)
def test_a_verdict_ends_the_training(library, tmp_path):
    fit, steps = FITS[library]
    trial = Recorder(prune_at=steps[1])
    with pytest.raises(optuna.TrialPruned):
        fit(tmp_path, trial)
    assert trial.steps == steps[:2]


@pytest.mark.parametrize("library", FITS)
def test_a_metric_that_is_not_there_is_named(library, tmp_path):
    fit, _ = FITS[library]
    with pytest.raises(KeyError, match=r"'nothing'.*loss"):
        fit(tmp_path, Recorder(), "nothing")
