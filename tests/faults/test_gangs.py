"""One rank of a data-parallel trial goes wrong while its peers wait for it in a collective: the whole gang ends.

Rows 22 and 23 of the matrix among them: a rank is killed, a rank skips an all-reduce, a rank hangs in C.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster
from gangs import of, run_gang, told

from hpsearch.storage import send_request

pytestmark = pytest.mark.timeout(180)

GRACE_S = 2.0
DEADLINE_S = 3.0


@pytest.mark.parametrize("culprit", [0, 1])
@pytest.mark.parametrize(("how", "word"), [("kill", "SIGKILL"), ("segfault", "segmentation fault")])
def test_a_killed_rank_restarts_the_whole_gang_from_its_checkpoint(
    tmp_path: Path, how: str, word: str, culprit: int
) -> None:
    said = run_gang(
        tmp_path, "goes_wrong", ranks=2, trials=1, pruner="none",
        parameters__how=how, parameters__culprit=culprit, retry__on="[error]", resources__grace=f"{GRACE_S}s",
    )  # fmt: skip
    assert of(said, "outcome")[0]["exit_code"] == 0, said
    (retried,) = of(said, "trial.retried")
    assert retried["cause"] == "signal"
    assert retried["reason"].startswith(f"rank {culprit}: ")
    assert word in retried["reason"]
    assert [one["start"] for one in told(tmp_path, 0, attempt=2)] == [2, 2]  # no epoch is done twice


@pytest.mark.parametrize("how", ["skip", "hang_in_c"])
def test_a_gang_without_progress_is_ended_at_its_deadline(tmp_path: Path, how: str) -> None:
    began = time.monotonic()
    said = run_gang(
        tmp_path, "goes_wrong", ranks=2, trials=1, pruner="none", parameters__how=how,
        retry__on="[timeout]", resources__grace=f"{GRACE_S}s", resources__no_progress=f"{DEADLINE_S}s",
    )  # fmt: skip
    assert of(said, "outcome")[0]["exit_code"] == 0, said
    (retried,) = of(said, "trial.retried")
    assert retried["cause"] == "stalled"
    assert [one["start"] for one in told(tmp_path, 0, attempt=2)] == [2, 2]
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise", "rank 1: ValueError: no good"),
        ("exit", "rank 1: exit code 3"),
        ("prune", "rank 0: RuntimeError"),  # its collective has lost a member
        ("return", "rank 0: RuntimeError"),
    ],
)
def test_what_ends_one_rank_ends_them_all(tmp_path: Path, how: str, reason: str) -> None:
    said = run_gang(
        tmp_path, "leaves_early", ranks=2, trials=1, pruner="none",
        parameters__how=how, resources__grace=f"{GRACE_S}s",
    )  # fmt: skip
    (failed,) = of(said, "trial.failed")
    assert failed["reason"].startswith(reason), said


def test_two_ranges_for_one_name_are_refused(tmp_path: Path) -> None:
    said = run_gang(tmp_path, "two_minds", ranks=2, trials=1, pruner="none")
    (failed,) = of(said, "trial.failed")
    assert "parameter 'x' is" in failed["reason"]


def test_a_lost_worker_takes_the_gang_along_and_it_goes_on_elsewhere(tmp_path: Path) -> None:
    with LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=None) as cluster:
        pids = {worker.worker_address: worker.process.pid for worker in cluster.workers.values()}

        def kill(notice: dict[str, Any]) -> None:
            if notice["kind"] == "trial.reported" and notice["step"] == 2 and notice["attempt"] == 1 and pids:
                os.kill(pids.pop(seats_of_rank_1()), signal.SIGKILL)
                pids.clear()

        def seats_of_rank_1() -> str:
            (holder,) = table.holders
            return next(seat.worker for seat in table.seats_of(holder) if seat.rank == 1)

        table = None

        def listen(notice: dict[str, Any]) -> None:
            nonlocal table
            if table is None and notice["kind"] == "trial.started":
                table = cluster.scheduler.plugins["hpsearch-relay"].leasing.table
            kill(notice)

        said = run_gang(
            tmp_path, "train", ranks=2, trials=1, scheduler=cluster.scheduler_address, pruner="none",
            sampler="random", parameters__pause=0.2, parameters__epochs=8, resources__grace=f"{GRACE_S}s",
            listen=listen,
        )  # fmt: skip
        assert of(said, "outcome")[0]["exit_code"] == 0, said
        (retried,) = of(said, "trial.retried")
        assert retried["cause"] == "lost"
        starts = [one["start"] for one in told(tmp_path, 0, attempt=2)]
        assert starts[0] == starts[1] >= 3  # at most the epoch that was under way is done again
        assert table is not None
        assert table.holders == []


def test_a_drain_hangs_in_no_collective_and_loses_at_most_an_epoch(tmp_path: Path) -> None:
    def stop(notice: dict[str, Any]) -> None:
        if notice["kind"] == "trial.reported" and notice["step"] == 3:
            send_request(f"sqlite:///{tmp_path}/gangs.db", "gangs", "stop")

    changes = {"pruner": "none", "sampler": "random", "parameters__pause": 0.05, "parameters__epochs": 200}
    began = time.monotonic()
    said = run_gang(tmp_path, "train", ranks=2, trials=1, resources__grace="6s", listen=stop, **changes)
    assert of(said, "outcome")[0]["exit_code"] == 130, said
    assert len(of(said, "trial.stopped")) == 1, said
    assert time.monotonic() - began < 60
    reported = [notice["step"] for notice in of(said, "trial.reported")]

    def finish(notice: dict[str, Any]) -> None:
        if notice["kind"] == "trial.reported" and notice["attempt"] == 2 and notice["step"] == reported[-1] + 3:
            send_request(f"sqlite:///{tmp_path}/gangs.db", "gangs", "stop")

    again = run_gang(tmp_path, "train", ranks=2, trials=1, resources__grace="6s", listen=finish, **changes)
    starts = [one["start"] for one in told(tmp_path, 0, attempt=2)]
    assert starts[0] == starts[1] >= reported[-1], again


def test_a_port_that_somebody_takes_costs_an_attempt_and_is_not_charged(tmp_path: Path) -> None:
    """Another program listens where the gang was to meet: torch cannot, and the gang meets elsewhere."""
    said = run_gang(tmp_path, "port_taken", ranks=2, trials=1, pruner="none", sampler="random", retry__max=0)
    assert of(said, "outcome")[0]["exit_code"] == 0, said
    (retried,) = of(said, "trial.retried")
    assert retried["cause"] == "lost"
    assert "EADDRINUSE" in retried["reason"]
