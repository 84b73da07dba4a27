"""What holds for every test: nothing is left behind, and nobody's environment leaks in."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hpsearch import passwords

ROOT = Path(__file__).parent.parent
# How long a process may take to be gone once its test is over; all of them end by themselves.
LEAVE_S = 10.0


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if passwords.is_private(name):
            monkeypatch.delenv(name)
    monkeypatch.setattr(passwords, "_kept", {})
    monkeypatch.setattr(passwords, "_seen", set())
    monkeypatch.setattr(passwords, "_withdrawn", "")


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves a process running."""
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    yield
    left = [child for child in me.children(recursive=True) if child.pid not in before and not _is_pythons(child)]
    _, alive = psutil.wait_procs(left, timeout=LEAVE_S)
    # Servers that live as long as the session are started by fixtures that say so.
    spared = request.session.stash.get(SESSION_PIDS, set())
    words = [_words(process) for process in alive if not _belongs_to(process, spared)]
    assert not words, f"left running: {words}"


SESSION_PIDS = pytest.StashKey[set[int]]()


def _is_pythons(process: psutil.Process) -> bool:
    """Multiprocessing keeps one process for as long as its parent lives."""
    return "multiprocessing.resource_tracker" in _words(process)


def _belongs_to(process: psutil.Process, pids: set[int]) -> bool:
    try:
        return process.pid in pids or any(parent.pid in pids for parent in process.parents())
    except psutil.NoSuchProcess:
        return True


def _words(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"{process.pid} (gone)"
