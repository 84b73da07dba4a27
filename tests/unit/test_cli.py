"""The command line: what it imports, what it says, and how it ends."""

import io
import json
import math
import os
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import optuna
import pytest
from ruamel.yaml import YAML

import hpsearch
from hpsearch import cli
from hpsearch.cli import best, logs, options, pages
from hpsearch.cli.options import Invocation
from hpsearch.cli.table import table
from hpsearch.errors import ClusterUnreachable, UsageError
from hpsearch.events import Notice
from hpsearch.storage import AttemptRow, StudyRecord, StudyStore, open_study
from hpsearch.views import StudySummary, TrialView

HEAVY = ("torch", "dask", "distributed", "optuna", "pandas", "sqlalchemy", "ruamel", "numpy")
STUDY = """\
name: small
objective: job.py:train
metric: {name: accuracy, goal: maximize}
parameters:
  lr: {min: 1e-4, max: 1.0, log: true}
  width: {min: 16, max: 256}
  epochs: 20
budget: {trials: 4, time: 10m}
storage: sqlite:///studies.db
"""
JOB = "def train(trial):\n    return 1.0\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own working directory, with a study file and its job, and no setting from outside."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HPSEARCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["hpsearch"])
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "job.py").write_text(JOB)
    return tmp_path


@pytest.fixture
def ended(folder: Path) -> StudyStore:
    """A study in studies.db: one trial of each kind, the last one still running."""
    store = _open(folder, "small")
    for number, kind in enumerate(["complete", "pruned", "fail", "complete", "running"]):
        _trial(store, folder, number, kind)
    store.close()
    return store


def _open(folder: Path, name: str) -> StudyStore:
    record = StudyRecord(
        spec_text=STUDY,
        space_json=json.dumps({"parameters": {"width": {"labels": {}}}, "constants": {"epochs": 20}}),
        command="hpsearch run study.yaml",
        directory=str(folder / "runs" / name),
        version="0.1.0",
    )
    return open_study(
        f"sqlite:///{folder}/studies.db",
        name,
        directions=["maximize"],
        metric_names=["accuracy"],
        record=record,
        sampler=optuna.samplers.RandomSampler(seed=1),
        pruner=optuna.pruners.NopPruner(),
        fresh=False,
        on_commit=lambda ticket: None,
        on_error=lambda error: None,
        on_request=lambda request: None,
    )


