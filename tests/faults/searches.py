"""Searches as a process each, with a job whose every epoch can be counted afterwards."""

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import psutil

JOB = '''
import ctypes, os, signal, time
import optuna

def oracle(x, step):
    return x + step / 100

def epochs(trial, before_save=None, after_save=None, after_report=None):
    params = trial.params
    state = {"n": 0}
    start = trial.load(state)
    assert state["n"] == start
    for step in range(start, params["steps"]):
        time.sleep(params["pause"])
        state["n"] = step + 1
        with open(trial.directory / "epochs", "a") as file:
            file.write(f"{step}\\n")
        for act, said in (
            (before_save, lambda: trial.save(state, step=step)),
            (after_save, lambda: trial.report(oracle(params["x"], step), step, double=2.0 * step)),
            (after_report, lambda: trial.should_prune()),
        ):
            if act is not None:
                act(trial, step)
            said()
    return oracle(params["x"], params["steps"] - 1)

def train(trial):
    return epochs(trial)

def loses_its_launcher(trial, step):
    """The rank dies with it at once, as if the host were gone."""
    if trial.attempt == 1 and step == 3:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1000)

def dies_before_save(trial):
    return epochs(trial, before_save=loses_its_launcher)

def dies_after_save(trial):
    return epochs(trial, after_save=loses_its_launcher)

def dies_after_report(trial):
    return epochs(trial, after_report=loses_its_launcher)

def reports_first(trial):
    state = {"n": 0}
    for step in range(trial.load(state), trial.params["steps"]):
        state["n"] = step + 1
        with open(trial.directory / "epochs", "a") as file:
            file.write(f"{step}\\n")
        trial.report(oracle(trial.params["x"], step), step)
        if trial.number % 2 == 0:
            loses_its_launcher(trial, step)
        trial.save(state, step=step)
        if trial.number % 2 == 1:
            loses_its_launcher(trial, step)
    return oracle(trial.params["x"], trial.params["steps"] - 1)

def segfaults(trial):
    if trial.number == 1:
        ctypes.string_at(0)
    return epochs(trial)

def poison(trial):
    if trial.number == 1:
        raise RuntimeError("poison")
    return epochs(trial)

def out_of_memory(trial):
    import torch
    if trial.number == 0:
        torch.empty(10**13)
    if trial.number == 1:
        bytearray(10**12)
    return epochs(trial)

def bad_config(trial):
    if trial.number == 1:
        print("ValueError: bad config, said the library")
        raise RuntimeError("it went wrong")
    if trial.number == 2 and trial.attempt == 1:
        print("CUDA error: uncorrectable ECC error encountered")
        os._exit(3)
    return epochs(trial)

def never_saves(trial):
    for step in range(4):
        with open(trial.directory / "epochs", "a") as file:
            file.write(f"{step}\\n")
        trial.report(oracle(trial.params["x"], step), step)
        loses_its_launcher(trial, step)
    return 0.0
'''

STUDY = """
name: walk
objective: job.py:{function}
metric: {{name: height, goal: minimize}}
parameters:
  x: {{min: 0.0, max: 1.0}}
  steps: 8
  pause: 0.0
sampler: {{random: {{}}}}
pruner: none
budget: {{trials: 4}}
resources: {{grace: 4s}}
retry: {{max: 2, on: [lost, error, oom]}}
cluster: {{workers: 2}}
storage: sqlite:///studies.db
"""


class Search:
    """One ``hpsearch run --json``, followed event by event."""

    def __init__(self, home: Path, function: str, *arguments: str) -> None:
        self.home = home
        (home / "job.py").write_text(JOB)
        (home / "study.yaml").write_text(STUDY.format(function=function))
        command = [sys.executable, "-m", "hpsearch", "run", "study.yaml", *arguments, "--json"]
        self.process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.events: list[dict[str, Any]] = []
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    def next(self) -> dict[str, Any] | None:
        """The next event; None at the end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            self.events.append(json.loads(line))
        return self.events[-1] if line else None

    def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Read on to the next event of a kind, with these fields."""
        while (event := self.next()) is not None:
            if event["event"] == kind and all(event.get(key) == value for key, value in fields.items()):
                return event
        raise AssertionError(f"ended with {self.process.wait()} before {kind}: {self.errors}")

    def end(self) -> int:
        """Read to the end; the exit code."""
        while self.next() is not None:
            pass
        return self.process.wait(timeout=60)

    @property
    def errors(self) -> str:
        self._reader.join(timeout=30)
        return "".join(self._errors)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(timeout=30)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    # -------------------------------------------------------------------------------------- afterwards

    def worker(self, address: str) -> psutil.Process:
        """The process of a worker: the one that listens there."""
        port = int(address.rpartition(":")[2])
        for process in psutil.Process(self.process.pid).children(recursive=True):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return process
        raise AssertionError(f"nobody listens at {address}")

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name="walk", storage=f"sqlite:///{self.home}/studies.db").trials

    def redone(self, trial: int) -> int:
        """Epochs that were trained more than once, each time counted."""
        trained = (self.home / "runs" / "walk" / f"trial-{trial:04d}" / "epochs").read_text().split()
        return sum(n - 1 for n in Counter(trained).values())

    def check(self, n_trials: int = 4, n_steps: int = 8) -> None:
        """Every trial is complete, with every step, equal to the oracle, and its checkpoints verify."""
        from hpsearch.checkpoint import TEMPORARY, Directory

        trials = self.trials()
        assert [trial.number for trial in trials] == list(range(n_trials))
        for trial in trials:
            assert trial.state is optuna.trial.TrialState.COMPLETE, f"trial {trial.number}: {trial.state}"
            expected = {step: trial.params["x"] + step / 100 for step in range(n_steps)}
            assert trial.intermediate_values == expected, f"trial {trial.number}"
            assert trial.value == expected[n_steps - 1]
            place = self.home / "runs" / "walk" / f"trial-{trial.number:04d}" / "checkpoints"
            assert not list(place.glob(f"{TEMPORARY}*"))
            assert all(Directory(place).verified(name) for name in Directory(place).names())
