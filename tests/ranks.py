"""Run ranks in tests: an assignment with sensible values, a keeper around it, everything that was said."""

import asyncio
import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpsearch.events import Ending
from hpsearch.launcher import LauncherProcess
from hpsearch.supervisor.keeper import Keeper, Limits, LogTarget

JOBS = Path(__file__).parent / "jobs"


def assignment(directory: Path, target: str | Path = "", function: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "op": "assignment", "study": "tests", "trial": 7, "attempt": 1, "rank": 0, "local_rank": 0, "world_size": 1,
        "params": {}, "distributions": {}, "user_attrs": {}, "seed": None, "env": {}, "cwd": str(directory),
        "objective": {"kind": "file", "target": str(target), "function": function, "blob": ""},
        "directory": str(directory / "trial"), "next_decision_step": None, "n_objectives": 1,
        "directions": ["minimize"], "memory_bytes": None, "sys_path": [],
        "datetime_start": datetime.datetime(2026, 1, 2, 3, 4, 5).isoformat(), **changes,
    }  # fmt: skip


@dataclass
class Run:
    """What became of one rank."""

    keeper: Keeper
    said: list[dict[str, Any]] = field(default_factory=list)
    ending: Ending | None = None
    log: str = ""

    def ops(self) -> list[str]:
        return [message["op"] for message in self.said]


def prepare(launcher: LauncherProcess | str, order: dict[str, Any], limits: Limits, answer: Any = None) -> Run:
    """A keeper that is not running yet. ``answer(keeper, message)`` hears every message."""
    path = str(launcher.path) if isinstance(launcher, LauncherProcess) else launcher

    def hear(message: dict[str, Any]) -> None:
        run.said.append(message)
        if answer is not None:
            answer(run.keeper, message)

    run = Run(Keeper(path, order, limits, LogTarget(path=Path(order["directory"]) / "log"), hear))
    return run


async def follow(run: Run, directory: Path) -> Run:
    run.ending = await run.keeper.run()
    log = directory / "trial" / "log"
    run.log = log.read_text(errors="replace") if log.exists() else ""
    return run


def run_rank(
    launcher: LauncherProcess | str,
    directory: Path,
    order: dict[str, Any],
    limits: Limits | None = None,
    answer: Any = None,
) -> Run:
    """One rank from fork to burial, on an event loop of its own."""
    return asyncio.run(follow(prepare(launcher, order, limits or Limits(grace_s=0.4), answer), directory))