def _trial(store: StudyStore, folder: Path, number: int, kind: str) -> None:
    trial = store.study.ask()
    trial.suggest_float("lr", 1e-4, 1.0, log=True)
    trial.suggest_int("width", 16, 256)
    trial.report(0.5, 0)
    trial.report(0.6, 1)
    common: dict[str, Any] = {"trial": number, "worker": "tcp://127.0.0.1:1", "host": "here", "started": 1000.0}
    log = folder / f"rank-0-of-{number}.log"
    if kind == "complete":
        log.write_text(f"hello from {number}\n")
    if kind == "fail":
        lost = AttemptRow(**common, attempt=1, state="ended", cause="lost", reason="worker is gone", ended=1001.0)
        store.put_attempt(lost)
        reason, cause = "segmentation fault (SIGSEGV)", "signal"
        row = AttemptRow(
            **common, attempt=2, state="ended", cause=cause, reason=reason, ended=1002.0, exit_code=-11,
            log_path=str(log), log_tail="last words", traceback="Traceback:\n  boom\x1b[2J\n",
        )  # fmt: skip
    elif kind == "running":
        row = AttemptRow(**common, attempt=1, state="running", log_path=str(log))
    else:
        cause = {"complete": "returned", "pruned": "pruned"}[kind]
        row = AttemptRow(
            **common, attempt=1, state="ended", cause=cause, reason=f"it was {cause}", ended=1003.5, log_path=str(log)
        )
    store.put_attempt(row)
    states = {"pruned": optuna.trial.TrialState.PRUNED, "fail": optuna.trial.TrialState.FAIL}
    if kind == "complete":
        store.study.tell(trial, 0.9 - number / 10)
    elif kind in states:
        store.study.tell(trial, state=states[kind])


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Runs a command line in this process."""

    def call(*arguments: str) -> SimpleNamespace:
        code = cli.main(arguments)
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


# ------------------------------------------------------------------------------------------ what it costs


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["run", "--nonsense"]])
def test_nothing_heavy_is_imported_for_help_and_for_typing_errors(arguments: list[str]) -> None:
    code = (
        "import sys; from hpsearch.cli import main; main(sys.argv[1:]);"
        f"sys.exit(' '.join(m for m in {HEAVY} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr


def test_the_console_does_not_import_rich_before_it_draws() -> None:
    code = "import sys, hpsearch.console as c, hpsearch.console.plain, io;"
    code += "c.open_console('plain', c.Hints(), out=io.StringIO()); sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=50).returncode == 0


# ----------------------------------------------------------------------------------------- usage, one line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "hpsearch run: Missing argument"),
        (["run", "x", "--fresch"], "No such option: --fresch"),
        (["run", "x", "--trials", "many"], "'--trials'"),
        (["nonsense"], "No such command 'nonsense'"),
        (["best", "--format", "xml"], "'--format'"),
        (["trials", "-1"], "-1"),
        (["logs"], "Missing argument"),
        (["status", "too", "many"], "unexpected extra argument"),
    ],
)
def test_a_mistyped_command_is_one_line_and_exit_2(
    run: Callable[..., SimpleNamespace], arguments: list[str], words: str
) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert words in done.err
    assert len(done.err.splitlines()) == 1


def test_no_verb_shows_the_help_page(run: Callable[..., SimpleNamespace]) -> None:
    done = run()
    assert done.code == 2
    assert "Commands:" in done.err + done.out


def test_version(run: Callable[..., SimpleNamespace]) -> None:
    done = run("--version")
    assert (done.code, done.out) == (0, f"hpsearch {hpsearch.__version__}\n")


def test_python_m_hpsearch_is_hpsearch() -> None:
    command = [sys.executable, "-m", "hpsearch", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=50).stdout.startswith("hpsearch ")


# --------------------------------------------------------------------------------- errors and interruptions


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes ``hpsearch schema`` raise."""

    def fail(error: BaseException) -> None:
        def broken() -> None:
            raise error

        monkeypatch.setattr("hpsearch.spec.json_schema", broken)

    return fail


def test_an_error_of_ours_is_its_message_and_its_exit_code(
    run: Callable[..., SimpleNamespace], failing: Callable[[BaseException], None]
) -> None:
    failing(ClusterUnreachable("no scheduler at \x1b[2J tcp://x:1"))
    done = run("schema")
    assert (done.code, done.err) == (5, "hpsearch: no scheduler at \\x1b[2J tcp://x:1\n")


