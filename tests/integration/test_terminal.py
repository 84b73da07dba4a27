"""``hpsearch run`` on a real terminal: what is drawn on it, and Ctrl-C, which the terminal sends to every process."""

import os
import pty
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(150)

ROWS, COLUMNS = 24, 80
JOB = """
import time

def train(trial):
    x = trial.suggest_float("x", 0.0, 1.0)
    for step in range(3):
        trial.report(x + step, step)
    time.sleep(1000)  # deaf to being asked to stop: a drain lasts until it is terminated
    return x
"""
COMMAND = ["-m", "hpsearch", "run", "job.py:train", "--direction", "maximize", "--trials", "50", "--workers", "1"]


class Terminal:
    """A pseudo-terminal with a command as its foreground process group."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], command, {**os.environ, "TERM": "xterm", "COLUMNS": str(COLUMNS)})
        termios.tcsetwinsize(self.handle, (ROWS, COLUMNS))
        self.seen = b""
        self.code: int | None = None

    def read_until(self, words: bytes, timeout_s: float = 60.0) -> None:
        """Read on until the words were shown; at the end of the output, or too late, the test fails."""
        deadline = time.monotonic() + timeout_s
        while words not in self.seen:
            assert time.monotonic() < deadline, self.seen[-2000:]
            assert self._read(1.0), self.seen[-2000:]

    def read_to_end(self) -> str:
        """Everything that was shown, and the exit code into ``code``."""
        while self._read(60.0):
            pass
        _, status = os.waitpid(self.pid, 0)
        self.code = os.waitstatus_to_exitcode(status)
        return self.seen.decode()

    def _read(self, timeout_s: float) -> bool:
        """False at the end of the output."""
        if not select.select([self.handle], [], [], timeout_s)[0]:
            return True
        try:
            chunk = os.read(self.handle, 1 << 16)
        except OSError:  # the last process let go of the terminal
            return False
        self.seen += chunk
        return bool(chunk)

    def type(self, keys: bytes) -> None:
        os.write(self.handle, keys)

    def close(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.handle)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "job.py").write_text(JOB)
    terminal = Terminal([sys.executable, *COMMAND], tmp_path)
    yield terminal
    terminal.close()


@pytest.mark.parametrize("n_interrupts", [1, 2])
def test_ctrl_c_ends_a_search_in_order_and_the_view_fits(terminal: Terminal, n_interrupts: int) -> None:
    terminal.read_until("▁".encode())  # a trial runs and has reported
    terminal.type(b"\x03")
    if n_interrupts == 2:
        terminal.read_until(b"Ctrl-C again kills")
        terminal.type(b"\x03")
    shown = terminal.read_to_end()

    assert terminal.code == 130
    assert "Traceback" not in shown
    assert "resume  python -m hpsearch run job.py:train --direction maximize --trials 50 --workers 1" in shown
    # Frames are drawn in place: between two lines there is nothing that a terminal would wrap.
    frames = shown.split("job: interrupted")[0]
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frames).replace("\r", "\n").split("\n")
    assert max(len(line) for line in lines) <= COLUMNS
    assert any(line.startswith("local0/0") for line in lines)
