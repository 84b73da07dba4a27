"""The console room: what a run looks like, from notices alone."""

import io
import json
import math
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import pytest
from notices import HINTS, T0, begun, completed, failed, finished, folded, notice, pruned, reported, started
from rich.console import Console as RichConsole

from hpsearch.console import Console, Hints, choose_mode, open_console
from hpsearch.console.frame import frame
from hpsearch.console.live import LiveView
from hpsearch.console.plain import ANY_REPORT_EVERY_S, REPORT_EVERY_S, JsonView, PlainView, json_line, structured
from hpsearch.console.progress import Progress
from hpsearch.console.summary import summary
from hpsearch.events import Notice


def shown(progress: Progress, width: int = 80, height: int = 23, at: float = 10.0, **options: Any) -> list[str]:
    """A frame as a terminal of that width would show it, line by line."""
    console = RichConsole(width=width, record=True, file=io.StringIO(), markup=False)
    for line in frame(progress, HINTS, width, height, T0 + at, **options):
        console.print(line)
    return console.export_text().splitlines()


# ----------------------------------------------------------------------------------------------- a frame


@pytest.fixture
def busy() -> Progress:
    notices = [started(done=5)]
    notices += [
        notice("worker.joined", worker=f"tcp://127.0.0.1:400{n}", host="h", slots=2, gpus=(), cpus=2) for n in range(2)
    ]
    for trial in range(5, 8):
        worker, slot = f"tcp://127.0.0.1:400{(trial - 5) // 2}", (trial - 5) % 2
        notices.append(begun(trial, worker=worker, slot=slot, lr=0.01))
        notices += [reported(trial, step, step / 10) for step in range(8)]
    notices += [
        begun(8, worker="gone", lr=0.0123, width=128, optimizer="sgd"),
        completed(8, 0.98331, best=True),
        pruned(9, 3),
        failed(3),
    ]
    return folded(*notices)


def test_a_frame_says_it_all(busy: Progress) -> None:
    lines = shown(busy)
    text = "\n".join(lines)
    assert re.search(r"^digits  ━+─+  8/60 trials  10s  ETA 2m53s", lines[0])
    assert "3 running  1 complete  1 pruned  1 failed  5 from earlier runs  tpe, asha" in lines[1]
    assert lines[2].startswith("best    0.98331 accuracy  trial 8  lr=0.0123 width=128 optimizer=sgd")
    assert re.search(r"^local0/0 +5 +7 +0\.7  ▁▂", text, re.M)
    assert re.search(r"^local1/1 +idle", text, re.M)
    assert "step 3: 1/3 pruned" in text
    assert re.search(r"^failed  trial 3: segmentation fault \(SIGSEGV\)  hpsearch logs 3$", text, re.M)


@pytest.mark.parametrize(("width", "height"), [(80, 23), (40, 23), (20, 10), (80, 6), (200, 50), (10, 1)])
def test_a_frame_fits_whatever_the_terminal(busy: Progress, width: int, height: int) -> None:
    busy.apply(failed(4, "ValueError: " + "long " * 100))
    busy.apply(notice("study.draining", reason="Ctrl-C"))
    lines = frame(busy, HINTS, width, height, T0 + 10)
    assert 1 <= len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    assert len(shown(busy, width, height)) == len(lines)  # nothing wrapped


def test_many_slots_show_the_busy_ones_and_count_the_rest() -> None:
    progress = folded(
        started(),
        notice("worker.joined", worker="tcp://a:1", host="a", slots=64, gpus=(), cpus=64),
        begun(0, worker="tcp://a:1", slot=63),
    )
    lines = shown(progress, height=12)
    assert len(lines) == 12
    assert any(line.startswith("a:1/63") for line in lines)
    assert lines[-1].startswith("and 57 more")


def test_markup_and_control_characters_of_users_stay_text(busy: Progress) -> None:
    busy.apply(begun(20, **{"[red]x[/red]": "[/bold]\x1b[2J"}))
    busy.apply(completed(20, 0.999, best=True))
    busy.apply(failed(21, "[link=http://x]boom[/link]\x1b]0;title\x07\n second line"))
    text = "\n".join(shown(busy, width=160))
    assert "[red]x[/red]=" in text
    assert "[link=http://x]boom[/link]\\x1b]0;title\\x07\\n second line" in text
    assert "\x1b" not in text


def test_a_frame_in_ascii_is_ascii(busy: Progress) -> None:
    assert all(line.plain.isascii() for line in frame(busy, HINTS, 60, 23, T0 + 10, ascii_only=True))


