"""``hpsearch run``: from the command line to a spec, and what is shown of a search."""

import json
import math
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hpsearch.cli import options
from hpsearch.cli.options import Invocation
from hpsearch.errors import ClusterUnreachable, UsageError
from hpsearch.events import Notice

# ----------------------------------------------------------------------------------------------------- run


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the coordinator: records what it is asked, and says what it is told to say."""
    asked = SimpleNamespace(spec=None, keywords={}, notices=[], exit_code=0, error=None)

    def run_study(spec: Any, *, listener: Callable[[Notice], None], **keywords: Any) -> SimpleNamespace:
        asked.spec, asked.keywords = spec, keywords
        for notice in asked.notices:
            listener(notice)
        if asked.error is not None:
            raise asked.error
        return SimpleNamespace(exit_code=asked.exit_code, reason="")

    module = ModuleType("hpsearch.api")
    module.run_study = run_study  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hpsearch.api", module)
    return asked


def _started() -> Notice:
    fields = {"study": "small", "total": 4, "done": 0, "metric_names": ["accuracy"], "directions": ["maximize"]}
    return Notice(kind="study.started", time=1.0, fields=fields)


def _finished(exit_code: int) -> Notice:
    fields = {
        "reason": "4 trials",
        "exit_code": exit_code,
        "counts": {"complete": 4},
        "best": {"trial": 2, "values": [0.9], "params": {"lr": math.inf}},
        "duration_s": 2.0,
        "resume": "hpsearch run study.yaml",
    }
    return Notice(kind="study.finished", time=3.0, fields=fields)


def test_run_turns_options_into_a_spec(run: Callable[..., SimpleNamespace], api: SimpleNamespace, folder: Path) -> None:
    typed = "run study.yaml --trials 7 resources.cpus=2 --timeout 90s --name other --seed 3 --storage sqlite:///o.db"
    done = run(*typed.split(), "--workers", "2", "--direction", "minimize", "--fresh")
    assert done.code == 0, done.err
    spec = api.spec
    assert (spec.budget.trials, spec.budget.time_s, spec.name, spec.seed) == (7, 90, "other", 3)
    assert (spec.storage, spec.cluster.workers, spec.metrics[0].goal) == ("sqlite:///o.db", 2, "minimize")
    assert spec.resources.cpus_per_rank == 2
    assert api.keywords["fresh"] is True
    resume = "hpsearch run study.yaml --trials 7 resources.cpus=2 --timeout 90s --name other --seed 3"
    assert api.keywords["resume_command"] == f"{resume} --storage sqlite:///o.db --workers 2 --direction minimize"


def test_run_takes_an_objective_without_a_study_file(
    run: Callable[..., SimpleNamespace], api: SimpleNamespace, folder: Path
) -> None:
    done = run("run", "job.py:train", "--direction", "maximize", "--trials", "5", "--scheduler", "tcp://host:8786")
    assert done.code == 0, done.err
    assert api.spec.objective.function == "train"
    assert (api.spec.cluster.kind, api.spec.cluster.address) == ("address", "tcp://host:8786")


@pytest.mark.parametrize("code", [0, 1, 3, 4, 130])
def test_run_ends_with_the_exit_code_of_the_search(
    run: Callable[..., SimpleNamespace], api: SimpleNamespace, folder: Path, code: int
) -> None:
    api.exit_code = code
    api.notices = [_started(), _finished(code)]
    done = run("run", "study.yaml")
    assert done.code == code
    assert "small: 4 trials\n  trials  4 of 4 in 2.0s: 4 complete\n" in done.out
    assert "optuna-dashboard sqlite:///studies.db" in done.out
    assert done.err == ""


def test_run_json_keeps_stdout_for_events(
    run: Callable[..., SimpleNamespace], api: SimpleNamespace, folder: Path
) -> None:
    api.notices = [_started(), _finished(0)]
    done = run("run", "study.yaml", "--json")
    events = [json.loads(line, parse_constant=pytest.fail) for line in done.out.splitlines()]
    assert [event["event"] for event in events] == ["study.started", "study.finished"]
    assert events[1]["best"]["params"] == {"lr": None}
    assert "4 of 4 in" in done.err


def test_a_run_cut_short_by_an_error_says_how_to_resume(
    run: Callable[..., SimpleNamespace], api: SimpleNamespace, folder: Path
) -> None:
    api.notices, api.error = [_started()], ClusterUnreachable("the scheduler went away")
    done = run("run", "study.yaml", "--fresh")
    assert done.code == 5
    assert done.err.splitlines() == ["resume: hpsearch run study.yaml", "hpsearch: the scheduler went away"]


def test_a_run_that_is_refused_has_nothing_to_resume(
    run: Callable[..., SimpleNamespace], api: SimpleNamespace, folder: Path
) -> None:
    api.error = ClusterUnreachable("no scheduler there")
    assert run("run", "study.yaml").err == "hpsearch: no scheduler there\n"


def test_a_wrong_study_file_starts_nothing(
    run: Callable[..., SimpleNamespace], api: SimpleNamespace, folder: Path
) -> None:
    done = run("run", "study.yaml", "sampler=tpee", "--trials", "0")
    assert done.code == 2
    assert len(done.err.splitlines()) == 2
    assert "tpe" in done.err
    assert api.spec is None
    assert sorted(path.name for path in folder.iterdir()) == ["job.py", "study.yaml"]


def test_a_dry_run_shows_the_first_configurations_and_writes_nothing(
    run: Callable[..., SimpleNamespace], folder: Path
) -> None:
    done = run("run", "study.yaml", "--dry-run", "--seed", "1")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("study 'small': 4 trials")
    assert any(line.split()[:2] == ["budget.trials", "4"] for line in lines)
    assert sum("epochs=20" in line for line in lines) == 3
    assert sum(" slot" in line and "1 CPU" in line for line in lines) == 1
    assert done.err == ""
    assert run("run", "study.yaml", "--dry-run", "--seed", "1").out == done.out
    assert sorted(path.name for path in folder.iterdir()) == ["job.py", "study.yaml"]


def test_a_dry_run_refuses_what_the_run_would_refuse(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    done = run("run", "study.yaml", "--dry-run", "resources.cpus=100000")
    assert done.code == 5
    assert "100000 CPUs" in done.err


def test_a_dry_run_of_a_define_by_run_objective_has_no_configurations(
    run: Callable[..., SimpleNamespace], folder: Path
) -> None:
    done = run("run", "job.py:train", "--trials", "3", "--direction", "minimize", "--dry-run")
    assert done.code == 0
    assert "the objective suggests them" in done.out


# ----------------------------------------------------------------------------------- what options come to


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("run", "a b.yaml", "--fresh", "lr.max=1"), "hpsearch run 'a b.yaml' lr.max=1"),
        (("run", "s.yaml", "--", "--fresh"), "hpsearch run s.yaml -- --fresh"),
        (("run", "s.yaml", "--storage", "postgresql://me:secret@db/x"), "hpsearch run s.yaml --storage postgresql://me@db/x"),
        (("run", "s.yaml", "--storage=postgresql://me:secret@db/x"), "hpsearch run s.yaml --storage=postgresql://me@db/x"),
        ((), "hpsearch"),
    ],
)  # fmt: skip
def test_the_resume_command_can_be_pasted_and_keeps_no_secret(arguments: tuple[str, ...], command: str) -> None:
    assert Invocation(arguments).resume_command() == command


def test_the_program_is_named_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/hpsearch/__main__.py"])
    assert options.program_name() == "python -m hpsearch"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/hpsearch"])
    assert options.program_name() == "hpsearch"


def test_the_storage_is_found_by_option_environment_or_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="give --storage URL"):
        options.find_storage(None)
    (folder / "studies.db").touch()
    assert options.find_storage(None) == "sqlite:///studies.db"
    monkeypatch.setenv("HPSEARCH_STORAGE", "sqlite:///env.db")
    assert options.find_storage(None) == "sqlite:///env.db"
    assert options.find_storage("sqlite:///given.db") == "sqlite:///given.db"


def test_where_options_say_only_what_is_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options.where_options("sqlite:///studies.db", None) == ""
    assert options.where_options("sqlite:///a b.db", "x") == "--storage 'sqlite:///a b.db' --name x"
    monkeypatch.setenv("HPSEARCH_STORAGE", "sqlite:///env.db")
    assert options.where_options("sqlite:///env.db", None) == ""
    assert options.where_options("sqlite:///studies.db", None) == "--storage sqlite:///studies.db"


def test_other_studies_in_the_database_are_noticed(folder: Path) -> None:
    assert not options.holds_others("sqlite:///studies.db", "a")
    with sqlite3.connect(folder / "studies.db") as database:
        assert not options.holds_others("sqlite:///studies.db", "a")  # no table yet
        database.execute("CREATE TABLE studies (study_name TEXT)")
        database.execute("INSERT INTO studies VALUES ('a')")
        database.commit()
        assert not options.holds_others("sqlite:///studies.db", "a")
        assert options.holds_others("sqlite:///studies.db", "b")
    database.close()
    assert options.holds_others("postgresql://db/x", "a")


# ------------------------------------------------------------------------------------------------ passwords


def test_a_password_file_that_is_not_there_is_one_line(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    done = run("run", "study.yaml", "storage={url: postgresql://me@localhost/x, password_file: gone}", "--dry-run")
    assert done.code == 2
    assert done.err == "hpsearch: storage.password_file: gone: No such file or directory\n"


def test_a_password_file_that_others_can_read_is_a_warning(
    run: Callable[..., SimpleNamespace], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pw").write_text("secret\n")
    (folder / "pw").chmod(0o644)
    monkeypatch.setenv("HPSEARCH_STORAGE_PASSWORD_FILE", "pw")
    done = run("run", "study.yaml", "--dry-run")
    assert done.code == 0
    assert done.err == "hpsearch: warning: pw can be read by others: chmod 600 pw\n"


def test_a_password_on_the_command_line_is_a_warning_and_in_no_answer(
    run: Callable[..., SimpleNamespace], folder: Path
) -> None:
    url = "postgresql://me:c%40nary@localhost:1/x"
    done = run("status", "--storage", url)
    assert done.code == 5
    warning, error = done.err.splitlines()
    assert "warning: `ps` shows the password" in warning
    assert error.startswith("hpsearch: postgresql+psycopg://me:***@localhost:1/x: ")
    done = run("run", "study.yaml", "--storage", url, url)  # the second is no KEY=VALUE
    assert done.code == 2
    assert "nary" not in done.out + done.err


def test_a_password_is_in_no_traceback_of_an_internal_error(
    run: Callable[..., SimpleNamespace], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPSEARCH_STORAGE", "postgresql://me:c%40nary@localhost:1/x")
    monkeypatch.setenv("HPSEARCH_DEBUG", "1")

    def fail(url: str) -> None:
        try:
            raise ValueError("of c%40nary")
        except ValueError as error:
            raise RuntimeError("with c@nary") from error

    monkeypatch.setattr("hpsearch.views.open_views", fail)
    monkeypatch.setattr("hpsearch.storage.connect.locate", fail)
    from hpsearch import passwords

    passwords.bare("postgresql://me:c%40nary@localhost:1/x")
    done = run("status")
    assert done.code == 1
    assert "ValueError: of ***" in done.err
    assert "nary" not in done.err
