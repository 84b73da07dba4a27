"""The Dask task beside one rank, with a plugin that only listens: where the gang meets, and stops that come early."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Status
from ranks import assignment

from hpsearch.supervisor.plugin import SupervisorPlugin
from hpsearch.supervisor.task import RankSupervisor


class Plugin:
    run = "run"

    def __init__(self, *early: dict[str, Any]) -> None:
        self.early = early
        self.sent: list[dict[str, Any]] = []
        self.ended: list[Any] = []
        self.n_launchers = 0

    def launcher(self) -> str:
        self.n_launchers += 1
        return "/nowhere"

    def send(self, body: dict[str, Any], ended: Any = None) -> None:
        self.sent.append(body)
        if ended:
            self.ended.append(ended)

    def enter(self, key: Any, supervisor: RankSupervisor) -> None:
        for body in self.early:
            supervisor.take(body)

    def leave(self, key: Any) -> None:
        pass

    def doubt(self) -> None:
        pass


STOP = {"op": "stop", "seq": 1, "reason": "rank 0: no good", "grace_s": 0.0, "cause": "error", "after_step": None}
LIMITS = {"time_s": None, "no_progress_s": None, "memory_bytes": None, "grace_s": 1.0}


def run(plugin: Plugin, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    order = {"assignment": assignment(tmp_path, **changes), "limits": LIMITS, "log_path": str(tmp_path / "log")}

    async def supervise() -> list[dict[str, Any]]:
        return await RankSupervisor(plugin, order).run()  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(supervise(), 10))
    return order


def test_rank_0_names_a_port_and_the_others_wait_for_it(tmp_path: Path) -> None:
    main, peer = Plugin(), Plugin({"op": "rendezvous", "seq": 1, "port": 4711})
    env = run(main, tmp_path, world_size=2, env={})["assignment"]["env"]
    assert main.sent[0]["op"] == "rendezvous"
    assert env == {"MASTER_PORT": str(main.sent[0]["port"])}
    env = run(peer, tmp_path, world_size=2, rank=1, env={})["assignment"]["env"]
    assert env == {"MASTER_PORT": "4711"}


def test_a_rank_alone_meets_nobody(tmp_path: Path) -> None:
    plugin = Plugin()
    run(plugin, tmp_path)
    assert [body["op"] for body in plugin.sent] == ["exited"]
    assert plugin.ended == [["run", 7, 1, 0]]


def test_a_stop_before_the_start_ends_a_rank_that_still_waits_for_its_gang(tmp_path: Path) -> None:
    plugin = Plugin(STOP)
    run(plugin, tmp_path, world_size=2, rank=1)
    assert plugin.sent[-1]["ending"]["reason"] == "rank 0: no good"


def test_a_rank_whose_coordinator_is_gone_is_not_started_after_all(tmp_path: Path) -> None:
    plugin = Plugin({**STOP, "cause": "lost", "reason": "the coordinator is gone"})
    run(plugin, tmp_path)
    assert plugin.n_launchers == 1
    assert plugin.sent[-1]["ending"]["cause"] == "lost"


@pytest.mark.parametrize(("status", "closing"), [(Status.running, [False]), (Status.closing, [True, False])])
def test_a_worker_that_ends_is_given_to_nobody_when_its_seats_come_free(status: Status, closing: list[bool]) -> None:
    sent: list[dict[str, Any]] = []
    worker: Any = SimpleNamespace(status=status, batched_send=sent.append)
    plugin = SupervisorPlugin("client", "run", (), 1)
    plugin._worker = worker
    asyncio.run(plugin.teardown(worker))
    assert [message.get("closing", False) for message in sent] == closing
    assert sent[-1]["ended"] == ["run"]
