"""One data-parallel script for torchrun and for hpsearch: what a step costs, and when the first one was done.

torchrun --nproc-per-node 2 benchmarks/ddp_steps.py prints it; hpsearch runs ``ddp_steps.py:train`` and keeps it.
"""

import json
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

N_STEPS = 300
N_IN_EPOCH = 50


def run(report):
    """Times of rank 0: ``report(loss, epoch)`` is called by every rank after each epoch."""
    times = {"first_line_ns": time.time_ns(), "steps_s": []}
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = [torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU()]
    model = DistributedDataParallel(torch.nn.Sequential(*layers, torch.nn.Linear(256, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs = torch.randn(256, 64)
    cpu_s = time.process_time()
    for step in range(N_STEPS):
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        if step % N_IN_EPOCH == N_IN_EPOCH - 1:
            report(loss.item(), step // N_IN_EPOCH)
        times["steps_s"].append(time.perf_counter() - began)
        if step == 0:
            times["step_done_ns"] = time.time_ns()
    times["cpu_s"] = (time.process_time() - cpu_s) / N_STEPS  # of a step; it does not depend on who else is there
    dist.barrier()
    return times


def train(trial):
    def report(loss, epoch):
        trial.report(loss, epoch)
        trial.should_prune()

    for name, value in run(report).items():
        trial.set_user_attr(name, value)
    return 0.0


def ask_optuna(url):
    """Report and should_prune by Optuna's own wrapper over a process group, at every step."""
    import optuna
    from optuna_integration import TorchDistributedTrial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    dist.init_process_group("gloo")
    trial = None
    if dist.get_rank() == 0:
        study = optuna.create_study(storage=url or None, pruner=optuna.pruners.ThresholdPruner(upper=1.0))
        trial = study.ask()
    trial = TorchDistributedTrial(trial)
    waits_s = []
    for step in range(100):
        began = time.perf_counter()
        trial.report(0.5, step)
        trial.should_prune()
        waits_s.append(time.perf_counter() - began)
    return {"waits_s": waits_s}


if __name__ == "__main__":
    times = ask_optuna(sys.argv[2]) if sys.argv[1:2] == ["--optuna"] else run(lambda loss, epoch: None)
    if os.environ["RANK"] == "0":
        print(json.dumps(times), flush=True)
    os._exit(0)  # torch 2.13 may hang or abort when it takes gloo down by itself; hpsearch sees to that