def test_an_empty_run_has_a_frame_too() -> None:
    lines = shown(folded(started(total=None)))
    assert lines[0].startswith("digits  0 trials  10s")
    assert "best    none yet" in lines[2]


# ----------------------------------------------------------------------------------------------- summary


def test_the_summary_says_what_came_out_and_where_to_look() -> None:
    lines = summary(folded(started(), failed(7), finished()), HINTS)
    assert lines[1:3] == ["digits: 60 trials", "  trials  60 of 60 in 2m14s: 30 complete, 28 pruned, 2 failed"]
    assert "  best    accuracy 0.9833, trial 17" in lines
    assert "          lr     0.0123" in lines
    assert "          hpsearch logs 7   # segmentation fault (SIGSEGV)" in lines
    assert "          optuna-dashboard sqlite:///studies.db" in lines
    assert not any("resume" in line for line in lines)
    assert all(len(line) <= 80 for line in lines)


def test_an_unfinished_run_says_how_to_go_on() -> None:
    counts = {"complete": 0, "pruned": 0, "failed": 0, "unfinished": 2}
    lines = summary(folded(started(), finished(130, counts=counts, best=None, reason="interrupted")), HINTS)
    assert "  best    none: no trial succeeded" in lines
    assert lines[-1] == "  resume  hpsearch run study.yaml"


def test_the_summary_names_options_that_the_look_verbs_need() -> None:
    hints = Hints(study="digits", where="--storage sqlite:///x.db --name digits")
    lines = summary(folded(started(), finished()), hints)
    assert "  look    hpsearch best --storage sqlite:///x.db --name digits" in lines


def test_several_objectives_have_no_single_best() -> None:
    lines = summary(folded(started(directions=["minimize", "maximize"], metric_names=["a", "b"]), finished()), HINTS)
    assert any("Pareto" in line for line in lines)


def test_a_run_that_never_ended_has_no_summary() -> None:
    assert summary(folded(started()), HINTS) == []


def test_long_lists_of_parameters_are_cut() -> None:
    best = {"trial": 1, "values": [1.0], "params": {f"p{n}": n for n in range(30)}}
    assert "          and 10 more" in summary(folded(started(), finished(best=best)), HINTS)


# ---------------------------------------------------------------------------------------- plain and JSON


def plain(*notices: Notice) -> list[str]:
    stream = io.StringIO()
    view = PlainView(stream, HINTS)
    for each in notices:
        view.show(each)
    view.close()
    return stream.getvalue().splitlines()


def test_plain_lines_are_structured() -> None:
    lines = plain(started(), begun(7), pruned(7, 9))
    assert len(lines) == 2
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d trial.pruned trial=7 attempt=1 step=9 value=0.1 reason="below the best third"', lines[1]
    )


def test_a_completed_trial_is_one_line() -> None:
    assert structured(completed(3, 0.9, best=True)) == "trial=3 attempt=1 value=0.9 best=true duration=3.0s"
    assert structured(completed(3, math.nan)) == "trial=3 attempt=1 value=nan duration=3.0s"


def test_plain_lines_grow_with_trials_and_not_with_reports() -> None:
    notices = [started()]
    for trial in range(6):
        notices.append(begun(trial, at=trial))
        notices += [reported(trial, step, 0.5, at=trial + step / 100) for step in range(100)]
        notices.append(completed(trial, 0.5, at=trial + 1))
    assert len(plain(*notices)) == 1 + 6


def test_a_long_trial_shows_signs_of_life() -> None:
    reports = [reported(0, step, 0.5, at=float(step)) for step in range(300)]
    lines = plain(started(), begun(0), *reports)
    assert len(lines) == 1 + 300 // REPORT_EVERY_S - (300 % REPORT_EVERY_S == 0)
    assert "trial.reported trial=0 attempt=1 step=30 value=0.5" in lines[1]


def test_many_long_trials_share_the_lines() -> None:
    notices = [started(), *(begun(trial) for trial in range(100))]
    notices += [reported(trial, second, 0.5, at=float(second)) for second in range(100) for trial in range(100)]
    assert len(plain(*notices)) <= 2 + 100 / ANY_REPORT_EVERY_S


def test_plain_output_ends_with_the_summary() -> None:
    assert plain(started(), finished())[-1].endswith("optuna-dashboard sqlite:///studies.db")


class Colour(StrEnum):
    RED = "red"


def test_json_lines_are_strict_json() -> None:
    odd = {
        "nan": math.nan,
        "values": (1.0, math.inf, None, True),
        "set": {1},
        "nested": {1: {"x": -math.inf}},
        "enum": Colour.RED,
        "other": 1j,
        "text": "a\nb\x1b",
    }
    line = json_line(notice("trial.reported", **odd))
    assert "\n" not in line
    read = json.loads(line, parse_constant=pytest.fail)
    assert read == {
        "event": "trial.reported",
        "time": T0,
        "nan": None,
        "values": [1.0, None, None, True],
        "set": [1],
        "nested": {"1": {"x": None}},
        "enum": "red",
        "other": "1j",
        "text": "a\nb\x1b",
    }


