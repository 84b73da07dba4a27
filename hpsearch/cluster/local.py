"""``cluster: {kind: local}``: scheduler and workers on this machine, gone with the run."""

import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
import psutil
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Nanny, Status

from hpsearch import passwords
from hpsearch.cluster.connection import Connection
from hpsearch.errors import ClusterUnreachable
from hpsearch.supervisor.devices import visible_gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlan:
    """How this machine is cut into workers."""

    n_workers: int
    cpus_per_worker: int
    gpus: tuple[str, ...]

    @property
    def memory_per_worker(self) -> int:
        """Bytes; this machine's memory, dealt out evenly."""
        return int(psutil.virtual_memory().total) // self.n_workers

    def describe_workers(self) -> dict[str, dict[str, Any]]:
        """What each worker will have to offer, as workers describe themselves once they run."""
        fact = {
            "host": socket.gethostname(),
            "cpus": self.cpus_per_worker,
            "gpus": self.gpus,
            "memory_bytes": self.memory_per_worker,
        }
        return {f"worker {index}": fact for index in range(self.n_workers)}


def plan_local(n_workers: int | None, cpus_per_rank: int) -> LocalPlan:
    """One worker with all CPUs, unless a number of workers is asked for.

    Asking for more workers than there are CPUs is taken at its word: each then has room for at least one CPU.
    With GPUs there is one worker, so that no device belongs to two.
    """
    gpus = tuple(visible_gpus())
    if n_workers is None or gpus:
        cpus = max(CPU_COUNT, len(gpus) * cpus_per_rank if gpus else 0)
        return LocalPlan(n_workers=1, cpus_per_worker=cpus, gpus=gpus)
    return LocalPlan(n_workers=n_workers, cpus_per_worker=max(CPU_COUNT // n_workers, 1), gpus=gpus)


def open_local(plan: LocalPlan, scratch: Path) -> Connection:
    """Start scheduler and workers on the loopback interface; they keep their files in the directory ``scratch``.

    A worker's memory limit is what its slots are cut from. Dask itself looks at the worker's own process alone, which
    stays small: ranks have their own limits. A task that loses its worker is never repeated by Dask: the lifecycle
    decides that.

    Raises:
        ClusterUnreachable: no port, process or directory to be had, or a worker does not start.
    """
    with ExitStack() as opened:
        try:
            client = _open(plan, scratch, opened)
        except (OSError, RuntimeError) as error:  # a worker that does not come in time is one of the first
            raise ClusterUnreachable(
                f"no Dask cluster can be started on this machine ({type(error).__name__}: {error})"
            ) from error
        return Connection(client=client, n_workers=plan.n_workers, closers=[opened.pop_all().close])


class _DiscreetNanny(Nanny):
    """Spawns workers, the later ones too, that do not inherit what only this process should know."""

    async def instantiate(self) -> Status:
        # Dask sets these in this process for the worker to inherit, and would leave them.
        with passwords.hiding("__DASK_PARENT_PID", *self.pre_spawn_env):
            return await super().instantiate()


def _open(plan: LocalPlan, scratch: Path, opened: ExitStack) -> Client:
    """The client; ``opened`` gets what has to be closed, also when this fails half-way."""
    opened.callback(_hide_main())
    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.comm.timeouts.connect": "15s",
        "distributed.worker.profile.enabled": False,
    }
    # Hidden out here too: the first spawn starts multiprocessing's own process.
    with dask.config.set(settings), passwords.hiding(), _for_us_alone(signal.SIGINT):
        cluster = LocalCluster(
            n_workers=plan.n_workers,
            threads_per_worker=plan.cpus_per_worker,
            processes=True,
            worker_class=_DiscreetNanny,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=plan.memory_per_worker,
            local_directory=str(scratch),
            silence_logs=logging.CRITICAL,
            name="hpsearch",
        )
    opened.callback(cluster.close)
    client = Client(cluster, set_as_default=False)
    opened.callback(client.close)
    return client


@contextmanager
def _for_us_alone(number: signal.Signals) -> Iterator[None]:
    """Keep a signal from all processes that are started by threads which begin in here.

    A terminal sends Ctrl-C to every process of the command, and workers that die of it cannot drain. Threads and
    processes inherit what is blocked, so Dask's event loop, and each worker that its nannies start, never hear of it;
    the calling thread gets what came meanwhile at the end.
    """
    resource_tracker.ensure_running()  # started by the first spawn, it would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _hide_main() -> Callable[[], None]:
    """Keep worker processes from importing the caller's script; returns what undoes it.

    Multiprocessing has every spawned process import the parent's main module first. Workers run none of it, and a
    script that calls hpsearch without ``if __name__ == "__main__"`` would start a search in each of them. It lasts as
    long as the cluster, because a nanny spawns its worker anew whenever that dies.
    """
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    main.__spec__ = None
    vars(main).pop("__file__", None)

    def show() -> None:
        vars(main).update(hidden)

    return show
