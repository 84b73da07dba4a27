"""The command line: what it imports, what it says, and how it ends."""

import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_studies import STUDY

import hpsearch
from hpsearch.errors import ClusterUnreachable

HEAVY = ("torch", "dask", "distributed", "optuna", "pandas", "sqlalchemy", "alembic", "ruamel", "numpy")


# ------------------------------------------------------------------------------------------ what it costs


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["run", "--nonsense"], ["db", "copy", "--help"]]
)
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


def test_the_start_of_help_is_quick() -> None:
    """At most 1.5 times what typer and rich need; in processor time, so that nobody else's load counts."""
    commands = {"help": ["-m", "hpsearch", "--help"], "bare": ["-c", "import typer, rich"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(7):
        for name, command in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *command], capture_output=True, check=True, timeout=50)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times["help"]) <= 1.5 * min(times["bare"])
