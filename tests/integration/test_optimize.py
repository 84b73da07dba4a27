"""``hpsearch.optimize`` with real processes: ordinary Optuna objectives, on any Dask client."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from distributed import Client, LocalCluster

import hpsearch
from hpsearch.api import StudyFailed
from hpsearch.errors import ComponentFailed, UsageError
from hpsearch.events import Notice
from hpsearch.spec import Resources, Retry

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Somebody's own cluster, as in their tests."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/study.db"


def quadratic(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -10, 10)
    kind = trial.suggest_categorical("kind", ["plain", "shifted"])
    shift = trial.suggest_int("shift", 1, 3) if kind == "shifted" else 0
    trial.set_user_attr("pid", os.getpid())
    trial.set_constraint("positive", -x)
    for step in range(3):
        trial.report((x - shift) ** 2 + 3 - step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return (x - shift) ** 2


def test_an_ordinary_objective_runs_unchanged_and_isolated(client: Client, url: str) -> None:
    study = hpsearch.optimize(quadratic, n_trials=12, direction="minimize", client=client, storage=url, study_name="q")
    trials = study.trials
    assert [trial.number for trial in trials] == list(range(12))
    assert all(trial.state.is_finished() for trial in trials)
    assert len({trial.user_attrs["pid"] for trial in trials}) == 12
    assert all(trial.constraints == {"positive": -trial.params["x"]} for trial in trials)
    for trial in trials:
        assert ("shift" in trial.params) == (trial.params["kind"] == "shifted")
        if trial.state is optuna.trial.TrialState.COMPLETE:
            assert trial.value == pytest.approx((trial.params["x"] - trial.params.get("shift", 0)) ** 2)
            assert sorted(trial.intermediate_values) == [0, 1, 2]


def test_the_total_is_exact_over_several_calls(client: Client, url: str) -> None:
    for total in (3, 5, 5):
        study = hpsearch.optimize(quadratic, n_trials=total, client=client, storage=url, study_name="q")
        assert len(study.trials) == total


def test_two_objectives(client: Client, url: str) -> None:
    def two(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", 0, 1)
        return x, 1 - x

    study = hpsearch.optimize(two, n_trials=4, directions=["minimize", "maximize"], client=client, storage=url)
    assert all(sum(trial.values) == pytest.approx(1) for trial in study.trials)
    assert study.best_trials


def test_enqueued_trials_come_first(client: Client, url: str) -> None:
    study = optuna.create_study(study_name="q", storage=url)
    study.enqueue_trial({"x": 1.5, "kind": "plain"})
    study.enqueue_trial({"x": 2.5, "kind": "plain"})
    done = hpsearch.optimize(quadratic, n_trials=3, client=client, storage=url, study_name="q")
    assert [trial.params["x"] for trial in done.trials[:2]] == [1.5, 2.5]
    assert len(done.trials) == 3


def test_a_grid_ends_by_itself(client: Client, url: str) -> None:
    grid = {"x": [1.0, 2.0, 3.0], "kind": ["plain"]}
    study = hpsearch.optimize(
        quadratic,
        n_trials=50,
        client=client,
        storage=url,
        sampler=optuna.samplers.GridSampler(grid),
        pruner=optuna.pruners.NopPruner(),
    )
    assert sorted(trial.params["x"] for trial in study.trials) == [1.0, 2.0, 3.0]


def test_pruned_trials_stop_early(client: Client, url: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        for step in range(100):
            trial.report(step, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 1.0

    study = _pruned(objective, client, url)
    assert all(trial.state is optuna.trial.TrialState.PRUNED for trial in study.trials)
    assert all(max(trial.intermediate_values) == 5 for trial in study.trials)


def _pruned(objective: Any, client: Client, url: str) -> optuna.Study:
    with pytest.raises(StudyFailed, match="no trial succeeded") as caught:
        hpsearch.optimize(
            objective,
            n_trials=3,
            client=client,
            storage=url,
            study_name="pruned",
            pruner=optuna.pruners.ThresholdPruner(upper=4.5),
        )
    assert caught.value.exit_code == 3
    return optuna.load_study(study_name="pruned", storage=url)


def test_a_lost_worker_costs_an_attempt_and_no_trial(url: str, tmp_path: Path) -> None:
    """The first rank to run kills the worker it sits on; the trial goes on elsewhere."""
    notices: list[Notice] = []
    flag = tmp_path / "struck"

    def objective(trial: Any) -> float:
        import psutil

        if not flag.exists():
            flag.touch()
            launcher = psutil.Process(os.getppid())
            launcher.parent().kill()
        return float(trial.attempt)

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        study = hpsearch.optimize(
            objective, n_trials=6, client=client, storage=url, study_name="lost", listener=notices.append
        )
    assert len(study.trials) == 6
    assert all(trial.state is optuna.trial.TrialState.COMPLETE for trial in study.trials)
    retried = [notice for notice in notices if notice.kind == "trial.retried"]
    assert retried
    assert all(notice.fields["cause"] == "lost" for notice in retried)
    assert {trial.value for trial in study.trials} == {1.0, 2.0}


def test_retries_by_cause_are_attempts_of_the_same_trial(client: Client, url: str) -> None:
    def objective(trial: Any) -> float:
        if trial.attempt < 3:
            raise RuntimeError("not yet")
        return float(trial.attempt)

    study = hpsearch.optimize(
        objective,
        n_trials=2,
        client=client,
        storage=url,
        retry=Retry(max=2, on=frozenset({"error"})),
        resources=Resources(grace_s=1),
    )
    assert [trial.value for trial in study.trials] == [3.0, 3.0]


def test_a_lost_trial_goes_on_from_its_last_checkpoint(url: str, tmp_path: Path) -> None:
    """The worker is killed right after step 2 was saved; the next attempt begins at step 3 with what was saved."""
    steps = tmp_path / "steps"

    def objective(trial: Any) -> float:
        import threading

        import psutil

        total = {"sum": 0.0}
        for step in range(trial.load(total), 5):
            with steps.open("a") as log:
                log.write(f"{trial.attempt}:{step} ")
            total["sum"] += step
            trial.report(total["sum"], step)
            trial.save(total, step=step)
            if step == 2 and trial.attempt == 1:
                psutil.Process(os.getppid()).parent().kill()
                threading.Event().wait()  # until it is killed in turn
        return total["sum"]

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        study = hpsearch.optimize(objective, n_trials=1, client=client, storage=url)
    assert steps.read_text().split() == ["1:0", "1:1", "1:2", "2:3", "2:4"]
    assert study.trials[0].value == 10.0


def test_in_memory_after_the_call(client: Client, url: str) -> None:
    study = hpsearch.optimize(quadratic, n_trials=2, client=client)
    assert len(study.trials) == 2
    assert not list(Path().glob("*.db"))


class BrokenPruner(optuna.pruners.BasePruner):
    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        raise RuntimeError("no opinion")


class BrokenSampler(optuna.samplers.RandomSampler):
    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        raise RuntimeError("no idea")


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"pruner": BrokenPruner()}, r"the pruner BrokenPruner failed \(RuntimeError: no opinion\)"),
        ({"sampler": BrokenSampler()}, r"the sampler BrokenSampler failed \(RuntimeError: no idea\)"),
    ],
)
def test_somebodys_own_component_that_raises_is_named(
    client: Client, url: str, component: dict[str, Any], message: str
) -> None:
    with pytest.raises(ComponentFailed, match=message):
        hpsearch.optimize(quadratic, n_trials=3, client=client, storage=url, **component)


def test_a_suggestion_that_optuna_refuses_is_the_jobs_own_error(client: Client, url: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        try:
            trial.suggest_float("x", 0, 1)
            trial.suggest_int("x", 0, 1)
        except ValueError:
            return trial.suggest_float("y", 2, 3)
        return 0.0

    study = hpsearch.optimize(objective, n_trials=2, client=client, storage=url)
    assert all(trial.value == trial.params["y"] for trial in study.trials)


def test_an_asynchronous_client_is_refused(url: str) -> None:
    async def search() -> None:
        async with Client(processes=False, asynchronous=True, dashboard_address="127.0.0.1:0") as client:
            with pytest.raises(UsageError, match="asynchronous"):
                hpsearch.optimize(quadratic, n_trials=1, client=client, storage=url)

    asyncio.run(search())
    assert not list(Path().glob("*.db"))


def test_arguments_that_cannot_be_meant(client: Client) -> None:
    with pytest.raises(UsageError, match="n_trials or timeout"):
        hpsearch.optimize(quadratic, client=client)
    with pytest.raises(UsageError, match="direction"):
        hpsearch.optimize(quadratic, n_trials=1, direction="up", client=client)
    for name, bad in {
        "n_trials": [0, -1, 1.5, "3"],
        "timeout": [0, -1.0, "10s"],
        "workers": [0, -3],
        "directions": [[], "minimize"],
        "study_name": ["", "a/b", ".."],
        "sampler": ["tpe", optuna.samplers.TPESampler],
        "pruner": ["median"],
        "client": [5],
    }.items():
        for value in bad:
            with pytest.raises(UsageError, match=rf"^{name}: "):
                hpsearch.optimize(quadratic, **{"n_trials": 1, "client": client, name: value})
    with pytest.raises(UsageError, match=r"^objective: "):
        hpsearch.optimize(5, n_trials=1, client=client)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot be shipped"):
        hpsearch.optimize(lambda trial, held=threading.Lock(): 1.0, n_trials=1, client=client)


def test_a_plain_script_without_a_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "tune.py"
    script.write_text(
        textwrap.dedent("""
        import hpsearch

        def objective(trial):
            return trial.suggest_float("x", 0, 1)

        study = hpsearch.optimize(objective, n_trials=3, workers=1)
        print("done", len(study.trials))
        """)
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done 3\n"
    assert done.stderr == ""


def test_what_dasks_messages_cannot_hold_costs_no_worker(client: Client, url: str) -> None:
    def objective(trial: Any) -> float:
        trial.set_user_attr("n", 2**70)
        if trial.number:
            raise RuntimeError("no such file: \udcff")
        return 1.0

    workers = set(client.scheduler_info()["workers"])
    study = hpsearch.optimize(objective, n_trials=2, client=client, storage=url)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]
    assert all(trial.user_attrs == {"n": 2**70} for trial in study.trials)
    assert set(client.scheduler_info()["workers"]) == workers


def test_a_client_carries_one_study_at_a_time(client: Client, url: str) -> None:
    def second(notice: Notice) -> None:
        if notice.kind == "trial.started":
            with pytest.raises(UsageError, match="its own Client"):
                hpsearch.optimize(quadratic, n_trials=1, client=client)

    hpsearch.optimize(quadratic, n_trials=1, client=client, storage=url, listener=second)
    study = hpsearch.optimize(quadratic, n_trials=2, client=client, storage=url, study_name="next")
    assert len(study.trials) == 2
