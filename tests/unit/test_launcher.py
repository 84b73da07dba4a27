"""What a launcher imports, how it lives and ends, and that what it forks starts clean."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest
from ranks import assignment, run_rank

from hpsearch.events import Cause
from hpsearch.launcher import LauncherProcess, imports_of, members, pages, preload, start

# ------------------------------------------------------------------------------------ what is imported


@pytest.fixture
def source(tmp_path: Path):
    def write(**files: str) -> dict[str, str]:
        for name, text in files.items():
            path = tmp_path.joinpath(*name.split("_of_")[::-1]).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return {"kind": "file", "target": str(tmp_path / "job.py"), "function": "train"}

    return write


def test_imports_are_found_wherever_they_stand(source):
    objective = source(
        job="from __future__ import annotations\n"
        "import torch, numpy as np\nimport hpsearch\nfrom sklearn.datasets import load_digits\n"
        "def train(trial):\n    import json.decoder\n    from math import *\n"
    )
    assert imports_of(objective) == ["json.decoder", "math", "numpy", "sklearn.datasets:load_digits", "torch"]


def test_local_modules_are_followed_and_never_imported(source):
    objective = source(
        job="import helper\nfrom package.inner import deep\nfrom package import other\nimport package.inner.deep\n",
        helper="import job\nimport csv\nraise SystemExit('must not run')",
        __init___of_package="import uuid",
        other_of_package="from . import third\nfrom .fourth import x",
        third_of_package="import wave",
        fourth_of_package="import shelve",
    )
    inner = Path(objective["target"]).parent / "package" / "inner"
    inner.mkdir()
    (inner / "__init__.py").touch()
    (inner / "deep.py").write_text("from ..fourth import x\nimport plistlib")
    assert imports_of(objective) == ["csv", "plistlib", "shelve", "uuid", "wave"]


def test_a_module_objective_is_followed_inside_its_package(source, tmp_path):
    source(
        __init___of_package="import uuid",
        job_of_package="import csv\nfrom package import tools",
        tools_of_package="import wave",
    )
    objective = {"kind": "module", "target": "package.job", "function": "train"}
    assert imports_of(objective, cwd=str(tmp_path)) == ["csv", "uuid", "wave"]
    assert imports_of({**objective, "target": "no_such.job"}) == ["no_such.job"]


@pytest.mark.parametrize("text", ["def train(", "import \0", "\ud800"])
def test_a_source_that_cannot_be_read_imports_nothing(source, tmp_path, text):
    objective = source()
    (tmp_path / "job.py").write_bytes(text.encode(errors="surrogatepass"))
    assert imports_of(objective) == []
    assert imports_of({**objective, "target": str(tmp_path / "none.py")}) == []


def test_a_pickle_names_its_modules_without_being_loaded():
    import colorsys

    def train(trial):
        return colorsys.rgb_to_hls(0, 0, json.loads("1")) or socket

    found = imports_of({"kind": "pickle", "blob": base64.b64encode(_by_value(train)).decode()})
    assert {"colorsys", "json", "socket"} <= set(found)
    assert "re" not in found
    assert imports_of({"kind": "pickle", "blob": base64.b64encode(b"\x80\x05garbage").decode()}) == []


def _by_value(function) -> bytes:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(function)
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_preloading_skips_what_fails_and_what_must_not_be_forked(source, tmp_path, capsys, monkeypatch):
    source(
        loud="1 / 0",
        leaving="raise SystemExit(3)",
        mpi4py="raise AssertionError('imported')",
        __init___of_package="",
        inner_of_package="",
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(preload, "ALWAYS", ())
    monkeypatch.setattr(preload, "LAZY", {})
    monkeypatch.setattr(preload.gc, "freeze", lambda: None)
    preload.preload(["loud", "leaving", "mpi4py.MPI", "no_such", "package:inner", "package:nothing"])
    assert "package.inner" in sys.modules
    assert "mpi4py" not in sys.modules
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "no_such" in said
    for name in ("package", "package.inner"):
        monkeypatch.delitem(sys.modules, name)


# --------------------------------------------------------------------------------------- how it lives


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[LauncherProcess]:
    process = start([], tmp_path, os.environ)
    yield process
    process.close()


def test_it_can_be_connected_to_at_once_and_only_by_us(launcher):
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(launcher.path))
    assert launcher.path.parent.stat().st_mode & 0o777 == 0o700
    assert os.getsid(launcher.pid) == launcher.pid  # Ctrl-C in our terminal is not for it


def test_closing_ends_it_and_its_ranks_and_may_be_repeated(launcher, tmp_path):
    (tmp_path / "job.py").write_text("import time\ndef train(trial):\n    time.sleep(1000)")
    closed: list[int] = []

    def answer(keeper, message):
        closed.append(message["pid"])
        launcher.close()
        launcher.close()

    order = assignment(tmp_path, tmp_path / "job.py", "train")
    run = run_rank(launcher, tmp_path, order, answer=answer)
    assert (run.ending.cause, run.ending.reason) == (Cause.SIGNAL, "killed from outside (SIGKILL)")
    assert members.stat(closed[0]) is None
    assert not launcher.path.parent.exists()
    assert not launcher.alive


def test_one_that_does_not_end_is_killed(launcher, monkeypatch):
    monkeypatch.setattr("hpsearch.launcher.process.CLOSING_S", 0.1)
    os.kill(launcher.pid, signal.SIGSTOP)
    launcher.close()
    assert not launcher.alive


def test_it_ends_when_whoever_started_it_is_killed(tmp_path):
    script = (
        "import os, pathlib, sys, time; from hpsearch.launcher import start;"
        "print(start([], pathlib.Path(sys.argv[1]), os.environ).pid, flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.kill()
    deadline = time.monotonic() + 20
    while (found := members.stat(pid)) is not None and not found.dead:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_long_directory_is_no_obstacle(tmp_path):
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    process = start([], deep, os.environ)
    assert len(str(process.path)) < 108
    process.close()
    assert list(deep.iterdir()) == []
    assert not process.path.parent.exists()


def test_a_library_of_the_same_name_in_the_working_directory_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise AssertionError('the wrong one')")
    (tmp_path / "job.py").write_text("def train(trial):\n    return 1.0")
    monkeypatch.chdir(tmp_path)
    process = start([], tmp_path, os.environ)
    run = run_rank(process, tmp_path, assignment(tmp_path, tmp_path / "job.py", "train"))
    process.close()
    assert run.ending.cause is Cause.RETURNED


def test_a_launcher_that_dies_while_it_imports_says_why(tmp_path):
    (tmp_path / "deadly.py").write_text("import os\nprint('cannot go on', flush=True)\nos._exit(1)")
    process = start(["deadly"], tmp_path, {**os.environ, "PYTHONPATH": str(tmp_path)})
    ending = run_rank(process, tmp_path, assignment(tmp_path)).ending
    process.close()
    assert (ending.cause, ending.reason) == (Cause.LOST, "the launcher died: cannot go on")


def test_a_machine_without_room_for_a_process_is_a_loss(tmp_path):
    (tmp_path / "full.py").write_text(
        "import os\ndef fork():\n    raise BlockingIOError(11, 'Resource temporarily unavailable')\nos.fork = fork"
    )
    process = start(["full"], tmp_path, {**os.environ, "PYTHONPATH": str(tmp_path)})
    ending = run_rank(process, tmp_path, assignment(tmp_path)).ending
    assert process.alive
    process.close()
    assert ending.cause is Cause.LOST
    assert ending.reason == "the launcher cannot start a process: fork: Resource temporarily unavailable"


# -------------------------------------------------------------------------------- what a rank starts with

STARTS = """
import json, os, random, resource, signal, sys
before = set(sys.modules)
import numpy, optuna, local_thing, hpsearch
def train(trial):
    assert hpsearch.current() is trial
    trial.suggest_float("x", 0, 1)
    trial.report(0.5, step=0)
    trial.should_prune()
    trial.save({"n": 1}, step=0)
    trial.load({"n": 0})
    trial.set_user_attr("found", {
        "imported": sorted(set(sys.modules) - before),
        "fds": sorted(os.listdir("/proc/self/fd")),
        "environment": {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "EXTRA")},
        "cwd": os.getcwd(), "path": sys.path[0], "argv": sys.argv[0], "module": train.__module__,
        "leader": os.getsid(0) == os.getpid() == os.getpgid(0),
        "handlers": [signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGCHLD)],
        "drawn": [random.random(), float(numpy.random.rand())],
        "stdin": sys.stdin.read(),
    })
    print("on stdout"); print("on stderr", file=sys.stderr)
    return 0.0
