"""``hpsearch run`` as people use it: a process, its exit code, its database, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import TrialState

pytestmark = pytest.mark.timeout(150)

JOB = """
import time
import optuna

def train(trial):
    for step in range(trial.params["steps"]):
        time.sleep(trial.params["pause"])
        trial.report(trial.params["x"] + step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return trial.params["x"]

def fails(trial):
    raise RuntimeError(f"no luck with {trial.params['x']}")

def deaf(trial):
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    trial.report(0.0, 0)
    while True:
        time.sleep(1000)
"""

STUDY = """
name: walk
objective: job.py:train
metric: {name: height, goal: minimize}
parameters:
  x: {min: 0.0, max: 1.0}
  steps: 3
  pause: 0.0
sampler: {random: {}}
pruner: none
budget: {trials: 6}
resources: {grace: 4s}
storage: sqlite:///studies.db
"""


class Run:
    """One ``hpsearch run`` with ``--json``, followed event by event."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hpsearch", "run", *arguments, "--json"],
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    def until(self, kind: str, n: int = 1) -> dict[str, Any]:
        """Read on until the n-th event of a kind from here."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == kind:
                n -= 1
                if not n:
                    return event
        pytest.fail(f"ended with {self.process.wait()} before {kind}: {self.errors}")

    @property
    def errors(self) -> str:
        self._reader.join(timeout=30)
        return "".join(self._errors)

    def end(self) -> int:
        """Read to the end; the exit code."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=30)
        return code

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


class Home:
    """A directory with a job and a study, as a user has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[Run] = []
        (path / "job.py").write_text(JOB)
        self.write(STUDY)

    def write(self, study: str) -> None:
        (self.path / "study.yaml").write_text(textwrap.dedent(study))

    def start(self, *arguments: str) -> Run:
        run = Run(self.path, "study.yaml", *arguments)
        self.runs.append(run)
        return run

    def run(self, *arguments: str) -> Run:
        run = self.start(*arguments)
        run.end()
        return run

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name="walk", storage=f"sqlite:///{self.path}/studies.db").trials

    def processes(self) -> list[psutil.Process]:
        """Everything that runs in this directory, ranks and their children above all."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.path) and process.pid != os.getpid():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def wait_until_empty(self) -> None:
        """Fails if anything still runs here ten seconds from now."""
        _, alive = psutil.wait_procs(self.processes(), timeout=10)
        assert not alive


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    for run in home.runs:
        run.close()
    home.wait_until_empty()


def states(trials: list[optuna.trial.FrozenTrial]) -> set[TrialState]:
    return {trial.state for trial in trials}


def test_run_again_has_nothing_to_do_and_growing_adds_the_difference(home: Home) -> None:
    first = home.run()
    assert first.process.returncode == 0, first.errors
    assert len(home.trials()) == 6
    again = home.run()
    assert again.process.returncode == 0
    assert again.of("study.finished")[0]["reason"].startswith("nothing to do")
    assert not again.of("worker.joined")
    grown = home.run("--trials", "9")
    assert grown.process.returncode == 0
    trials = home.trials()
    assert [trial.number for trial in trials] == list(range(9))
    assert states(trials) == {TrialState.COMPLETE}
    assert len(grown.of("trial.completed")) == 3


