"""One rank of a data-parallel trial goes wrong while its peers wait for it in a collective: the whole gang ends.

Rows 22 and 23 of the matrix among them: a rank is killed, a rank skips an all-reduce, a rank hangs in C.
"""

import time
from pathlib import Path

import pytest
from gangs import of, run_gang, told

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
