"""Run a study over tests/jobs/gang.py in this process and read what became of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpsearch.api import run_study
from hpsearch.events import Notice
from hpsearch.spec import load_study

JOB = Path(__file__).parent / "jobs" / "gang.py"


def run_gang(
    home: Path,
    function: str,
    *,
    ranks: int,
    trials: int,
    scheduler: str = "",
    name: str = "gangs",
    listen: Callable[[dict[str, Any]], None] = lambda said: None,
    **overrides: object,
) -> list[dict[str, Any]]:
    """Everything that was announced, each with its ``kind``; ``__`` in a name of the overrides stands for a dot."""
    said: list[dict[str, Any]] = []

    def hear(notice: Notice) -> None:
        said.append({"kind": notice.kind, **notice.fields})
        listen(said[-1])

    spec = load_study(
        f"{JOB}:{function}",
        overrides=[f"{key.replace('__', '.')}={value}" for key, value in overrides.items()],
        environ={},
        options={
            "name": name,
            "storage": f"sqlite:///{home}/{name}.db",
            "directory": str(home),
            "budget.trials": trials,
            "resources.ranks": ranks,
            **({"cluster.address": scheduler} if scheduler else {"cluster.workers": ranks}),
        },
    )
    outcome = run_study(spec, listener=hear, interrupts=False)
    said.append({"kind": "outcome", "exit_code": outcome.exit_code, "reason": outcome.reason})
    return said


def of(said: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [notice for notice in said if notice["kind"] == kind]


def told(home: Path, trial: int, attempt: int = 1, name: str = "gangs") -> list[dict[str, Any]]:
    """What each rank of an attempt wrote down, in the order of ranks."""
    directory = home / name / f"trial-{trial:04d}"
    return [json.loads(path.read_text()) for path in sorted(directory.glob(f"attempt-{attempt}-rank-*.json"))]