def test_the_log_of_a_silent_trial_is_empty_and_there(home: Home) -> None:
    assert home.run("--trials", "1").process.returncode == 0
    command = [sys.executable, "-m", "hpsearch", "logs", "0"]
    shown = subprocess.run(command, cwd=home.path, capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")


def test_killed_in_mid_run_it_goes_on_with_exactly_the_same_trials(home: Home) -> None:
    slow = ("parameters.pause=0.2", "parameters.steps=4")
    run = home.start(*slow)
    run.until("trial.completed")
    run.until("trial.started")
    run.process.kill()
    run.process.wait()
    home.wait_until_empty()  # no rank outlives its coordinator
    unfinished = [trial.number for trial in home.trials() if not trial.state.is_finished()]
    assert unfinished
    again = home.run(*slow)
    assert again.process.returncode == 0, again.errors
    trials = home.trials()
    assert [trial.number for trial in trials] == list(range(6))
    assert states(trials) == {TrialState.COMPLETE}
    assert all(sorted(trial.intermediate_values) == [0, 1, 2, 3] for trial in trials)
    attempts = {event["trial"]: event["attempt"] for event in again.of("trial.completed")}
    assert {attempts[number] for number in unfinished} <= {1, 2}
    assert 2 in {attempts[number] for number in unfinished}


def test_killed_with_its_last_trials_running_it_starts_no_others(home: Home) -> None:
    slow = ("parameters.pause=0.2", "parameters.steps=20", "--trials", "2", "cluster.workers=2")
    run = home.start(*slow)
    run.until("trial.started", 2)
    run.process.kill()
    run.process.wait()
    again = home.run(*slow)
    assert again.process.returncode == 0, again.errors
    assert [trial.state for trial in home.trials()] == [TrialState.COMPLETE] * 2


def test_ctrl_c_once_drains_and_is_resumable(home: Home) -> None:
    run = home.start("parameters.pause=0.1", "parameters.steps=200")
    run.until("trial.reported", 3)
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130
    assert run.of("study.draining")
    finished = run.of("study.finished")[0]
    assert finished["counts"]["unfinished"] > 0
    assert "hpsearch run study.yaml" in finished["resume"] or "hpsearch run study.yaml" in run.errors
    assert TrialState.RUNNING not in states(home.trials())  # no zombies for other tools to trip over
    again = home.run("parameters.pause=0.0", "parameters.steps=200", "--fresh")
    assert again.process.returncode == 0, again.errors


def test_a_drained_study_continues_its_own_trials(home: Home) -> None:
    slow = ("parameters.pause=0.1", "parameters.steps=20")
    run = home.start(*slow)
    run.until("trial.reported", 3)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 130
    params = {trial.number: trial.params for trial in home.trials()}
    again = home.run(*slow)
    assert again.process.returncode == 0, again.errors
    trials = home.trials()
    assert len(trials) == 6
    assert states(trials) == {TrialState.COMPLETE}
    assert all(trials[number].params == before for number, before in params.items())


def test_ctrl_c_twice_is_at_once(home: Home) -> None:
    home.write(STUDY.replace("job.py:train", "job.py:deaf").replace("grace: 4s", "grace: 1h"))
    run = home.start()
    run.until("trial.reported")
    run.process.send_signal(signal.SIGINT)
    run.until("study.draining")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130
    home.wait_until_empty()


def test_another_space_is_refused_with_its_difference(home: Home) -> None:
    home.run()
    home.write(STUDY.replace("max: 1.0", "max: 2.0"))
    refused = home.run("--trials", "7")
    assert refused.process.returncode == 2
    assert "x: was float 0.0 to 1.0, is float 0.0 to 2.0" in refused.errors
    assert len(home.trials()) == 6
    fresh = home.run("--fresh", "--trials", "2")
    assert fresh.process.returncode == 0, fresh.errors
    assert len(home.trials()) == 2


def test_what_never_fits_is_refused_with_nothing_written(home: Home) -> None:
    run = home.run("resources.cpus=4096")
    assert run.process.returncode == 5
    assert "4096 CPUs" in run.errors
    assert "largest that fits" in run.errors
    assert not (home.path / "studies.db").exists()
    assert run.events == []


def test_a_second_coordinator_is_refused(home: Home) -> None:
    run = home.start("parameters.pause=0.2", "parameters.steps=50")
    run.until("trial.started")
    second = home.run("parameters.pause=0.2", "parameters.steps=50")
    assert second.process.returncode == 5
    assert "is being run by" in second.errors
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130


def test_a_coordinator_is_taken_over_when_somebody_says_so(home: Home) -> None:
    run = home.start("parameters.pause=0.2", "parameters.steps=5000", "--trials", "2")
    run.until("trial.started")
    refused = home.run("parameters.pause=0.2", "parameters.steps=5000", "--trials", "2", "--take-over")
    assert refused.process.returncode == 2
    assert "--yes answers" in refused.errors
    second = home.start("parameters.pause=0.2", "parameters.steps=5000", "--trials", "2", "--take-over", "--yes")
    assert run.end() == 5  # revoked: it stops what it runs
    second.until("trial.started")
    second.process.send_signal(signal.SIGINT)
    assert second.end() == 130
    assert states(home.trials()) == {TrialState.WAITING}


def test_exit_codes_of_the_budgets(home: Home) -> None:
    reached = home.run("metric.target=2.0", "--trials", "50")
    assert reached.process.returncode == 0
    assert "target" in reached.of("study.finished")[0]["reason"]
    assert states(home.trials()) <= {TrialState.COMPLETE, TrialState.PRUNED}
    home.write(STUDY.replace("job.py:train", "job.py:fails").replace("name: walk", "name: broken"))
    assert home.run("--trials", "30").process.returncode == 4
    home.write(STUDY.replace("job.py:train", "job.py:fails").replace("name: walk", "name: few"))
    few = home.run("--trials", "2")
    assert few.process.returncode == 3
    assert {event["reason"].split(" with")[0] for event in few.of("trial.failed")} == {"RuntimeError: no luck"}


def test_the_time_budget_leaves_what_runs_resumable(home: Home) -> None:
    slow = ("parameters.pause=0.1", "parameters.steps=400")
    run = home.run("--timeout", "2s", *slow)
    assert run.process.returncode in (0, 3)
    assert TrialState.RUNNING not in states(home.trials())
    assert run.of("study.finished")[0]["counts"]["unfinished"] > 0


def test_stop_from_another_shell(home: Home) -> None:
    run = home.start("parameters.pause=0.1", "parameters.steps=400")
    run.until("trial.started")
    stopped = subprocess.run(
        [sys.executable, "-m", "hpsearch", "stop"], cwd=home.path, capture_output=True, text=True, check=False
    )
    assert stopped.returncode == 0, stopped.stderr
    assert run.end() == 130


def test_the_total_holds_with_more_slots_than_trials(home: Home) -> None:
    assert home.run("--workers", "4", "--trials", "3").process.returncode == 0
    assert len(home.trials()) == 3


def test_a_plain_objective_without_a_study_file(home: Home) -> None:
    (home.path / "plain.py").write_text("def objective(trial):\n    return trial.suggest_float('x', 0, 1)\n")
    run = Run(home.path, "plain.py:objective", "--direction", "maximize", "--trials", "4", "--name", "walk")
    home.runs.append(run)
    assert run.end() == 0, run.errors
    study = optuna.load_study(study_name="walk", storage=f"sqlite:///{home.path}/studies.db")
    assert len(study.trials) == 4
    assert study.direction is optuna.study.StudyDirection.MAXIMIZE


def test_an_existing_scheduler(home: Home, tmp_path: Path) -> None:
    with _dask(tmp_path) as address:
        run = home.run("--scheduler", address)
        assert run.process.returncode == 0, run.errors
        assert states(home.trials()) == {TrialState.COMPLETE}
        too_big = home.run("--scheduler", address, "resources.cpus=3", "--name", "other")
        assert too_big.process.returncode == 5
        assert "largest that fits" in too_big.errors
    gone = home.run("--scheduler", address, "--name", "other")
    assert gone.process.returncode == 5
    assert "no Dask scheduler answers" in gone.errors


def test_a_dead_scheduler_ends_the_run_resumable(home: Home, tmp_path: Path) -> None:
    slow = ("parameters.pause=0.1", "parameters.steps=40", "--trials", "2")
    cluster = _dask(tmp_path)
    with cluster as address:
        run = home.start("--scheduler", address, *slow)
        run.until("trial.reported", 3)
        cluster.kill_scheduler()
        assert run.end() == 5
    assert "scheduler is gone" in run.of("study.finished")[0]["reason"]
    assert "Traceback" not in run.errors
    assert not run.of("trial.failed")
    with _dask(tmp_path) as address:
        again = home.run("--scheduler", address, *slow)
    assert again.process.returncode == 0, again.errors
    assert states(home.trials()) == {TrialState.COMPLETE}


def test_a_killed_coordinator_leaves_nothing_on_a_cluster_of_others(home: Home, tmp_path: Path) -> None:
    slow = ("parameters.pause=0.2", "parameters.steps=50")
    with _dask(tmp_path) as address:
        run = home.start("--scheduler", address, *slow)
        run.until("trial.reported")
        ranks = [process for process in home.processes() if process.pid != run.process.pid]
        assert ranks
        run.process.kill()
        run.process.wait()
        _, alive = psutil.wait_procs(ranks, timeout=20)
        assert not alive
        again = home.run("--scheduler", address, "--fresh", "--trials", "2")
        assert again.process.returncode == 0, again.errors
        launchers = [p for p in psutil.process_iter(["cmdline"]) if "hpsearch.launcher" in (p.info["cmdline"] or ())]
        own = [p for p in launchers if any(parent.pid == os.getpid() for parent in p.parents())]
        _, alive = psutil.wait_procs(own, timeout=10)
        assert not alive, "a launcher outlived its study on a worker that did not"


class _dask:
    """A scheduler and a worker as an operator starts them."""

    def __init__(self, path: Path) -> None:
        self._file = path / "scheduler.json"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> str:
        from distributed import Client

        options = ("--scheduler-file", str(self._file))
        self._start("scheduler", *options, "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self._start("worker", *options, "--nthreads", "2", "--no-dashboard", "--memory-limit", "0")
        while not self._file.exists():
            assert self._processes[0].poll() is None
            threading.Event().wait(0.05)  # there is no event for a file that appears
        with Client(scheduler_file=str(self._file), set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
        return str(json.loads(self._file.read_text())["address"])

    def _start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "dask", *arguments]
        self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def kill_scheduler(self) -> None:
        self._processes[0].kill()
        self._processes[0].wait(timeout=30)
        self._file.unlink()

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait(timeout=30)
