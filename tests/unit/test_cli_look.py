"""The verbs that look at a study, and ``stop``."""

import io
import json
import math
import shlex
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_studies import add_trial, open_store
from ruamel.yaml import YAML

from hpsearch import cli
from hpsearch.cli import best, logs, pages
from hpsearch.cli.table import table
from hpsearch.errors import UsageError
from hpsearch.storage import AttemptRow, StudyStore
from hpsearch.views import StudySummary, TrialView


@pytest.fixture
def ended(folder: Path) -> StudyStore:
    """A study in studies.db: one trial of each kind, the last one still running."""
    store = open_store(folder, "small")
    for number, kind in enumerate(["complete", "pruned", "fail", "complete", "running"]):
        add_trial(store, folder, number, kind)
    store.close()
    return store


# ------------------------------------------------------------------------------------------ the look verbs


def test_without_a_database_every_look_verb_says_what_to_do(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    for verb in (["status"], ["trials"], ["best"], ["logs", "1"], ["stop"]):
        done = run(*verb)
        assert (done.code, done.out) == (2, "")
        assert "give --storage URL" in done.err
    missing = run("status", "--storage", "sqlite:///not-here.db")
    assert missing.code == 5
    assert len(missing.err.splitlines()) == 1
    assert not (folder / "not-here.db").exists()


def test_status(run: Callable[..., SimpleNamespace], ended: StudyStore) -> None:
    done = run("status")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[:3] == [
        "study    small",
        "state    not running",
        "trials   5: 2 complete, 1 pruned, 1 failed, 1 running",
    ]
    assert lines[3].startswith("best     accuracy 0.9, trial 0  lr=")
    assert lines[4] == "resume   hpsearch run study.yaml"


def test_status_of_several_studies_is_a_line_each(
    run: Callable[..., SimpleNamespace], ended: StudyStore, folder: Path
) -> None:
    open_store(folder, "second").close()
    lines = run("status").out.splitlines()
    assert [line.split()[0] for line in lines] == ["study", "small", "second"]
    assert run("status", "--name", "second").out.startswith("study    second")
    done = run("best")
    assert done.code == 2
    assert "2 studies (small, second): choose one by --name" in done.err
    wrong = run("trials", "--name", "thrid")
    assert wrong.code == 2
    assert "small, second" in wrong.err


def test_status_watch_of_a_study_that_does_not_run_is_status(
    run: Callable[..., SimpleNamespace], ended: StudyStore
) -> None:
    assert run("status", "-w").out == run("status").out


def test_status_watch_follows_a_running_study_to_its_end(
    run: Callable[..., SimpleNamespace], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(folder, "small")
    monkeypatch.setattr("time.sleep", lambda seconds: store.close())
    monkeypatch.setattr("hpsearch.cli.look.REDRAW_S", 0.0)
    lines = run("status", "--watch").out.splitlines()
    assert lines[0].endswith("no trials yet")
    assert lines[2] == "state    not running"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("interrupted", [False, True])
def test_status_watch_redraws_on_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool) -> None:
    store = open_store(folder, "small")
    monkeypatch.setattr(sys, "stdout", Terminal())

    def sleep(seconds: float) -> None:
        if interrupted:
            raise KeyboardInterrupt
        store.close()

    monkeypatch.setattr("hpsearch.cli.look.time.sleep", sleep)
    try:
        assert cli.main(["status", "-w"]) == 0
    finally:
        store.close()
    assert "study    small" in sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert ("not running" in sys.stdout.getvalue()) is not interrupted  # type: ignore[attr-defined]


def test_trials_are_a_line_each(run: Callable[..., SimpleNamespace], ended: StudyStore) -> None:
    lines = run("trials").out.splitlines()
    assert lines[0].split() == ["trial", "state", "value", "steps", "attempts", "time", "parameters", "reason"]
    assert len(lines) == 6
    assert lines[1].split()[:6] == ["0", "complete", "0.9", "2", "1", "3.5s"]
    assert lines[2].split()[:6] == ["1", "pruned", "0.6", "2", "1", "3.5s"]
    assert lines[2].endswith("it was pruned")
    assert lines[3].split()[:6] == ["2", "failed", "0.6", "2", "2", "3.0s"]
    assert lines[3].endswith("segmentation fault (SIGSEGV)")
    assert "lr=" in lines[4]


def test_an_attempt_says_where_it_began(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    store = open_store(folder, "small")
    add_trial(store, folder, 0, "complete")
    add_trial(store, folder, 1, "pruned")
    add_trial(store, folder, 2, "fail")
    fields = {"trial": 2, "attempt": 2, "step": 12, "checkpoint": "/runs/trial-0002/checkpoints/000012-step-11"}
    store.put_event("trial.resumed", 2, 2, "", fields)
    store.close()
    assert "  from step 12, /runs/trial-0002/checkpoints/000012-step-11" in run("trials", "2").out.splitlines()
    (line,) = run("trials", "2", "--json").out.splitlines()
    shown = json.loads(line)
    assert [(row["cause"], row["from_step"]) for row in shown["attempts"]] == [("lost", 0), ("signal", 12)]
    assert shown["attempts"][1]["checkpoint"] == fields["checkpoint"]
    assert shown["attempts"][1]["host"] == "here"
    everything = [json.loads(line) for line in run("trials", "--json").out.splitlines()]
    assert [trial["state"] for trial in everything] == ["complete", "pruned", "fail"]
    assert everything[2] == shown


def test_one_trial_shows_its_attempts(run: Callable[..., SimpleNamespace], ended: StudyStore, folder: Path) -> None:
    done = run("trials", "2")
    lines = done.out.splitlines()
    assert lines[0] == "trial 2 of small: failed"
    assert lines[1] == "last report 0.6 at step 1, 2 reports in all"
    assert "attempt 1: lost after 1.0s: worker is gone" in lines
    assert "attempt 2: signal after 2.0s: segmentation fault (SIGSEGV)" in lines
    assert f"  log {folder}/rank-0-of-2.log" in lines
    assert lines[-1] == "  boom\\x1b[2J"
    assert "accuracy 0.9" in run("trials", "0").out
    assert "attempt 1: running for" in run("trials", "4").out
    missing = run("trials", "99")
    assert (missing.code, missing.err) == (2, "hpsearch: small has no trial 99: its 5 are numbered from 0\n")


def test_best_as_yaml_json_and_arguments(run: Callable[..., SimpleNamespace], ended: StudyStore) -> None:
    as_yaml = run("best").out
    assert as_yaml.startswith("# small, trial 0: accuracy 0.9\n")
    params = YAML(typ="safe").load(as_yaml)
    as_json = json.loads(run("best", "--format", "json").out)
    assert as_json == {"study": "small", "trial": 0, "values": {"accuracy": 0.9}, "params": params}
    assert params["epochs"] == 20
    assert set(params) == {"epochs", "lr", "width"}
    words = shlex.split(run("best", "--format", "args").out)
    assert f"--lr={params['lr']}" in words
    assert "--epochs=20" in words


def test_best_of_a_study_without_success_is_exit_3(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    open_store(folder, "small").close()
    done = run("best")
    assert (done.code, done.out, done.err) == (3, "", "hpsearch: no trial of small has succeeded yet\n")


def test_labels_stand_for_the_values_that_the_objective_saw() -> None:
    space = {"constants": {"epochs": 3}, "parameters": {"layers": {"labels": {"small": [8, 8], "1": [1]}}}}
    assert best.resolved(json.dumps(space), {"layers": "small"}) == {"epochs": 3, "layers": [8, 8]}
    assert best.resolved(json.dumps(space), {"layers": 1})["layers"] == [1]
    assert best.resolved("", {"x": 1}) == {"x": 1}


def test_arguments_are_quoted_for_a_shell() -> None:
    params = {"a": -1.5, "b": "two words", "c": True, "d": None, "e": [1, 2]}
    assert best.arguments(params) == "--a=-1.5 '--b=two words' --c=true --d=null '--e=[1, 2]'"


def test_a_pareto_front_is_a_list() -> None:
    study = _summary(directions=("minimize", "maximize"), metric_names=())
    front = [TrialView(number=n, state="complete", values=(n, math.nan), params={"x": n}) for n in range(2)]
    assert [entry["trial"] for entry in json.loads(best.written(study, front, "", "json"))] == [0, 1]
    assert json.loads(best.written(study, front, "", "json"))[1]["values"] == {"value_0": 1, "value_1": None}
    assert len(list(YAML(typ="safe").load_all(best.written(study, front, "", "yaml")))) == 2
    assert best.written(study, front, "", "args") == "--x=0\n--x=1\n"


def _summary(**changes: Any) -> StudySummary:
    fields: dict[str, Any] = {
        "name": "small",
        "directions": ("maximize",),
        "metric_names": ("accuracy",),
        "counts": {"complete": 0, "pruned": 0, "fail": 0, "running": 30, "waiting": 0},
        "best": None,
        "best_values": (),
        "running": True,
        "holder": "process 12 on host a since then",
        "started": 1000.0,
        "created": 1000.0,
        "command": "hpsearch run study.yaml",
        "directory": "runs/small",
    }
    return StudySummary(**{**fields, **changes})


def test_the_page_of_a_running_study_shows_what_runs_now() -> None:
    attempts = [AttemptRow(trial=0, attempt=n, state="running", started=1100.0) for n in (1, 2)]
    trials = [
        TrialView(number=0, state="running", values=(), params={}, attempts=attempts[1:], last_step=3, last_value=0.5)
    ]
    trials += [TrialView(number=n, state="running", values=(), params={}, started=1090.0) for n in range(1, 30)]
    lines = pages.study_page(_summary(), trials, 1192.0, 60)
    assert lines[1] == "state    running for 3m12s (process 12 on host a since then)"
    assert lines[4] == "now      trial 0, 1m32s, step 3: 0.5"
    assert lines[5] == "         trial 1, 1m42s"
    assert lines[-1] == "         and 10 more"
    assert all(len(line) <= 60 for line in lines)


# ---------------------------------------------------------------------------------------------------- logs


def test_logs_show_the_file(run: Callable[..., SimpleNamespace], ended: StudyStore) -> None:
    done = run("logs", "0")
    assert (done.code, done.out, done.err) == (0, "hello from 0\n", "")


def test_logs_fall_back_on_what_the_database_kept(run: Callable[..., SimpleNamespace], ended: StudyStore) -> None:
    done = run("logs", "2")
    assert (done.code, done.out) == (0, "last words\n")
    assert "is not on this machine (here wrote it)" in done.err
    for arguments in (["2", "--rank", "1"], ["1"], ["2", "--attempt", "3"], ["77"]):
        missing = run("logs", *arguments)
        assert (missing.code, missing.out) == (2, ""), arguments
        assert len(missing.err.splitlines()) == 1


def test_logs_of_another_rank_lie_beside(run: Callable[..., SimpleNamespace], ended: StudyStore, folder: Path) -> None:
    (folder / "rank-1-of-0.log").write_bytes(b"rank one \xff\n")
    assert logs.rank_log(Path("/x/rank-0.log"), 3) == Path("/x/rank-3.log")
    assert run("logs", "0", "--rank", "1").out.startswith("rank one")


def test_logs_follow_until_the_attempt_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = folder / "grows.log"
    lines = [b"one\n", b"two\n", b"", b"three\n"]

    def grow(seconds: float) -> None:
        with path.open("ab") as file:
            file.write(lines.pop(0))

    monkeypatch.setattr(logs, "ATTEMPT_POLL_S", 0.0)
    logs._copy(path, lambda: bool(lines), grow)
    assert capfdbinary.readouterr().out == b"one\ntwo\nthree\n"


def test_a_log_that_was_cut_is_read_from_its_start_again(folder: Path) -> None:
    path = folder / "x.log"
    tail = logs.Tail(path)
    assert tail.read() == b""
    path.write_bytes(b"long text")
    assert tail.read() == b"long text"
    path.write_bytes(b"new")
    assert tail.read() == b"new"
    with pytest.raises(UsageError, match="cannot read"):
        logs.Tail(folder).read()


def test_logs_follow_a_trial_that_has_not_started(
    run: Callable[..., SimpleNamespace], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(folder, "small")

    def sleep(seconds: float) -> None:
        if not (folder / "rank-0-of-0.log").exists():
            add_trial(store, folder, 0, "complete")
            store.close()

    monkeypatch.setattr("hpsearch.cli.logs.time.sleep", sleep)
    try:
        done = run("logs", "0", "-f")
    finally:
        store.close()
    assert (done.code, done.out) == (0, "hello from 0\n")


def test_logs_of_a_trial_that_never_ran(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    store = open_store(folder, "small")
    store.study.ask()
    store.close()
    assert run("logs", "0").err == "hpsearch: trial 0 of small has not run yet\n"


def test_logs_follow_a_study_that_is_over_ends(run: Callable[..., SimpleNamespace], ended: StudyStore) -> None:
    assert run("logs", "0", "-f").out == "hello from 0\n"
    assert run("logs", "4", "-f").code == 2  # its coordinator is gone, and so is its file


# ---------------------------------------------------------------------------------------------------- stop


def test_stop_of_a_study_that_does_not_run_is_no_error(run: Callable[..., SimpleNamespace], ended: StudyStore) -> None:
    done = run("stop")
    assert (done.code, done.out) == (0, "small is not running: nothing to stop\n")


def test_stop_reaches_the_coordinator(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    open_store(folder, "idle").close()
    store = open_store(folder, "small")
    try:
        assert run("stop").out.startswith("asked small to stop;")
        assert run("stop", "3").out == "asked small to stop trial 3\n"
    finally:
        store.close()
    with sqlite3.connect(folder / "studies.db") as database:
        sent = database.execute("SELECT kind, arguments FROM hpsearch_request ORDER BY request_id").fetchall()
    database.close()
    assert [(kind, json.loads(arguments)) for kind, arguments in sent] == [("stop", {}), ("stop_trial", {"trial": 3})]


# --------------------------------------------------------------------------------------------------- table


def test_a_table_is_as_wide_as_needed_for_a_pipe() -> None:
    lines = table(("n", "text"), [("1", "x" * 300), ("22", "y")], width=None, right=frozenset({0}))
    assert lines == [" n  text", " 1  " + "x" * 300, "22  y"]


@pytest.mark.parametrize("width", [80, 60, 40, 10, 3])
def test_a_table_fits_a_terminal(width: int) -> None:
    rows = [(str(n), "p=1 " * n, "because " * n) for n in range(20)]
    lines = table(("n", "parameters", "reason"), rows, width=width, flexible=frozenset({1, 2}))
    assert all(len(line) <= width for line in lines)
    if width == 80:
        assert all("…" not in line for line in lines[:4])
