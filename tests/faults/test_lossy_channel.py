"""Messages of ranks that Dask's streams lose on the way: repeated, or brought by the task's result. None is doubled."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from distributed import Client, LocalCluster

import hpsearch
from hpsearch.supervisor.relay import Relay

pytestmark = pytest.mark.timeout(120)

N_STEPS = 20


def objective(trial: Any) -> float:
    for step in range(N_STEPS):
        trial.report(trial.number + step / 100, step, loss=float(step))
    trial.set_user_attr("said", trial.number)
    return float(trial.number)


@pytest.fixture
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0", memory_limit=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("lost", [0.05, 0.5, 1.0])
def test_every_report_arrives_once(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: float
) -> None:
    monkeypatch.chdir(tmp_path)
    chance = random.Random(7)
    deliver = Relay._to_client

    def deliver_some(relay: Relay, client: str, worker: str, body: str) -> None:
        if '"seq"' not in body or chance.random() >= lost:
            deliver(relay, client, worker, body)

    monkeypatch.setattr(Relay, "_to_client", deliver_some)  # the scheduler runs in this process
    study = hpsearch.optimize(
        objective,
        n_trials=6,
        client=client,
        storage=f"sqlite:///{tmp_path}/study.db",
        pruner=optuna.pruners.NopPruner(),
    )
    assert [trial.value for trial in study.trials] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    for trial in study.trials:
        assert trial.intermediate_values == {step: trial.number + step / 100 for step in range(N_STEPS)}
        assert trial.user_attrs["said"] == trial.number


def test_a_lost_verdict_and_a_lost_suggestion_are_repeated(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    deliver = Relay._to_worker
    dropped: set[str] = set()

    def drop_the_first_of_each(relay: Relay, worker: str, client: str, body: str) -> None:
        op = json.loads(body)["op"]
        if op in {"verdict", "suggested"} and op not in dropped:
            dropped.add(op)
        else:
            deliver(relay, worker, client, body)

    def waits(trial: Any) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.report(x, 0)
        return x + trial.should_prune()

    monkeypatch.setattr(Relay, "_to_worker", drop_the_first_of_each)
    study = hpsearch.optimize(
        waits,
        n_trials=1,
        client=client,
        storage=f"sqlite:///{tmp_path}/study.db",
        pruner=optuna.pruners.ThresholdPruner(upper=5.0),
    )
    assert dropped == {"verdict", "suggested"}
    assert study.trials[0].value == study.trials[0].params["x"]


def test_a_lost_report_is_repeated_while_the_rank_waits_for_its_verdict(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    deliver = Relay._to_client
    dropped: list[str] = []

    def drop_the_first_report(relay: Relay, client: str, worker: str, body: str) -> None:
        if '"report"' in body and not dropped:
            dropped.append(body)
        else:
            deliver(relay, client, worker, body)

    def waits(trial: Any) -> float:
        trial.report(1.0, 0)
        return float(trial.should_prune())

    monkeypatch.setattr(Relay, "_to_client", drop_the_first_report)
    study = hpsearch.optimize(
        waits,
        n_trials=1,
        client=client,
        storage=f"sqlite:///{tmp_path}/study.db",
        pruner=optuna.pruners.ThresholdPruner(upper=5.0),
    )
    assert dropped
    assert study.trials[0].value == 0.0
    assert study.trials[0].intermediate_values == {0: 1.0}
