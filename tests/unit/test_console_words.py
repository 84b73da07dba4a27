"""How values look on a line, and what notices add up to."""

import math

import pytest
from notices import T0, begun, completed, failed, folded, notice, pruned, reported, started

from hpsearch.console.progress import Rung
from hpsearch.console.words import duration, number, one_line, pairs, quoted, shortened, sparkline
from hpsearch.events import Notice

# ------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (math.nan, "-"), (math.inf, "-"), (-1, "0.0s"), (0.44, "0.4s"), (9.96, "10s"), (59.4, "59s"),
        (59.6, "1m00s"), (192, "3m12s"), (3600, "1h00m"), (3900, "1h05m"), (86400 * 2 + 3 * 3600, "2d03h"),
    ],
)  # fmt: skip
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (3, "3"), (0.123456789, "0.12346"), (1e-7, "1e-07"), (math.nan, "nan"), ("a\x1b[2Jb", "a\\x1b[2Jb")],
)
def test_numbers_are_short_and_text_is_harmless(value: object, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", '"a b"'),
        ("", '""'),
        ('say "x"', r'"say \"x\""'),
        ("a=b", '"a=b"'),
        (0.5, "0.5"),
        (True, "True"),
        ("é", '"é"'),
    ],
)
def test_what_is_not_a_bare_word_is_quoted(value: object, text: str) -> None:
    assert quoted(value) == text


def test_control_characters_are_written_out() -> None:
    assert one_line("two\nlines\x1b[31m\x9b") == r"two\nlines\x1b[31m\x9b"
    assert "\x1b" not in pairs({"a\x1b": "\x1b[2J"})


def test_shortened_keeps_the_length() -> None:
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ([], ""),
        ([1.0], "▄"),
        ([0.0, 1.0], "▁█"),
        ([0.0, math.nan, 1.0], "▁ █"),
        ([math.nan, math.inf], "  "),
        ([-1e308, 1e308], "▄▄"),
        ([9.0, 0.0, 0.5, 1.0], "▁▅█"),
    ],
)
def test_sparklines(values: list[float], row: str) -> None:
    assert sparkline(values, 3) == row


def test_sparkline_in_ascii() -> None:
    assert sparkline([0.0, 1.0], 5, ascii_only=True).isascii()


# ---------------------------------------------------------------------------------------------- progress


def test_counts_running_and_best_follow_the_notices() -> None:
    progress = folded(
        started(done=10),
        begun(10, lr=0.1),
        begun(11, slot=1, lr=0.2),
        reported(10, 0, 0.5),
        completed(10, 0.9, best=True),
        pruned(11, 3),
        begun(12),
        failed(12),
        begun(13),
        notice("trial.stopped", trial=13, attempt=1, reason="the study drains"),
        notice("a.kind.from.tomorrow", x=1),
    )
    assert dict(progress.counts) == {"complete": 1, "pruned": 1, "failed": 1}
    assert progress.n_done == 13
    assert not progress.running
    assert progress.best is not None
    assert (progress.best.trial, progress.best.values, progress.best.params) == (10, (0.9,), {"lr": 0.1})
    assert progress.last_failure is not None
    assert progress.last_failure.trial == 12


def test_a_worse_trial_does_not_become_the_best() -> None:
    progress = folded(started(), begun(0), completed(0, 0.9, best=True), begun(1), completed(1, 0.1))
    assert progress.best is not None
    assert progress.best.trial == 0


def test_best_of_earlier_runs_is_shown_from_the_start() -> None:
    progress = folded(started(done=3, best={"trial": 2, "values": [0.7], "params": {"lr": 1}}))
    assert progress.best is not None
    assert progress.best.trial == 2


def test_a_retried_trial_leaves_its_slot_and_comes_back() -> None:
    progress = folded(
        started(), begun(7, lr=0.1), notice("trial.retried", trial=7, attempt=2, cause="lost", reason="gone")
    )
    assert not progress.running
    progress.apply(begun(7, attempt=2, slot=1))
    assert progress.running[7].attempt == 2


def test_eta_follows_the_pace_of_this_run() -> None:
    progress = folded(started(done=40, total=60))
    assert progress.eta_s(T0 + 10) is None
    for trial in range(40, 50):
        progress.apply(completed(trial, 0.5, at=1.0))
    assert progress.eta_s(T0 + 10) == pytest.approx(10)  # ten in ten seconds, ten to go
    assert progress.fraction(T0 + 10) == pytest.approx(50 / 60)


def test_the_nearer_end_of_the_budget_counts() -> None:
    progress = folded(started(total=1000, time_s=100.0))
    assert progress.fraction(T0 + 50) == pytest.approx(0.5)
    assert progress.eta_s(T0 + 50) == pytest.approx(50)
    assert progress.eta_s(T0 + 500) == 0
    assert folded(started(total=None)).fraction(T0 + 5) is None


def test_rungs_count_who_got_there_and_who_ended_there() -> None:
    notices: list[Notice] = [started()]
    for trial, last in enumerate([1, 1, 3, 9]):
        notices.append(begun(trial))
        notices += [reported(trial, step, 0.1) for step in range(last + 1)]
    notices += [pruned(0, 1), pruned(1, 1), pruned(2, 3), reported(3, 9, 0.2, rung=2)]
    assert folded(*notices).rungs() == [
        Rung(step=1, n_reached=4, n_pruned=2),
        Rung(step=3, n_reached=2, n_pruned=1),
        Rung(step=9, n_reached=1, n_pruned=0),
    ]
