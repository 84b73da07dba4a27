"""The standard run: a study of deterministic jobs, its coordinators as processes, and what they leave on record."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.cluster import DIES_WITH_US, end, environment
from harness.oplog import Entry, of, read

PATIENCE_S = 120.0
POLL_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Form:
    """How long a standard run is, and its faults."""

    n_trials: int
    n_epochs: int
    epoch_s: float
    outage_s: float  # of a database that is away or locked
    fresh_s: float  # after which a silent coordinator may be replaced
    beat_s: float
    n_restarts: int


FULL = Form(n_trials=24, n_epochs=8, epoch_s=0.25, outage_s=8.0, fresh_s=15.0, beat_s=1.0, n_restarts=6)
SHORT = Form(n_trials=12, n_epochs=6, epoch_s=0.15, outage_s=1.0, fresh_s=1.5, beat_s=0.2, n_restarts=2)

STUDY = """
name: standard
objective: harness.job:train
metric: {{name: chain, goal: minimize}}
parameters:
  x: {{min: 0.0, max: 1.0}}
  kind: [red, green, blue]
  seed: {seed}
  epochs: {form.n_epochs}
  epoch_s: {form.epoch_s}
  save_first: {save_first}
  log: {{value: {log}}}
  hold: {{value: {hold}}}
sampler: random
pruner: none
seed: {seed}
budget: {{trials: {form.n_trials}}}
storage: {url}
cluster: {{kind: address, address: "{address}"}}
directory: {directory}
"""


class Coordinator:
    """One ``hpsearch run`` of the study."""

    def __init__(self, process: "subprocess.Popen[bytes]", files: Path) -> None:
        self._process = process
        self._files = files
        self.pid = process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Its exit code."""
        return self._process.wait(timeout_s)

    @property
    def stderr(self) -> str:
        """What it said to people."""
        return self._files.with_suffix(".err").read_text()

    def end(self) -> None:
        """Leave nothing behind."""
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)
            end(self._process)


class StandardRun:
    """A study in a directory of its own, on a cluster and a database that others keep."""

    def __init__(
        self, directory: Path, url: str, address: str, form: Form, seed: int, *, save_first: bool = False
    ) -> None:
        self.directory = directory
        self.form = form
        self.seed = seed
        self.url = url
        self.log_path = directory / "operations.jsonl"
        self._hold = directory / "hold"
        self._study = directory / "study.yaml"
        text = STUDY.format(
            form=form,
            seed=seed,
            save_first=str(save_first).lower(),
            log=json.dumps(str(self.log_path)),
            hold=json.dumps(str(self._hold)),
            url=json.dumps(url),
            address=address,
            directory=json.dumps(str(directory / "runs")),
        )
        self._study.write_text(text)
        self.coordinators: list[Coordinator] = []

    def start(self, *options: str) -> Coordinator:
        """Type the command (again)."""
        files = self.directory / f"coordinator-{len(self.coordinators) + 1}"
        own = ("--log", str(self.log_path), "--fresh", str(self.form.fresh_s), "--beat", str(self.form.beat_s))
        command = [*DIES_WITH_US, sys.executable, "-m", "harness.driver", *own, *options, str(self._study)]
        with files.with_suffix(".out").open("wb") as out, files.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment(), cwd=self.directory
            )
        self.coordinators.append(Coordinator(process, files))
        return self.coordinators[-1]

    @contextmanager
    def holding(self) -> Iterator[None]:
        """No job ends an epoch meanwhile: the study does not end before the test has done what it wants to do to it."""
        self._hold.touch()
        try:
            yield
        finally:
            self._hold.unlink()

    @property
    def entries(self) -> list[Entry]:
        """The operation log so far."""
        return read(self.log_path)

    def wait_for(
        self, what: str, condition: Callable[[list[Entry]], bool], timeout_s: float = PATIENCE_S
    ) -> list[Entry]:
        """The log once ``condition`` holds for it; AssertionError when nobody brings that about any more."""
        deadline = time.monotonic() + timeout_s
        while True:
            alive = any(coordinator.exit_code is None for coordinator in self.coordinators)
            entries = self.entries
            if condition(entries):
                return entries
            assert alive, f"seed {self.seed}: {what} never came\n{self.words()}"
            assert time.monotonic() < deadline, f"seed {self.seed}: {what} never came\n{self.words()}"
            time.sleep(POLL_S)

    def wait_for_reports(self, n: int) -> list[Entry]:
        """Until so many reports are acknowledged."""
        return self.wait_for(f"report {n}", lambda entries: sum(1 for _ in of(entries, "report", "acknowledged")) >= n)

    def words(self) -> str:
        """For a failure: the end of the log, and what the coordinators said."""
        said = [f"coordinator {c.pid} exit {c.exit_code}: {c.stderr[-1500:]}" for c in self.coordinators]
        return "\n".join([*said, *(json.dumps(entry) for entry in self.entries[-5:])])

    def close(self) -> None:
        """End what still runs."""
        for coordinator in self.coordinators:
            coordinator.end()
