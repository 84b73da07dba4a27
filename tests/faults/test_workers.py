"""What becomes of trials whose worker, launcher or process dies, is taken away, or runs out of memory."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState
from searches import Search

from hpsearch.views import open_views

pytestmark = pytest.mark.timeout(150)

SLOW = "parameters.pause=0.15"
LONG = (SLOW, "parameters.steps=40")  # so that a notice comes before the end, however busy the machine is


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Callable[..., Search]]:
    started: list[Search] = []

    def start(function: str, *arguments: str) -> Search:
        started.append(Search(tmp_path, function, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


def chain(search: Search, trial: int) -> list[str | None]:
    """The causes by which a trial's attempts ended."""
    with open_views(f"sqlite:///{search.home}/studies.db") as views:
        found = views.trial("walk", trial)
    assert found is not None
    return [row.cause for row in found.attempts]


def test_a_killed_workers_trial_resumes_from_its_checkpoint(search: Callable[..., Search]) -> None:
    run = search("train", SLOW)
    started = run.until("trial.started")
    number = started["trial"]
    run.until("trial.reported", trial=number, step=3)
    run.worker(started["worker"]).kill()
    retried = run.until("trial.retried", trial=number)
    assert retried["cause"] == "lost"
    assert retried["goes_on"] in {f"from step {step}" for step in (4, 5, 6)}
    resumed = run.until("trial.resumed", trial=number)
    assert resumed["step"] >= 3
    assert Path(resumed["checkpoint"]).name.endswith(f"-step-{resumed['step'] - 1}")
    assert run.end() == 0, run.errors
    run.check()
    assert run.redone(number) <= 1
    assert chain(run, number) == ["lost", "returned"]


def deaths(run: Search, n_kills: int, seed: int) -> None:
    """Kill the worker of a trial that is running, at random reports, as often as it says."""
    chance = random.Random(seed)
    workers: dict[int, str] = {}
    left = n_kills
    patience = chance.randint(4, 12)
    while (event := run.next()) is not None:
        if event["event"] == "trial.started":
            workers[event["trial"]] = event["worker"]
        elif event["event"] == "worker.lost":
            workers = {trial: worker for trial, worker in workers.items() if worker != event["worker"]}
        elif event["event"] == "trial.reported" and left and event["trial"] in workers:
            patience -= 1
            if patience <= 0:
                run.worker(workers[event["trial"]]).kill()
                run.until("worker.lost", worker=workers.pop(event["trial"]))
                left -= 1
                patience = chance.randint(4, 12)
    assert left == 0, f"seed {seed}: the search was over before {n_kills} workers had died"


