"""How long a trial takes to start: from the coordinator's launch command to the first line of user code.

In turns, on one machine and in one run:

- a bare ``os.fork`` from a process with torch imported, to the first line of the child and to the end of its first
  optimizer step;
- one no-op Dask task, from submit to its result;
- trials of a study on one slot.

python benchmarks/launch.py [rounds] [starts a round]
"""

import gc
import os
import struct
import subprocess
import sys
import time

from distributed import Client, LocalCluster
from figures import PYTHON, Figure, median, percentile, show

MAX_FIRST_LINE, MAX_FIRST_STEP = 1.5, 3.0


def forks(n_forks: int) -> None:
    """Print, for each fork, the seconds to the child's first line and to the end of its first optimizer step."""
    import torch
    import torch._dynamo
    from torch_step import optimizer_step

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    for _ in range(n_forks):
        receiving, sending = os.pipe()
        began_ns = time.time_ns()
        pid = os.fork()
        if pid == 0:
            first_line_ns = time.time_ns()
            optimizer_step()
            os.write(sending, struct.pack("2q", first_line_ns, time.time_ns()))
            os._exit(0)
        first_line_ns, step_done_ns = struct.unpack("2q", os.read(receiving, 16))
        os.waitpid(pid, 0)
        os.close(receiving)
        os.close(sending)
        print((first_line_ns - began_ns) / 1e9, (step_done_ns - began_ns) / 1e9)


def time_forks(n_forks: int) -> list[tuple[float, float]]:
    """In a process of its own, as a launcher is: this one has threads and Dask."""
    output = subprocess.run(
        [PYTHON, __file__, "--forks", str(n_forks)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return [(float(first), float(step)) for first, step in map(str.split, output.splitlines())]


def time_tasks(n_tasks: int) -> list[float]:
    """Seconds from submit to result of a task that does nothing."""
    round_trips = []
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.submit(int, pure=False).result()
        for _ in range(n_tasks):
            began = time.perf_counter()
            client.submit(int, pure=False).result()
            round_trips.append(time.perf_counter() - began)
    return round_trips


def time_trials(n_trials: int) -> list[tuple[float, float]]:
    """Seconds from the launch command to the first line, and to the end of the first optimizer step."""
    from local_run import run_job

    times = []
    for trial in run_job("start", trials=n_trials, slots=1)[1:]:  # the first one waits for the launcher's imports
        began = trial.attempt.started
        times.append((trial.user_attrs["first_line_ns"] / 1e9 - began, trial.user_attrs["step_done_ns"] / 1e9 - began))
    return times


def main(n_rounds: int, n_starts: int) -> None:
    bare: list[tuple[float, float]] = []
    tasks: list[float] = []
    trials: list[tuple[float, float]] = []
    for _ in range(n_rounds):
        bare += time_forks(n_starts)
        tasks += time_tasks(n_starts)
        trials += time_trials(n_starts + 1)
    fork_line, fork_step = (1e3 * median(column) for column in zip(*bare, strict=True))
    task = 1e3 * median(tasks)
    line, step = ([1e3 * value for value in column] for column in zip(*trials, strict=True))
    show(
        "launch",
        [
            Figure("os.fork to the child's first line, p50", fork_line, "ms"),
            Figure("os.fork to the end of its first optimizer step, p50", fork_step, "ms"),
            Figure("no-op Dask task, submit to result, p50", task, "ms"),
            Figure("launch to a trial's first line, p50", median(line), "ms", bar=MAX_FIRST_LINE * (fork_line + task)),
            Figure("launch to a trial's first line, p90", percentile(line, 90), "ms"),
            Figure("launch to the end of its first step, p50", median(step), "ms", bar=MAX_FIRST_STEP * fork_step),
            Figure("launch to the end of its first step, p90", percentile(step, 90), "ms"),
        ],
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--forks"]:
        forks(int(sys.argv[2]))
    else:
        arguments = [int(argument) for argument in sys.argv[1:]]
        main(*(arguments + [4, 15][len(arguments) :]))
