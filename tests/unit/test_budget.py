"""When a search is over."""

import pytest

from hpsearch.budget import Budgets, Standing
from hpsearch.events import Cause


def standing(**limits: object) -> Standing:
    return Standing(Budgets(**limits))  # type: ignore[arg-type]


def fill(board: Standing, *, complete: tuple[float, ...] = (), failed: int = 0, pruned: int = 0) -> Standing:
    for value in complete:
        board.count(Cause.RETURNED, (value,))
    for _ in range(failed):
        board.count(Cause.ERROR)
    for _ in range(pruned):
        board.count(Cause.PRUNED)
    return board


@pytest.mark.parametrize(
    ("goal", "value", "reached"), [("maximize", 0.9, True), ("maximize", 0.8, False), ("minimize", 0.8, True)]
)
def test_target(goal: str, value: float, reached: bool) -> None:
    spent = fill(standing(goal=goal, target=0.9), complete=(value,)).spent(elapsed_s=0)
    assert (spent is not None) is reached
    if spent:
        assert spent.for_good
        assert spent.exit_code == 0


def test_time() -> None:
    board = standing(time_s=10)
    assert board.spent(elapsed_s=9.9) is None
    spent = board.spent(elapsed_s=10)
    assert spent is not None
    assert not spent.for_good


def test_plateau_counts_trials_of_every_end_since_the_last_better_value() -> None:
    board = fill(standing(plateau_trials=3, min_delta=0.1), complete=(1.0, 0.95), pruned=1)
    assert board.spent(elapsed_s=0) is None
    assert fill(board, complete=(0.91,)).spent(elapsed_s=0) is not None  # 0.09 better is not better
    assert board.best == 0.91


def test_a_plateau_needs_a_value_first() -> None:
    assert fill(standing(plateau_trials=3), pruned=4).spent(elapsed_s=0) is None


def test_failures_by_number() -> None:
    board = fill(standing(failures=2), complete=(1.0,), failed=2)
    assert board.spent(elapsed_s=0) is None
    spent = fill(board, failed=1).spent(elapsed_s=0)
    assert spent is not None
    assert spent.exit_code == 4


def test_failures_by_share_once_there_are_enough_trials() -> None:
    board = fill(standing(failures_percent=50), failed=4)
    assert board.spent(elapsed_s=0) is None
    assert fill(board, complete=(1.0,)).spent(elapsed_s=0) is not None  # 80 % of 5
    assert fill(board, complete=(1.0,) * 3).spent(elapsed_s=0) is None  # 50 % of 8 is not more than 50 %


def test_the_first_five_all_failed() -> None:
    assert fill(standing(), failed=4).spent(elapsed_s=0) is None
    assert fill(standing(), failed=5).spent(elapsed_s=0) is not None
    assert fill(standing(), complete=(1.0,), failed=9).spent(elapsed_s=0) is None


def test_over_before_it_starts() -> None:
    assert fill(standing(trials=2), complete=(1.0,), pruned=1).over
    assert not fill(standing(trials=3), complete=(1.0,), pruned=1).over
    assert fill(standing(trials=30, target=2.0), complete=(1.0,)).over
    assert not fill(standing(trials=30, time_s=0.0)).over


def test_several_objectives_have_no_best() -> None:
    board = standing(target=0.0)
    board.count(Cause.RETURNED, (1.0, 2.0))
    assert board.best is None
    assert board.n_complete == 1
