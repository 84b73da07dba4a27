"""What hpsearch adds to a Dask worker: the warm launcher of a study, and the supervisors' end of the message way."""

import asyncio
import json
import logging
import socket
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from distributed import Status, Worker
from distributed.diagnostics.plugin import WorkerPlugin

from hpsearch.launcher import LauncherProcess, rank_environment
from hpsearch.launcher import start as start_launcher
from hpsearch.supervisor.devices import visible_gpus
from hpsearch.supervisor.notice import Notice
from hpsearch.supervisor.relay import COORDINATOR_GONE, DOWN, UP, plugin_name

logger = logging.getLogger(__name__)

RankKey = tuple[int, int, int]  # trial, attempt, rank
N_EARLY = 1000


class SupervisorPlugin(WorkerPlugin):
    """One study's presence on a worker.

    Args:
        client: id of the coordinator's Dask client, to which everything is reported.
        run: the coordinator's mark of this run, on all that is reported.
        imports: modules that the launcher loads before the first rank is forked.
        cpus_per_rank: for the thread counts of the ranks.
        launcher_path: socket of a launcher that runs on this machine already; empty for none.
    """

    def __init__(
        self, client: str, run: str, imports: Sequence[str], cpus_per_rank: int, launcher_path: str = ""
    ) -> None:
        self.name = plugin_name(client)
        self.client = client
        self.run = run
        self.imports = tuple(imports)
        self.cpus_per_rank = cpus_per_rank
        self.launcher_path = launcher_path
        self.supervisors: dict[RankKey, Any] = {}  # what runs here now; values have take() and coordinator_gone()
        self._early: OrderedDict[RankKey, list[dict[str, Any]]] = OrderedDict()
        self._own: LauncherProcess | None = None
        self._gone = False  # whether the coordinator is
        self._doubtful = True  # whether the launcher should be looked at before it is used
        self._over = False  # the study is: no other launcher is started any more

    def setup(self, worker: Worker) -> None:
        """Open the way down, warm the launcher, and introduce the worker to the coordinator."""
        self._worker = worker
        ways: dict[str, SupervisorPlugin] = worker.__dict__.setdefault("_hpsearch_ways", {})
        ways[self.client] = self
        worker.stream_handlers[DOWN] = lambda client, body: _dispatch(ways, client, body)
        if "_hpsearch_notice" not in worker.__dict__:
            notice = worker.__dict__["_hpsearch_notice"] = Notice(partial(_tell, ways), partial(_busy, ways))
            notice.listen()
        self.launcher()
        facts = describe(worker)
        self.send({"op": "joined", **facts}, joined=facts)

    async def teardown(self, worker: Worker) -> None:
        """The study is over: its launcher ends, and every rank that is still there with it."""
        ways = worker.__dict__.get("_hpsearch_ways", {})
        ways.pop(self.client, None)
        if not ways and (notice := worker.__dict__.pop("_hpsearch_notice", None)) is not None:
            notice.close()
        self._over = True
        if worker.status is not Status.running:  # it is the worker that ends: nobody else sits here
            self.send(None, closing=True)
        self._end_all()
        await asyncio.to_thread(self._close_own)

    def send(self, body: dict[str, Any] | None, **for_relay: Any) -> None:
        """Send to the coordinator; lost without a word while the worker is disconnected.

        Args:
            for_relay: ``joined`` and ``ended`` of :meth:`hpsearch.supervisor.relay.Relay.up`.
        """
        text = "" if body is None else json.dumps({**body, "run": self.run})
        self._worker.batched_send({"op": UP, "client": self.client, "body": text, **for_relay})

    def launcher(self) -> str:
        """Socket path of a launcher that lives: the machine's shared one, else one of our own."""
        if self._doubtful and not self._over:
            if self.launcher_path and not _answers(self.launcher_path):
                self.launcher_path = ""
            if not self.launcher_path and (self._own is None or not _answers(str(self._own.path))):
                self._close_own()
                directory = Path(tempfile.gettempdir())
                self._own = start_launcher(self.imports, directory, rank_environment(self.cpus_per_rank))
            self._doubtful = False
        return self.launcher_path or str(self._own.path if self._own else "")

    def doubt(self) -> None:
        """A rank was lost: the next one asks first whether the launcher still answers."""
        self._doubtful = True

    def _close_own(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None

    def take(self, body: dict[str, Any]) -> None:
        """Hand a message from the coordinator to the rank that it is for."""
        if body["op"] == COORDINATOR_GONE:
            self._end_all()
            return
        key = (body["trial"], body["attempt"], body["rank"])
        if (supervisor := self.supervisors.get(key)) is not None:
            supervisor.take(body)
        elif body["op"] != "acknowledged":  # it overtook its own task, or the rank has ended meanwhile
            self._early.setdefault(key, []).append(body)
            while len(self._early) > N_EARLY:
                self._early.popitem(last=False)

    def enter(self, key: RankKey, supervisor: Any) -> None:
        """A rank's supervisor begins, and hears what came before it."""
        self.supervisors[key] = supervisor
        for body in self._early.pop(key, ()):
            supervisor.take(body)
        if self._gone:
            supervisor.coordinator_gone()

    def leave(self, key: RankKey) -> None:
        """Its processes are reaped."""
        del self.supervisors[key]
        self._say_cleared()

    def _end_all(self) -> None:
        self._gone = True
        for supervisor in list(self.supervisors.values()):
            supervisor.coordinator_gone()
        self._say_cleared()

    def _say_cleared(self) -> None:
        """Once nothing of a coordinator that is gone is left here, and nothing can come, its slots are free."""
        if self._gone and not self.supervisors:
            self.send(None, ended=[self.run])


def describe(dask_worker: Worker) -> dict[str, Any]:
    """What a worker has to offer, as plain data: host, cpus, gpus, memory_bytes.

    A worker without a memory limit of its own has the whole host's to give, and says so; several on one host then
    promise it more than once.
    """
    return {
        "host": socket.gethostname(),
        "cpus": dask_worker.state.nthreads,
        "gpus": visible_gpus()[: 1 if _is_dask_cuda(dask_worker) else None],
        "memory_bytes": dask_worker.memory_manager.memory_limit or psutil.virtual_memory().total,
    }


def _is_dask_cuda(worker: Worker) -> bool:
    """Its workers see all GPUs of the host, each in an order of its own, and mean the first."""
    return any(type(plugin).__module__.split(".")[0] == "dask_cuda" for plugin in worker.plugins.values())


def find_plugin(worker: Worker, client: str) -> SupervisorPlugin:
    """The plugin instance of a coordinator on this worker."""
    plugin = worker.plugins[plugin_name(client)]
    assert isinstance(plugin, SupervisorPlugin)
    return plugin


def _dispatch(ways: dict[str, SupervisorPlugin], client: str, body: str) -> None:
    if (plugin := ways.get(client)) is not None:
        plugin.take(json.loads(body))


def _tell(ways: dict[str, SupervisorPlugin], reason: str) -> None:
    for plugin in ways.values():
        plugin.send({"op": "preempted", "reason": reason}, closing=True)


def _busy(ways: dict[str, SupervisorPlugin]) -> bool:
    return any(plugin.supervisors for plugin in ways.values())


def _answers(path: str) -> bool:
    """Whether somebody listens on a unix socket; its backlog answers even while the launcher still preloads."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except OSError:
        return False
    finally:
        probe.close()
    return True