def test_an_internal_error_is_one_line_and_keeps_its_traceback(
    run: Callable[..., SimpleNamespace],
    failing: Callable[[BaseException], None],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    failing(KeyError("what\nnow"))
    done = run("schema")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("hpsearch: internal error: KeyError: ")
    (kept,) = folder.glob("hpsearch-error-*.txt")
    assert str(kept) in done.err
    assert "Traceback" in kept.read_text()


def test_debug_shows_the_traceback_of_an_internal_error(
    run: Callable[..., SimpleNamespace], failing: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPSEARCH_DEBUG", "1")
    failing(ZeroDivisionError("a fault of ours"))
    done = run("schema")
    assert done.code == 1
    assert "Traceback" in done.err
    monkeypatch.setenv("HPSEARCH_DEBUG", "0")
    monkeypatch.setattr("tempfile.mkstemp", _no_space)
    assert "HPSEARCH_DEBUG=1 shows the traceback" in run("schema").err
    assert "Traceback" in run("--debug", "schema").err


def _no_space(**_: object) -> None:
    raise OSError("disk full")


def test_ctrl_c_outside_of_a_search_is_quiet(
    run: Callable[..., SimpleNamespace], failing: Callable[[BaseException], None]
) -> None:
    failing(KeyboardInterrupt())
    done = run("schema")
    assert (done.code, done.err) == (130, "")


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m hpsearch schema | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=50)
    assert done.stdout == "{\n0\n"
    assert done.stderr == ""


def test_what_the_terminal_cannot_show_is_written_out(folder: Path) -> None:
    (folder / "stΩdy.yaml").write_text(STUDY)
    done = subprocess.run(
        [sys.executable, "-m", "hpsearch", "validate", "stΩdy.yaml"],
        capture_output=True,
        timeout=50,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0
    assert done.stdout.startswith(rb"st\u03a9dy.yaml: valid")


# --------------------------------------------------------------------------------------------- study files


def test_validate_says_what_a_study_is(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    done = run("validate", "study.yaml")
    assert done.code == 0
    assert done.out.startswith(
        "study.yaml: valid: study 'small': 4 trials or 10m of job.py:train to maximize accuracy; 2"
    )
    assert len(done.out.splitlines()) == 1


def test_validate_explains_where_values_come_from(
    run: Callable[..., SimpleNamespace], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPSEARCH_SEED", "7")
    lines = run("validate", "study.yaml", "budget.trials=9", "--explain").out.splitlines()
    where = {line.split()[0]: line for line in lines}
    assert where["budget.trials"].split() == ["budget.trials", "9", "command", "line"]
    assert "environment HPSEARCH_SEED" in where["seed"]
    assert "study.yaml:1:7" in where["name"]
    assert "default" in where["retry.max"]


def test_all_problems_of_a_study_file_at_once_one_line_each(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    (folder / "study.yaml").write_text(STUDY.replace("min: 1e-4", "min: 0").replace("trials: 4", "trials: -1"))
    done = run("validate", "study.yaml")
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("study.yaml:") for line in lines)
    assert "parameters.lr" in done.err
    assert "budget.trials" in done.err


def test_schema_is_json_schema(run: Callable[..., SimpleNamespace]) -> None:
    assert "properties" in json.loads(run("schema").out)


def test_init_writes_a_study_that_is_valid(
    run: Callable[..., SimpleNamespace], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("init", "new dir")
    assert done.code == 0
    assert "cd 'new dir' && hpsearch run study.yaml" in done.out
    monkeypatch.chdir(folder / "new dir")
    assert run("validate", "study.yaml").code == 0
    assert json.loads(Path("study.schema.json").read_text())["properties"]
    first = Path("study.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=study.schema.json"


def test_init_overwrites_nothing(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    done = run("init")
    assert done.code == 2
    assert "study.yaml" in done.err
    assert (folder / "study.yaml").read_text() == STUDY
    assert not (folder / "train.py").exists()


def test_init_says_why_it_cannot_write(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    done = run("init", "study.yaml/below")
    assert done.code == 2
    assert done.err.startswith("hpsearch: cannot write to study.yaml/below:")


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
    assert api.keywords["interrupts"] is True
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
        (("run", "s.yaml", "--storage", "postgresql://me:secret@db/x"), "hpsearch run s.yaml --storage 'postgresql://me:***@db/x'"),
        (("run", "s.yaml", "--storage=postgresql://me:secret@db/x"), "hpsearch run s.yaml '--storage=postgresql://me:***@db/x'"),
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


@pytest.mark.parametrize("url", ["sqlite:///studies.db", "postgresql://me@db/x", "postgresql://db:5432/x", "no url"])
def test_urls_without_password_stay_as_they_are(url: str) -> None:
    assert options.without_password(url) == url


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
    _open(folder, "second").close()
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
    store = _open(folder, "small")
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
    store = _open(folder, "small")
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
    _open(folder, "small").close()
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
    store = _open(folder, "small")

    def sleep(seconds: float) -> None:
        if not (folder / "rank-0-of-0.log").exists():
            _trial(store, folder, 0, "complete")
            store.close()

    monkeypatch.setattr("hpsearch.cli.logs.time.sleep", sleep)
    try:
        done = run("logs", "0", "-f")
    finally:
        store.close()
    assert (done.code, done.out) == (0, "hello from 0\n")


def test_logs_of_a_trial_that_never_ran(run: Callable[..., SimpleNamespace], folder: Path) -> None:
    store = _open(folder, "small")
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
    _open(folder, "idle").close()
    store = _open(folder, "small")
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


def test_the_start_of_help_is_quick() -> None:
    """At most 1.5 times what typer and rich need by themselves; measured against each other, the best of several."""

    commands = {"help": ["-m", "hpsearch", "--help"], "bare": ["-c", "import typer, rich"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(7):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, check=True, timeout=50)
            times[name].append(time.perf_counter() - start)
    assert min(times["help"]) <= 1.5 * min(times["bare"])
