"""Studies in a database, made by hand, for the tests of the command line."""

import json
from pathlib import Path
from typing import Any

import optuna

from hpsearch.storage import AttemptRow, StudyRecord, StudyStore, open_study

STUDY = """\
name: small
objective: job.py:train
metric: {name: accuracy, goal: maximize}
parameters:
  lr: {min: 1e-4, max: 1.0, log: true}
  width: {min: 16, max: 256}
  epochs: 20
budget: {trials: 4, time: 10m}
storage: sqlite:///studies.db
"""
JOB = "def train(trial):\n    return 1.0\n"


def open_store(folder: Path, name: str) -> StudyStore:
    record = StudyRecord(
        spec_text=STUDY,
        space_json=json.dumps({"parameters": {"width": {"labels": {}}}, "constants": {"epochs": 20}}),
        command="hpsearch run study.yaml",
        directory=str(folder / "runs" / name),
        version="0.1.0",
    )
    return open_study(
        f"sqlite:///{folder}/studies.db",
        name,
        directions=["maximize"],
        metric_names=["accuracy"],
        record=record,
        sampler=optuna.samplers.RandomSampler(seed=1),
        pruner=optuna.pruners.NopPruner(),
        fresh=False,
        on_commit=lambda ticket: None,
        on_error=lambda error: None,
        on_request=lambda request: None,
    )


def add_trial(store: StudyStore, folder: Path, number: int, kind: str) -> None:
    trial = store.study.ask()
    trial.suggest_float("lr", 1e-4, 1.0, log=True)
    trial.suggest_int("width", 16, 256)
    trial.report(0.5, 0)
    trial.report(0.6, 1)
    common: dict[str, Any] = {"trial": number, "worker": "tcp://127.0.0.1:1", "host": "here", "started": 1000.0}
    log = folder / f"rank-0-of-{number}.log"
    if kind == "complete":
        log.write_text(f"hello from {number}\n")
    if kind == "fail":
        lost = AttemptRow(**common, attempt=1, state="ended", cause="lost", reason="worker is gone", ended=1001.0)
        store.put_attempt(lost)
        reason, cause = "segmentation fault (SIGSEGV)", "signal"
        row = AttemptRow(
            **common, attempt=2, state="ended", cause=cause, reason=reason, ended=1002.0, exit_code=-11,
            log_path=str(log), log_tail="last words", traceback="Traceback:\n  boom\x1b[2J\n",
        )  # fmt: skip
    elif kind == "running":
        row = AttemptRow(**common, attempt=1, state="running", log_path=str(log))
    else:
        cause = {"complete": "returned", "pruned": "pruned"}[kind]
        row = AttemptRow(
            **common, attempt=1, state="ended", cause=cause, reason=f"it was {cause}", ended=1003.5, log_path=str(log)
        )
    store.put_attempt(row)
    states = {"pruned": optuna.trial.TrialState.PRUNED, "fail": optuna.trial.TrialState.FAIL}
    if kind == "complete":
        store.study.tell(trial, 0.9 - number / 10)
    elif kind in states:
        store.study.tell(trial, state=states[kind])