def test_json_goes_to_stdout_and_the_summary_to_stderr() -> None:
    out, errors = io.StringIO(), io.StringIO()
    view = JsonView(out, errors, HINTS)
    for each in (started(), begun(0), reported(0, 1, 0.5), finished()):
        view.show(each)
    view.close()
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == [
        "study.started", "trial.started", "trial.reported", "study.finished",
    ]  # fmt: skip
    assert "60 of 60 in" in errors.getvalue()


# --------------------------------------------------------------------------------------------- the console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("stream", "options", "mode"),
    [
        (Terminal(), {}, "live"),
        (Terminal(), {"plain": True}, "plain"),
        (Terminal(), {"json": True}, "json"),
        (Terminal(), {"term": "dumb"}, "plain"),
        (io.StringIO(), {}, "plain"),
    ],
)
def test_the_mode_fits_the_stream(stream: io.StringIO, options: dict[str, Any], mode: str) -> None:
    assert choose_mode(**{"plain": False, "json": False, "stream": stream, "term": "xterm", **options}) == mode


def test_every_notice_is_shown_before_the_console_closes() -> None:
    out = io.StringIO()
    with open_console("json", HINTS, out=out, errors=io.StringIO()) as console:
        for trial in range(1000):
            console(begun(trial))
    assert len(out.getvalue().splitlines()) == 1000
    assert console.fault is None


def test_a_reader_that_went_away_silences_the_console_and_nothing_else() -> None:
    with open_console("plain", HINTS, out=Broken()) as console:
        console(started())
        console(pruned(1, 1))
        console(finished())
    assert isinstance(console.fault, BrokenPipeError)
    assert console.begun
    assert console.finished


class Faulty:
    """A view whose ``show`` breaks."""

    refresh_s = 0.01

    def __init__(self) -> None:
        self.closed = False

    def open(self) -> None: ...

    def show(self, notice: Notice) -> None:
        raise KeyError("a fault of ours")

    def refresh(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def test_a_faulty_view_does_not_reach_the_coordinator() -> None:
    view = Faulty()
    with Console(view) as console:
        console(started())
        console(finished())
    assert isinstance(console.fault, KeyError)
    assert view.closed


@pytest.fixture
def live() -> Iterator[Callable[..., tuple[LiveView, RichConsole]]]:
    def make(width: int = 80, height: int = 24) -> tuple[LiveView, RichConsole]:
        stream = Terminal()
        console = RichConsole(
            file=stream,
            force_terminal=True,
            width=width,
            height=height,
            markup=False,
            highlight=False,
            color_system=None,
        )
        return LiveView(stream, HINTS, clock=lambda: T0 + 10, console=console), console

    return make


def test_the_live_view_draws_in_place_and_ends_with_the_summary(
    live: Callable[..., tuple[LiveView, RichConsole]],
) -> None:
    view, console = live()
    view.open()
    view.refresh()  # nothing to show yet
    assert console.file.getvalue() == "digits: starting"  # type: ignore[attr-defined]
    view.show(started())
    view.show(notice("study.warning", message="[bold]disk[/bold] nearly full\x1b[2J"))
    view.refresh()
    view.show(finished())
    view.refresh()
    view.close()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "warning: [bold]disk[/bold] nearly full\\x1b[2J" in text
    assert text.count("  0/60 trials") >= 2
    assert text.rstrip().endswith("optuna-dashboard sqlite:///studies.db")


def test_a_run_that_ends_before_the_first_frame_leaves_a_clean_line() -> None:
    out = Terminal()
    with open_console("live", HINTS, out=out):
        pass
    assert out.getvalue() == "digits: starting\r\x1b[K"


@pytest.mark.parametrize(
    ("storage", "shown"),
    [
        ("postgresql://me@db/x", "postgresql+psycopg://me@db/x"),
        ("postgresql+psycopg://me@db/x?a=1&b=2", "'postgresql+psycopg://me@db/x?a=1&b=2'"),
        ("sqlite:///my studies.db", "'sqlite:///my studies.db'"),
    ],
)
def test_the_dashboard_is_named_as_it_can_be_pasted(storage: str, shown: str) -> None:
    progress = folded(started(), finished())
    assert summary(progress, Hints(storage=storage))[-1] == f"          optuna-dashboard {shown}"
