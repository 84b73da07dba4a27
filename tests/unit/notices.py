"""A run's notices, made by hand."""

from hpsearch.console import Hints
from hpsearch.console.progress import Progress
from hpsearch.events import Notice

HINTS = Hints(study="digits", storage="sqlite:///studies.db")
T0 = 1_700_000_000.0


def notice(kind: str, at: float = 0.0, **fields: object) -> Notice:
    return Notice(kind=kind, time=T0 + at, fields=fields)


def started(**changes: object) -> Notice:
    fields: dict[str, object] = {
        "study": "digits",
        "storage": "sqlite:///studies.db",
        "directory": "runs/digits",
        "total": 60,
        "done": 0,
        "sampler": "tpe",
        "pruner": "asha(reduction_factor=3)",
        "directions": ["maximize"],
        "metric_names": ["accuracy"],
        "slots": 2,
        "time_s": None,
        "resumed": 0,
    }
    return notice("study.started", **{**fields, **changes})


def begun(
    trial: int, at: float = 0.0, *, slot: int = 0, attempt: int = 1, worker: str = "w", **params: object
) -> Notice:
    return notice("trial.started", at, trial=trial, attempt=attempt, worker=worker, slot=slot, params=params)


def reported(trial: int, step: int, value: float, at: float = 0.0, **more: object) -> Notice:
    return notice("trial.reported", at, trial=trial, attempt=1, step=step, value=value, metrics={}, **more)


def completed(trial: int, value: float, at: float = 0.0, *, best: bool = False) -> Notice:
    return notice("trial.completed", at, trial=trial, attempt=1, values=[value], best=best, duration_s=3.0)


def pruned(trial: int, step: int, at: float = 0.0) -> Notice:
    return notice("trial.pruned", at, trial=trial, attempt=1, step=step, value=0.1, reason="below the best third")


def failed(trial: int, reason: str = "segmentation fault (SIGSEGV)", at: float = 0.0) -> Notice:
    return notice("trial.failed", at, trial=trial, attempt=1, cause="signal", reason=reason, log=f"t{trial}.log")


def finished(exit_code: int = 0, **changes: object) -> Notice:
    fields: dict[str, object] = {
        "reason": "60 trials",
        "exit_code": exit_code,
        "counts": {"complete": 30, "pruned": 28, "failed": 2, "unfinished": 0},
        "best": {"trial": 17, "values": [0.9833], "params": {"lr": 0.0123, "width": 128}},
        "duration_s": 134.2,
        "resume": "hpsearch run study.yaml",
    }
    return notice("study.finished", 134.2, **{**fields, **changes})


def folded(*notices: Notice) -> Progress:
    progress = Progress()
    for each in notices:
        progress.apply(each)
    return progress
