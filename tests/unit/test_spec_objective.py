"""Objectives and classes are found without running a line of the user's code."""

import sys
from pathlib import Path

import pytest

from hpsearch.spec.model import Objective
from hpsearch.spec.objective import NotFound, check_defined, check_module, find_objective, importable, is_target

SHAPES = """\
boom = 1 / 0  # nothing here is ever run
from other import given, renamed as named
import package.inner
import package.inner as alias

pattern = "\\d"  # an invalid escape is not our topic

if boom:
    def in_if(trial): ...
else:
    def in_else(trial): ...

try:
    def in_try(trial): ...
except ImportError:
    def in_handler(trial): ...
finally:
    in_finally = boom

with open("x") as file:
    def in_with(trial): ...

for one in []:
    def in_for(trial): ...

assigned = partial = lambda trial: 1.0
(first, second), third = boom
annotated: int = 3


@decorated
def plain(trial): ...


class Callable:
    def method(self, trial): ...
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shapes.py").write_text(SHAPES)


BOUND = [
    *("given", "named", "package", "alias", "in_if", "in_else", "in_try", "in_handler", "in_finally", "in_with"),
    *("in_for", "assigned", "partial", "first", "third", "annotated", "plain", "Callable"),
]


@pytest.mark.parametrize("name", BOUND)
def test_whatever_the_top_level_binds_is_there(name):
    check_defined(Path("shapes.py"), name, "function")


@pytest.mark.parametrize("name", ["method", "renamed", "inner", "trial", "other"])
def test_what_it_does_not_bind_is_not(name):
    with pytest.raises(NotFound, match=f"shapes.py has no function '{name}'"):
        check_defined(Path("shapes.py"), name, "function")


@pytest.mark.parametrize("line", ["from other import *", "def __getattr__(name): ..."])
def test_where_nobody_can_tell_it_is_believed(line):
    Path("open.py").write_text(line + "\n")
    check_defined(Path("open.py"), "anything", "function")


def test_a_source_in_its_own_encoding():
    Path("latin.py").write_bytes("# -*- coding: latin-1 -*-\ndef train(trial): return 'é'\n".encode("latin-1"))
    check_defined(Path("latin.py"), "train", "function")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"x = " + b"(" * 1000, "is not Python|syntax error"),
        (b"# -*- coding: nonsense -*-\n", "syntax error"),
        (b"def train(:\n", r"bad.py:1: syntax error"),
        (b"#" * 10_000_001, "is over 10 MB"),
    ],
    ids=["nesting", "encoding", "syntax", "size"],
)
def test_what_is_not_python_is_refused(source, message):
    Path("bad.py").write_bytes(source)
    with pytest.raises(NotFound, match=message):
        check_defined(Path("bad.py"), "train", "function")


def test_a_source_that_cannot_be_opened_is_refused():
    with pytest.raises(NotFound, match=r"gone\.py cannot be read: No such file"):
        check_defined(Path("gone.py"), "train", "function")


def test_packages_are_followed_by_their_folders():
    Path("pack_d/deep").mkdir(parents=True)
    Path("pack_d/__init__.py").write_text("raise SystemExit('imported')\n")
    Path("pack_d/deep/job.py").write_text("def train(trial): ...\n")
    objective = find_objective("pack_d.deep.job:train", [Path.cwd()])
    assert objective == Objective(kind="module", target="pack_d.deep.job", function="train")
    with pytest.raises(NotFound, match=r"'pack_d\.deep' has no module 'jobs' in it"):
        check_module("pack_d.deep.jobs", "train", "function")
    with pytest.raises(NotFound, match="has no function 'trian'"):
        check_module("pack_d.deep.job", "trian", "function")
    assert "pack_d" not in sys.modules


def test_a_module_without_source_is_believed():
    check_module("math", "sqrt", "function")
    check_module("sys", "exit", "function")


def test_main_is_no_module_to_search():
    with pytest.raises(NotFound):
        check_module("__main__", "no_such_function", "function")


def test_a_home_directory_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert find_objective("~/shapes.py:plain", [Path("/")]).target == str(Path.cwd() / "shapes.py")


def test_a_path_too_long_for_the_system_is_refused():
    with pytest.raises(NotFound, match="no such file"):
        find_objective(f"{'x' * 5000}.py:train", [Path.cwd()])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("train.py:train", True),
        ("a/b/train.py:train", True),
        ("/abs/train.py:train", True),
        ("package.module:function", True),
        ("study.yaml", False),
        ("train.py", False),
        ("train.py:", False),
        ("a/b:c", False),
        ("C:/x.yaml", False),
    ],
)
def test_a_function_is_told_from_a_study_file(source, expected):
    assert is_target(source) is expected


def test_labels_are_for_people():
    assert Objective(kind="file", target="/a/b/train.py", function="train").label == "train.py:train"
    assert Objective(kind="module", target="a.b", function="train").label == "a.b:train"
    assert Objective(kind="pickle", target="", function="<lambda>").label == "<lambda>"


def test_importable_imports_nothing():
    assert importable("json")
    assert not importable("nowhere_to_be_found")
