"""Preloaded by the Dask workers of the standard run: logs each report that the coordinator said is committed."""

import os
from typing import Any

from harness.oplog import OpLog
from hpsearch.supervisor.task import RankSupervisor

_logs: dict[str, OpLog] = {}


def dask_setup(worker: object) -> None:
    """Called by Dask once the worker is there."""
    take = RankSupervisor.take

    def observed(supervisor: RankSupervisor, body: dict[str, Any]) -> None:
        if body["op"] == "acknowledged":
            _log_reports(supervisor, body["through"])
        take(supervisor, body)

    RankSupervisor.take = observed  # type: ignore[method-assign]


def _log_reports(supervisor: RankSupervisor, through: int) -> None:
    path = supervisor._order["assignment"]["params"]["log"]
    if path not in _logs and os.path.exists(path):
        _logs[path] = OpLog(path)
    for message in supervisor._outbox.kept:
        if message["seq"] <= through and message["op"] == "report":
            fields = {key: message[key] for key in ("trial", "attempt", "step", "value")}
            _logs[path].say("report", "acknowledged", **fields)
