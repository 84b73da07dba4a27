"""A Dask scheduler and two workers, each a process of its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

ROOT = Path(__file__).parents[3]
START_S = 60.0
# A test run that is killed takes along what it started, by the kernel's word to each child.
DIES_WITH_US = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
N_THREADS = 4


def environment() -> dict[str, str]:
    """For every process of a standard run: both the package and this harness can be imported."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parents[1]}", "PYTHONWARNINGS": "default"}


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    address: str
    pids: frozenset[int]


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process of ours and reap it."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running_cluster(directory: Path) -> Iterator[Cluster]:
    """Two workers with four slots each."""
    with ExitStack() as exit_:

        def start(name: str, *arguments: str) -> int:
            with (directory / f"{name}.log").open("wb") as log:
                command: Sequence[str] = (*DIES_WITH_US, sys.executable, "-m", *arguments)
                process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), cwd=directory)
            exit_.callback(end, process)
            return process.pid

        file = directory / "scheduler.json"
        where = ("--host", "127.0.0.1", "--no-dashboard")
        pids = [
            start("scheduler", "distributed.cli.dask_scheduler", *where, "--port", "0", "--scheduler-file", str(file))
        ]
        address = _address(file)
        preload = str(Path(__file__).with_name("worker.py"))
        for name in ("worker-a", "worker-b"):
            options = ("--nthreads", str(N_THREADS), "--no-nanny", "--memory-limit", "0", "--preload", preload)
            scratch = ("--local-directory", str(directory / name))
            pids.append(start(name, "distributed.cli.dask_worker", address, *where, *options, *scratch))
        with Client(address, set_as_default=False, timeout=START_S) as client:
            client.wait_for_workers(2, timeout=START_S)
        yield Cluster(address, frozenset(pids))


def _address(file: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            return str(json.loads(file.read_text())["address"])
        except (OSError, ValueError):
            time.sleep(0.02)
    raise TimeoutError(f"no scheduler wrote {file}")
