"""Commands of study files: substitutions, what is refused and where, patterns, and exact quoting."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_files import problems

from hpsearch.errors import StudyFileError
from hpsearch.report.__main__ import main as report
from hpsearch.report.output import MAX_LINE, Scanner
from hpsearch.spec import StudySpec, load_study
from hpsearch.spec.command import Command, Part, text_of

HEAD = "metric: {name: loss, goal: minimize}\nbudget: {trials: 1}\n"
PARAMETERS = """\
parameters:
  lr: {min: 0.1, max: 1.0}
  flag: [true, false]
  size: {values: {small: [8, 8], large: [64, 64]}}
  optimizer: [sgd, adam]
  momentum: {min: 0.0, max: 0.9, when: {optimizer: sgd}}
  note: {value: {a: null}}
"""


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("raise SystemExit('never run')")


def study(command: str, more: str = "", **environ: str) -> StudySpec:
    Path("study.yaml").write_text(f"command: {command}\n{HEAD}{PARAMETERS}{more}")
    return load_study("study.yaml", environ=environ)


def arguments(command: str, **environ: str) -> list[str]:
    spec = study(command, **environ)
    assert spec.objective.command is not None
    params = {"lr": 0.5, "flag": True, "size": "small", "optimizer": "adam"}  # momentum does not exist in this trial
    return spec.objective.command.arguments(spec.parameters.resolve(params))


def test_all_parameters_become_arguments():
    whole = ['note={"a":null}', "lr=0.5", "flag=true", "size=[8,8]", "optimizer=adam"]
    assert sorted(arguments('[python, train.py, "${args}", end]')) == sorted(
        ["python", "train.py", *(f"--{one}" for one in whole), "end"]
    )
    assert sorted(arguments('[python, train.py, "${args_no_hyphens}"]')[2:]) == sorted(whole)


def test_one_argument_of_json():
    *_, text = arguments('[python, train.py, "${json}"]')
    assert json.loads(text) == {"lr": 0.5, "flag": True, "size": [8, 8], "optimizer": "adam", "note": {"a": None}}


def test_single_values_inside_text():
    command = '[python, train.py, "--lr=${params.lr}x", "$$${env:HOME}$HOME$", 3, true, "", "${params.note}"]'
    assert arguments(command, HOME="a $$ ${args}") == [
        "python", "train.py", "--lr=0.5x", "$a $$ ${args}$HOME$", "3", "true", "", '{"a":null}',
    ]  # fmt: skip


BAD = {
    '[python, train.py, "${agrs}"]': (
        "1:20: command[2]: unknown substitution '${agrs}' (did you mean 'args'?); $$ is a dollar sign"
    ),
    '[python, train.py, "${params.optimzer}"]': (
        "1:20: command[2]: there is no parameter 'optimzer' (did you mean 'optimizer'?)"
    ),
    '[python, train.py, "${params.momentum}"]': (
        "1:20: command[2]: not every trial has 'momentum', which has a condition: use ${args} or ${json}"
    ),
    '[python, train.py, "x ${args}"]': (
        "1:20: command[2]: ${args} stands for several arguments: give it an element of its own"
    ),
    '[python, train.py, "${env:NOWHERE}"]': "1:20: command[2]: environment variable NOWHERE is not set",
    '[python, train.py, "${args"]': "1:20: command[2]: '${args' has no end: write }, or $$ for a dollar sign",
    '["${params.optimizer}"]': "1:2: command[0]: the program itself must not depend on parameters",
    "[python, trian.py]": "1:10: command[1]: no such file: trian.py",
    "[./train.sh]": "1:2: command[0]: no such file: ./train.sh",
    "[no-such-program]": "1:2: command[0]: there is no program 'no-such-program' on the PATH",
    "python train.py": "1:1: command: must be a list such as [python, train.py, \"${args}\"] (got 'python train.py')",
    "[]": '1:1: command: must be a list such as [python, train.py, "${args}"] (got a list)',
    "[python, [train.py]]": "1:10: command[1]: must be text without NUL (got a list)",
    '[""]': "1:2: command[0]: must be a program (got '')",
}


@pytest.mark.parametrize("command", BAD)
def test_what_cannot_be_meant_is_refused_with_its_place(command):
    with pytest.raises(StudyFileError) as raised:
        study(command)
    line, column, message = BAD[command].split(":", 2)
    assert str(raised.value) == f"study.yaml:{line}:{int(column) + len('command: ')}:{message}"


def test_exactly_one_of_objective_and_command():
    Path("train.py").write_text("def train(trial): ...")
    both = problems(f"objective: train.py:train\ncommand: [python, train.py]\n{HEAD}")
    assert both == ["study.yaml:2:10: command: objective and command are two ways to say what is run: give one"]
    assert ["objective is needed" in line for line in problems(HEAD)] == [True]


PATTERNS = {
    "'loss=(?P<value>'": "metric.pattern: is no regular expression: missing ), unterminated subpattern at position 5",
    "'loss=(.*)'": r"metric.pattern: needs a group (?P<value>...), such as 'loss=(?P<value>\S+)'",
    "3": r"metric.pattern: must be a regular expression such as 'loss=(?P<value>\S+)' (got 3)",
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_bad_pattern_is_refused_with_its_place(pattern):
    metric = f"metric: {{name: loss, goal: minimize, pattern: {pattern}}}"
    lines = problems(f"command: [python, train.py]\n{metric}\nbudget: {{trials: 1}}\n")
    assert lines == [f"study.yaml:2:{metric.index(pattern) + 1}: {PATTERNS[pattern]}"]


def test_a_pattern_needs_a_command_and_a_command_has_one_metric():
    Path("train.py").write_text("def train(trial): ...")
    pattern = "metric: {name: loss, goal: minimize, pattern: '(?P<value>.)'}\nbudget: {trials: 1}"
    assert "goes with a command" in problems(f"objective: train.py:train\n{pattern}\n")[0]
    two = "metric: [{name: a, goal: minimize}, {name: b, goal: minimize}]\nbudget: {trials: 1}"
    assert "a command has one metric" in problems(f"command: [python, train.py]\n{two}\n")[0]


def test_a_script_beside_the_study_file_is_found(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    study("[python, train.py]")
    monkeypatch.chdir(tmp_path / "elsewhere")
    command = load_study("../study.yaml", environ={}).objective.command
    assert command is not None
    assert command.arguments({}) == ["python", str(tmp_path / "train.py")]


def test_programs_of_other_machines_are_not_looked_for():
    spec = study("[no-such-program, x]", "cluster: {address: 'tcp://127.0.0.1:1'}")
    assert spec.objective.label == "no-such-program x"


# values that YAML may give: choices, labels and constants
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
ECHO = "import json, sys; sys.stdout.write(json.dumps(sys.argv[1:]))"


@settings(max_examples=12, deadline=None)
@given(st.dictionaries(st.text("abc.", min_size=1), VALUES, max_size=4))
def test_a_program_receives_exactly_the_values(params):
    words = (
        (Part("text", sys.executable),),
        (Part("text", "-c"),),
        (Part("text", ECHO),),
        (Part("args"),),
        (Part("json"),),
    )
    told = Command(tuple(words), ()).arguments(params)
    done = subprocess.run(told, capture_output=True, text=True, check=True, timeout=60)
    *pairs, whole = json.loads(done.stdout)
    assert pairs == [f"--{name}={text_of(value)}" for name, value in params.items()]
    assert json.loads(whole) == params
    for value, pair in zip(params.values(), pairs, strict=True):
        text = pair.partition("=")[2]
        assert text == value if isinstance(value, str) else json.loads(text) == value


# ------------------------------------------------------------------------------------------- patterns


def scanned(pattern: str, data: bytes, size: int = 1 << 20) -> list[tuple[int, float, dict[str, float]]]:
    scanner = Scanner(pattern)
    found = [one for i in range(0, len(data), size) for one in scanner.feed(data[i : i + size])]
    return [(one["step"], one["value"], one["metrics"]) for one in (*found, *scanner.finish())]


def test_steps_are_counted_where_the_pattern_has_none():
    assert scanned(r"loss=(?P<value>\S+)", b"loss=3\nloss=oops\nloss=2.5,\rloss=-1e-3") == [
        (0, 3.0, {}), (1, 2.5, {}), (2, -0.001, {}),
    ]  # fmt: skip


def test_colours_are_not_part_of_a_value():
    printed = b"\x1b[1mloss\x1b[0m=\x1b[32m0.5\x1b[0m\r\x1b[Kloss=0.25\x1b[K\n"
    assert scanned(r"loss=(?P<value>\S+)", printed) == [(0, 0.5, {}), (1, 0.25, {})]


@pytest.mark.parametrize("name", ["x" * 513, "\udc80"])
def test_a_metric_of_a_name_that_cannot_be_kept_is_a_usage_error(name, capsys):
    with pytest.raises(SystemExit) as left:
        report(["0.5", f"{name}=1"])
    assert left.value.code == 2
    assert "a name is UTF-8 of at most 512 characters" in capsys.readouterr().err


def test_more_groups_are_more_metrics():
    pattern = r"step (?P<step>\S+): (?P<value>\S+)( acc (?P<accuracy>\S+))?"
    assert scanned(pattern, b"step 1: 2 acc 0.5\nstep 2: 1\nstep x: 1\nstep 3: nine\n") == [
        (1, 2.0, {"accuracy": 0.5}), (2, 1.0, {}),
    ]  # fmt: skip


@given(st.binary(), st.integers(1, 50))
def test_pieces_of_any_size_and_any_bytes(garbage, size):
    data = garbage.replace(b"v", b"") + b"\nv=1\n" + b"v=" + b"7" * MAX_LINE + b"\nv=2"
    found = scanned(r"v=(?P<value>\S+)", data, size * 100)
    assert [value for _, value, _ in found] == [1.0, 2.0]
