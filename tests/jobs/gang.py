"""Data-parallel jobs on gloo. Each rank writes down what it was told, for the test to compare."""

import ctypes
import json
import os
import signal
import socket
import sys
import time

import optuna
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def write(trial, told):
    path = trial.directory / f"attempt-{trial.attempt}-rank-{trial.rank}.json"
    path.write_text(json.dumps(told))


def build(trial, **suggested):
    torch.manual_seed(trial.number)
    model = trial.wrap(torch.nn.Linear(4, 1))
    return model, torch.optim.SGD(model.parameters(), lr=1e-3)


def epoch(model, optimizer, n_steps=3):
    for _ in range(n_steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()


def train(trial):
    """A few epochs of DDP; the value is a function of the parameters alone."""
    told = {"params": {}, "env": {name: os.environ[name] for name in VARIABLES}, "decisions": []}
    lr = told["params"]["lr"] = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    model, optimizer = build(trial)
    told["world_size"] = dist.get_world_size()
    told["rank"] = dist.get_rank()
    start = trial.load({"model": model, "optimizer": optimizer})
    told["start"] = start
    try:
        for step in range(start, trial.params.get("epochs", 6)):
            time.sleep(trial.params.get("pause", 0.0) * (1 + trial.rank))
            epoch(model, optimizer)
            trial.save({"model": model, "optimizer": optimizer}, step)
            # What the others report is nobody's business.
            trial.report(lr + 1 / (1 + step) if trial.is_main else -1e9, step)
            pruned = trial.should_prune()
            told["decisions"].append([step, pruned])
            if pruned:
                raise optuna.TrialPruned
        told["width"] = trial.suggest_int("width", 1, 64)  # a question of each rank, whenever it comes
        weights = [weight.detach().flatten().tolist() for weight in model.parameters()]
        told["weights"] = weights
    finally:
        write(trial, told)
    return lr


def by_hand(trial):
    """The job initialises and destroys the process group itself, in the order in which torch 2.13 deadlocks."""
    dist.init_process_group("gloo")
    model = trial.wrap(torch.nn.Linear(4, 1))
    assert isinstance(model, DistributedDataParallel)
    epoch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    dist.destroy_process_group()
    del model
    return 1.0


def goes_wrong(trial):
    """Rank 1 goes wrong at step 2 of the first attempt, as the parameter says; the others wait in a collective."""
    model, optimizer = build(trial)
    start = trial.load({"model": model, "optimizer": optimizer})
    write(trial, {"start": start, "pid": os.getpid()})
    for step in range(start, 5):
        if step == 2 and trial.rank == trial.params.get("culprit", 1) and trial.attempt == 1:
            go_wrong(trial.params["how"])
        epoch(model, optimizer)
        trial.save({"model": model, "optimizer": optimizer}, step)
        trial.report(float(step), step)
        trial.should_prune()
    return 1.0


def go_wrong(how):
    match how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "raise":
            raise ValueError("no good")
        case "prune":
            raise optuna.TrialPruned
        case "return":
            raise Leave
        case "exit":
            sys.exit(3)
        case "skip":  # an all-reduce: it never comes, and neither does its rank leave
            time.sleep(1000)
        case "hang_in_c":
            ctypes.PyDLL(None).sleep(1000)  # holds the GIL


class Leave(Exception):
    """Out of the loop."""


def leaves_early(trial):
    try:
        return goes_wrong(trial)
    except Leave:
        return 0.0


def two_minds(trial):
    """The ranks ask for one name with two ranges."""
    return trial.suggest_float("x", 0.0, 1.0 + trial.rank)


def short(trial):
    """A rank that knows its number; no torch, so that hundreds are through soon."""
    return float(trial.rank + trial.suggest_float("x", 0.0, 1.0))


def sleepy(trial):
    write(trial, {"pid": os.getpid()})
    time.sleep(1000)


def port_taken(trial):
    if trial.attempt == 1 and trial.is_main:
        taker = socket.socket()  # before torch comes to listen
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taker.bind(("", int(os.environ["MASTER_PORT"])))
        taker.listen()
    return by_hand(trial)