@pytest.mark.parametrize(
    ("n_kills", "n_trials"), [(3, 6), pytest.param(20, 40, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_random_deaths_of_workers(search: Callable[..., Search], n_kills: int, n_trials: int) -> None:
    seed = 11
    run = search("train", SLOW, "--trials", str(n_trials))
    deaths(run, n_kills, seed)
    assert run.process.wait(timeout=60) == 0, run.errors
    run.check(n_trials)
    for trial in range(n_trials):
        assert run.redone(trial) <= max(0, len(chain(run, trial)) - 1), f"seed {seed}: trial {trial}"


@pytest.mark.parametrize("function", ["dies_before_save", "dies_after_save", "dies_after_report", "reports_first"])
def test_every_step_is_reported_wherever_an_attempt_dies(search: Callable[..., Search], function: str) -> None:
    run = search(function, "--trials", "2", "cluster.workers=1", "resources.cpus=1")
    assert run.end() == 0, run.errors
    run.check(2)
    for trial in range(2):
        assert "lost" in chain(run, trial)
        assert run.redone(trial) <= len(chain(run, trial)) - 1


def test_a_trial_that_saves_nothing_starts_again_and_says_so(search: Callable[..., Search]) -> None:
    run = search("never_saves", "--trials", "1")
    assert run.end() == 0, run.errors
    assert run.of("trial.retried")[0]["goes_on"] == "from the start: it saved no checkpoint"
    assert run.redone(0) == 4


def test_a_segmentation_fault_is_the_trials_alone(search: Callable[..., Search]) -> None:
    run = search("segfaults", "retry.max=0")
    assert run.end() == 0, run.errors
    failed = run.of("trial.failed")
    assert [(event["trial"], event["cause"]) for event in failed] == [(1, "signal")]
    assert "SIGSEGV" in failed[0]["reason"]
    assert not run.of("worker.lost")
    assert len(run.of("worker.joined")) == 2
    assert [trial.state for trial in run.trials()].count(TrialState.COMPLETE) == 3


def test_a_poison_trial_ends_at_its_budget(search: Callable[..., Search]) -> None:
    run = search("poison")
    assert run.end() == 0, run.errors
    assert chain(run, 1) == ["error"] * 3
    assert [trial.state.name for trial in run.trials()] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.parametrize("function", ["out_of_memory"])
def test_memory_that_is_not_there_is_classed_so(search: Callable[..., Search], function: str) -> None:
    run = search(function, "resources.memory=1GB", "retry.max=1")
    assert run.end() == 0, run.errors
    assert chain(run, 0) == chain(run, 1) == ["oom", "oom"]
    assert not run.of("worker.lost")
    assert [trial.state.name for trial in run.trials()] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    again = search(function, "resources.memory=1GB", "retry.on=[lost]", "--fresh")
    assert again.end() == 0, again.errors
    assert chain(again, 0) == ["oom"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_worker_that_is_told_to_go_saves_first(search: Callable[..., Search], number: signal.Signals) -> None:
    run = search("train", *LONG, "--trials", "2", "retry.on=[]")  # nobody's fault, whatever is retried
    started = run.until("trial.started")
    trial = started["trial"]
    run.until("trial.reported", trial=trial, step=2)
    worker = run.worker(started["worker"])
    worker.send_signal(number)
    assert number.name in run.until("worker.preempted")["reason"]
    retried = run.until("trial.retried", trial=trial)
    assert retried["cause"] == "preempted"
    again = run.until("trial.started", trial=trial)
    assert again["worker"] != started["worker"]
    assert run.end() == 0, run.errors
    run.check(2, 40)
    assert chain(run, trial) == ["preempted", "returned"]
    assert run.redone(trial) == 0
    assert not run.of("trial.failed")


def test_told_to_go_with_nowhere_else_it_waits_for_a_worker(search: Callable[..., Search]) -> None:
    run = search("train", *LONG, "cluster.workers=1", "--trials", "1")
    started = run.until("trial.started")
    run.until("trial.reported", step=2)
    os.kill(run.worker(started["worker"]).pid, signal.SIGTERM)
    run.until("trial.retried")
    assert run.until("worker.joined")["worker"] != started["worker"]
    assert run.end() == 0, run.errors
    run.check(1, 40)
    assert run.redone(0) == 0


def test_what_the_log_says_decides(search: Callable[..., Search]) -> None:
    policies = (
        "[{pattern: 'ValueError: bad config', action: dont_retry}, "
        "{pattern: 'CUDA error: .*ECC', action: exclude_host}]"
    )
    run = search("bad_config", f"retry.policies={policies}")
    assert run.end() == 0, run.errors
    assert chain(run, 1) == ["error"]
    assert chain(run, 2) == ["lost", "returned"]
    assert [trial.state.name for trial in run.trials()] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    said = [event["message"] for event in run.of("study.warning")]
    assert any(message.startswith("trial 2 avoids host ") for message in said)
    assert any("no other host could hold it" in message for message in said)  # there is but one


def test_a_quota_leaves_what_is_needed(search: Callable[..., Search], tmp_path: Path) -> None:
    run = search("train", "checkpoints.quota=1", "--trials", "3")
    assert run.end() == 0, run.errors
    kept = {path.parent.parent.name for path in tmp_path.glob("runs/walk/trial-*/checkpoints/0*")}
    best = min(run.trials(), key=lambda trial: trial.value).number
    assert kept == {f"trial-{best:04d}"}


def test_checkpoints_in_a_store(search: Callable[..., Search], tmp_path: Path) -> None:
    run = search("dies_after_save", f"checkpoints.url=file://{tmp_path}/store", "--trials", "1")
    assert run.end() == 0, run.errors
    run.check(1)
    assert run.redone(0) <= 1
    assert len(list(tmp_path.glob("store/walk/trial-0000/0*-step-*"))) >= 2
    assert run.of("trial.resumed")[0]["checkpoint"].startswith(f"file://{tmp_path}/store/walk/trial-0000/")
