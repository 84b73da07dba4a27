"""Train a small network to read handwritten digits: 1,797 images of 8 x 8 pixels, from scikit-learn.

Searched by ``hpsearch run studies/digits.yaml``; once, by hand: ``python trials/digits.py``.
"""

from functools import cache

import optuna
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import hpsearch


@cache
def load_data() -> tuple[torch.Tensor, ...]:
    """Training images (1347, 64), validation images (450, 64), and their labels; always the same split."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=450, stratify=labels, random_state=0)
    x_train, x_valid, y_train, y_valid = (torch.as_tensor(part) for part in parts)
    return x_train.float(), x_valid.float(), y_train, y_valid


def build(params: dict) -> tuple[nn.Module, torch.optim.Optimizer]:
    width = params["width"]
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    if params["optimizer"] == "sgd":
        return model, torch.optim.SGD(model.parameters(), lr=params["lr"], momentum=params["momentum"], nesterov=True)
    return model, torch.optim.AdamW(model.parameters(), lr=params["lr"] / 10)  # its good rates lie lower than SGD's


@torch.no_grad()
def evaluate(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    return (model(images).argmax(dim=1) == labels).float().mean().item()


def train(trial: hpsearch.Trial) -> float:
    """Validation accuracy after the last epoch."""
    params = trial.params
    x_train, x_valid, y_train, y_valid = load_data()
    torch.manual_seed(trial.number)  # the weights a trial begins with
    model, optimizer = build(params)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, params["epochs"])

    start = trial.load({"model": model, "optimizer": optimizer, "schedule": schedule})  # 0, or where an attempt died
    for epoch in range(start, params["epochs"]):
        shuffled = torch.randperm(len(x_train), generator=torch.Generator().manual_seed(epoch))
        for batch in shuffled.split(params["batch_size"]):
            loss = nn.functional.cross_entropy(model(x_train[batch]), y_train[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()

        trial.save({"model": model, "optimizer": optimizer, "schedule": schedule}, step=epoch)
        trial.report(evaluate(model, x_valid, y_valid), step=epoch, loss=loss.item())
        if trial.should_prune():
            raise optuna.TrialPruned
    return evaluate(model, x_valid, y_valid)


if __name__ == "__main__":
    example = {"lr": 0.1, "width": 64, "batch_size": 32, "optimizer": "sgd", "momentum": 0.9, "epochs": 20}
    print("accuracy", train(hpsearch.current(**example)))