"""


def found_by(launcher: LauncherProcess, tmp_path: Path, **changes):
    (tmp_path / "json.py").write_text("")  # a name that a library has already
    for name, text in (("local_thing", ""), ("job", STARTS)):
        (tmp_path / "code").mkdir(exist_ok=True)
        (tmp_path / "code" / f"{name}.py").write_text(text)

    def answer(keeper, message):
        if message["op"] == "suggest":
            keeper.deliver({"op": "suggested", "name": message["name"], "value": 0.5})

    order = assignment(tmp_path, tmp_path / "code" / "job.py", "train", **changes)
    run = run_rank(launcher, tmp_path, order, answer=answer)
    assert run.ending.cause is Cause.RETURNED, run.ending
    assert run.log == "on stdout\non stderr\n"
    return run.said[-1]["value"], run


def test_a_rank_starts_clean_and_imports_nothing(launcher, tmp_path):
    env = {"CUDA_VISIBLE_DEVICES": "", "EXTRA": "1"}
    found, run = found_by(launcher, tmp_path, env=env)
    assert found["imported"] == ["local_thing"]
    assert len(found["fds"]) == 5  # stdin, stdout, stderr, the channel, and the directory being listed
    assert found["environment"] == env
    assert found["cwd"] == str(tmp_path)
    assert found["path"] == str(tmp_path / "code")
    assert found["module"] == "job"
    assert found["leader"]
    assert found["handlers"] == [True, True]
    assert found["stdin"] == ""
    assert run.ops() == ["ready", "suggest", "report", "saved", "resumed", "user_attr"]
    assert run.said[0]["pid"] == run.keeper.pid


def test_random_numbers_differ_between_ranks_and_repeat_with_a_seed(launcher, tmp_path):
    drawn = [found_by(launcher, tmp_path, seed=seed)[0]["drawn"] for seed in (None, None, 2**40, 2**40)]
    assert drawn[2] == drawn[3]
    assert len({tuple(numbers) for numbers in drawn}) == 3
    assert drawn[0][1] != drawn[1][1]


def test_an_objective_named_like_a_library_does_not_replace_it(launcher, tmp_path):
    file = tmp_path / "json.py"
    file.write_text(
        "import json\ndef train(trial):\n    return float(json.loads('2') + (__name__ == 'objective_json'))"
    )
    assert run_rank(launcher, tmp_path, assignment(tmp_path, file, "train")).ending.values == (3.0,)


def test_objectives_from_modules_and_pickles(launcher, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "job.py").write_text("def train(trial):\n    return 4.0")
    objective = {"kind": "module", "target": "package.job", "function": "train", "blob": ""}
    assert run_rank(launcher, tmp_path, assignment(tmp_path, objective=objective)).ending.values == (4.0,)
    big = b"x" * (3 << 20)  # more than a message may have
    blob = base64.b64encode(_by_value(lambda trial: len(big) / 2**20)).decode()
    objective = {"kind": "pickle", "target": "", "function": "", "blob": blob}
    assert run_rank(launcher, tmp_path, assignment(tmp_path, objective=objective)).ending.values == (3.0,)


# ------------------------------------------------------------------------------------- pages and /proc


def test_huge_pages_are_whole_and_inside_writable_memory():
    kept = bytearray(16 << 20)
    regions = pages._regions()
    assert regions
    assert all(start % pages.HUGE == 0 and end % pages.HUGE == 0 and start < end for start, end in regions)
    assert max(pages.collapse()) <= pages.CHUNK
    assert len(kept) == 16 << 20


def test_processes_are_found_by_their_environment(tmp_path):
    child = subprocess.Popen(["sleep", "1000"], env={members.MARK: "0123456789abcdef"}, start_new_session=True)
    try:
        while members.token_of(child.pid) == "":  # not executed yet
            time.sleep(0.001)
        assert child.pid in members.children(os.getpid())
        assert members.belongs(child.pid, -1, "0123456789abcdef")
        assert not members.belongs(child.pid, -1, "another")
        assert members.belongs(child.pid, child.pid, "another")
        assert members.launcher_memory(child.pid) > 1 << 20
        members.clear_away(-1, "0123456789abcdef", 5.0)
        assert members.stat(child.pid).dead
    finally:
        child.kill()
        child.wait()
    assert members.stat(child.pid) is None
    assert members.token_of(child.pid) == ""
    assert members.children(child.pid) == []
    assert members.memory_bytes(child.pid, 1) == 0
    assert not members.belongs(child.pid, child.pid, "0123456789abcdef")


def test_memory_shared_by_forked_processes_is_counted_once(tmp_path):
    script = (
        "import os, sys, time; kept = os.urandom(64 << 20)\n"
        "for _ in range(3):\n    if os.fork() == 0: time.sleep(1000)\n"
        "print('ready', flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        generous = members.memory_bytes(parent.pid, 10**12)
        exact = members.memory_bytes(parent.pid, 10**6)
        os.killpg(parent.pid, signal.SIGKILL)
    assert generous > 4 * (64 << 20)
    assert 64 << 20 < exact < 2 * (64 << 20)


def test_the_mark_is_written_where_proc_shows_it():
    """The mark is written over a placeholder of the same length, in memory that /proc shows."""
    code = (
        "import os; from hpsearch.launcher import members; members.mark('f' * 16);"
        "print(members.token_of(os.getpid()), os.environ[members.MARK]);"
        "members.mark('short'); print(members.token_of(os.getpid()))"
    )
    env = {**os.environ, members.MARK: "-" * members.MARK_LENGTH}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert re.split(r"\s+", said.strip()) == ["f" * 16] * 3
