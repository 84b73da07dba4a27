"""Data-parallel trials on gloo: real workers, real ranks, what each rank was told."""

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from distributed import Client, LocalCluster
from gangs import of, run_gang, told

from hpsearch.api import run_study
from hpsearch.errors import GangTooLarge
from hpsearch.events import Notice
from hpsearch.spec import load_study

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_gang_trains_together(tmp_path: Path, ranks: int) -> None:
    said = run_gang(tmp_path, "train", ranks=ranks, trials=2, pruner="none", sampler="random")
    assert of(said, "outcome")[0]["exit_code"] == 0, said
    assert len(of(said, "trial.completed")) == 2
    for trial in range(2):
        ranks_told = told(tmp_path, trial)
        assert [rank["rank"] for rank in ranks_told] == list(range(ranks))
        for rank, one in enumerate(ranks_told):
            env = one.pop("env")
            assert env["RANK"] == env["LOCAL_RANK"] == str(one.pop("rank")) == str(rank)
            assert env["WORLD_SIZE"] == env["LOCAL_WORLD_SIZE"] == str(ranks)
            assert env["MASTER_ADDR"] == "127.0.0.1"
            assert int(env["MASTER_PORT"]) > 0
            assert one == ranks_told[0]  # parameters, decisions, and the weights that all have learnt


def test_a_search_of_gangs_prunes_and_all_ranks_agree(tmp_path: Path) -> None:
    pruner = "{median: {n_startup_trials: 2, n_warmup_steps: 1}}"
    said = run_gang(tmp_path, "train", ranks=2, trials=12, pruner=pruner, sampler="random", seed=3)
    assert of(said, "outcome")[0]["exit_code"] == 0, said
    pruned = {notice["trial"] for notice in of(said, "trial.pruned")}
    assert pruned
    assert len(pruned) + len(of(said, "trial.completed")) == 12
    for trial in range(12):
        one, other = told(tmp_path, trial)
        assert one["params"] == other["params"]
        assert one["decisions"] == other["decisions"]
        assert one["decisions"][-1][1] == (trial in pruned)
    assert all(notice["value"] > -1e8 and math.isfinite(notice["value"]) for notice in of(said, "trial.reported"))


def test_a_group_that_the_job_makes_and_destroys_itself_is_left_alone(tmp_path: Path) -> None:
    said = run_gang(tmp_path, "by_hand", ranks=2, trials=3, pruner="none", sampler="random")
    assert len(of(said, "trial.completed")) == 3, said


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_fifty_gangs_end_without_a_hang(tmp_path: Path) -> None:
    """torch 2.13 deadlocks in about a third of such teardowns if it is left to itself."""
    said = run_gang(
        tmp_path, "by_hand", ranks=2, trials=50, pruner="none", sampler="random", resources__no_progress="60s"
    )
    assert len(of(said, "trial.completed")) == 50, said


@pytest.fixture
def two_hosts() -> Iterator[LocalCluster]:
    """A scheduler, and one worker on each of two hosts, as far as their names and addresses go."""
    if subprocess.run(["unshare", "--uts", "true"], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("host names cannot be changed here")
    with ExitStack() as opened:
        cluster = opened.enter_context(
            LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1", silence_logs=50)
        )
        for number in (2, 3):
            worker = [
                *(sys.executable, "-m", "dask", "worker", cluster.scheduler_address),
                *("--host", f"127.0.0.{number}", "--nthreads", "1", "--no-nanny", "--no-dashboard"),
            ]
            process = subprocess.Popen(
                ["unshare", "--uts", "sh", "-c", f'hostname host{number} && exec "$@"', "sh", *worker],
                stderr=subprocess.DEVNULL,
            )
            opened.callback(process.wait)
            opened.callback(process.terminate)
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield cluster


def test_ranks_on_two_hosts_meet_at_the_address_of_rank_0(two_hosts: LocalCluster, tmp_path: Path) -> None:
    changes = {"pruner": "none", "sampler": "random", "scheduler": two_hosts.scheduler_address}
    with pytest.raises(
        GangTooLarge, match=r"2 ranks with 1 CPU each on one host, .* is 1 rank of that size on one host"
    ):
        run_gang(tmp_path, "train", ranks=2, trials=1, resources__hosts="one", **changes)
    said = run_gang(tmp_path, "train", ranks=2, trials=1, **changes)
    assert of(said, "outcome")[0]["exit_code"] == 0, said
    one, other = told(tmp_path, 0)
    assert one["weights"] == other["weights"]
    for rank, told_rank in enumerate((one, other)):
        env = told_rank["env"]
        assert (env["RANK"], env["LOCAL_RANK"], env["GROUP_RANK"]) == (str(rank), "0", str(rank))
        assert (env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"]) == ("2", "1")
        assert env["MASTER_ADDR"] in {"127.0.0.2", "127.0.0.3"}
    assert one["env"]["MASTER_PORT"] == other["env"]["MASTER_PORT"]


def test_the_documented_job_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "distributed-training.md").read_text()
    study, job = re.findall(r"^```(?:yaml|python)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)[:2]
    (tmp_path / "ddp.py").write_text(job)
    (tmp_path / "ddp.yaml").write_text(study)
    spec = load_study(
        str(tmp_path / "ddp.yaml"),
        overrides=["budget.trials=2", f"storage=sqlite:///{tmp_path}/s.db", f"directory={tmp_path}"],
        environ={},
    )
    said: list[Notice] = []
    assert run_study(spec, listener=said.append, interrupts=False).exit_code == 0, said
