"""The operation log: what each client began and what it was told, a line an operation, in one file.

Every line is one ``write`` to a file opened with O_APPEND: a kill loses no line that was written, and lines of several
processes never mix. "invoked" without "acknowledged" is unknown: the database may have it or not.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class OpLog:
    """One client's end of the log."""

    def __init__(self, path: Path | str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def say(self, op: str, phase: str, **fields: Any) -> None:
        """Add a line; when this returns, no kill takes it back."""
        entry = {"at": time.time(), "pid": os.getpid(), "op": op, "phase": phase, **fields}
        os.write(self._descriptor, (json.dumps(entry) + "\n").encode())


def read(path: Path) -> list[Entry]:
    """All whole lines, in the order in which they were written."""
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def of(entries: list[Entry], op: str, phase: str) -> Iterator[Entry]:
    """The entries of one kind."""
    return (entry for entry in entries if entry["op"] == op and entry["phase"] == phase)
