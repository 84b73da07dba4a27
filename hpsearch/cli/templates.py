"""What ``hpsearch init`` writes: a small search that ends within a minute, to be edited into one's own."""

STUDY = """\
# yaml-language-server: $schema=study.schema.json
name: spirals
objective: train.py:train
metric: {name: accuracy, goal: maximize}

parameters:
  lr: {min: 1e-4, max: 0.3, log: true}
  width: {min: 8, max: 128, log: true}     # two ints: an int range
  activation: [relu, tanh]                 # a list: one of these
  optimizer: [sgd, adam]
  momentum: {min: 0.0, max: 0.99, when: {optimizer: sgd}}
  steps: 20                                # a single value: the same in every trial

sampler: tpe
pruner: {asha: {min_resource: 1, reduction_factor: 3}}
budget: {trials: 30, time: 10m}            # trials: the total, however often the search is run
resources: {cpus: 1, time: 2m}             # of one trial
storage: sqlite:///studies.db
"""

TRAIN = '''\
"""Tell two spirals apart with a small network.

The search: ``hpsearch run study.yaml``. Once, by hand: ``python train.py``.
"""

import math

import optuna
import torch
from torch import nn

import hpsearch


def spirals(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (2n, 2) on two arms with some noise, and the arm (2n,) that each belongs to."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(n, generator=generator).sqrt() * 3 * math.pi
    arm = torch.stack([angle.cos() * angle, angle.sin() * angle], dim=1) / 10
    points = torch.cat([arm, -arm]) + 0.02 * torch.randn(2 * n, 2, generator=generator)
    return points, torch.cat([torch.zeros(n), torch.ones(n)]).long()


def build(params: dict) -> tuple[nn.Module, torch.optim.Optimizer]:
    width = params["width"]
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[params["activation"]]
    model = nn.Sequential(
        nn.Linear(2, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 2)
    )
    if params["optimizer"] == "sgd":
        return model, torch.optim.SGD(model.parameters(), lr=params["lr"], momentum=params["momentum"])
    return model, torch.optim.Adam(model.parameters(), lr=params["lr"])


def train(trial: hpsearch.Trial) -> float:
    """Share of the validation points that end on the right arm."""
    params = trial.params
    x_train, y_train = spirals(500, seed=0)
    x_valid, y_valid = spirals(500, seed=1)
    torch.manual_seed(trial.number)
    model, optimizer = build(params)

    accuracy = 0.0
    for step in range(trial.load({"model": model, "optimizer": optimizer}), params["steps"]):  # 0, or where it died
        for batch in torch.randperm(len(x_train)).split(50):
            loss = nn.functional.cross_entropy(model(x_train[batch]), y_train[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (model(x_valid).argmax(dim=1) == y_valid).float().mean().item()

        trial.save({"model": model, "optimizer": optimizer}, step=step)
        trial.report(accuracy, step=step, loss=loss.item())
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


if __name__ == "__main__":
    example = {"lr": 0.01, "width": 64, "activation": "relu", "optimizer": "adam", "steps": 20}
    print("accuracy", train(hpsearch.current(**example)))
'''
