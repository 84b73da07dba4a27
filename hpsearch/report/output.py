"""A program's stdout: passed on as it is, read line by line for the metric that it prints."""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_LINE = 1 << 14  # bytes; what is longer is no line about a metric
_COLOUR = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")  # and other orders to a terminal
_END = re.compile(rb"[\r\n]")  # progress bars end theirs with a carriage return


@dataclass(slots=True)
class Scanner:
    """Finds reports in output that comes in pieces; holds at most one line.

    Args:
        pattern: with a group ``value``, perhaps ``step``; other groups are more metrics.
    """

    pattern: str
    _rest: bytes = b""
    _too_long: bool = False
    _n_found: int = 0
    _compiled: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        self._compiled = re.compile(self.pattern)

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Reports in what is complete now."""
        *lines, rest = _END.split(self._rest + data)
        for line in lines:
            skip, self._too_long = self._too_long or len(line) > MAX_LINE, False
            if not skip:
                yield from self._reports(line)
        self._too_long = self._too_long or len(rest) > MAX_LINE
        self._rest = b"" if self._too_long else rest

    def finish(self) -> Iterator[dict[str, Any]]:
        """Reports in a last line that has no end."""
        yield from self.feed(b"\n")

    def _reports(self, line: bytes) -> Iterator[dict[str, Any]]:
        for found in self._compiled.finditer(_COLOUR.sub(b"", line).decode(errors="replace")):
            numbers = {name: _number(text) for name, text in found.groupdict().items() if text is not None}
            value, step = numbers.pop("value", None), numbers.pop("step", float(self._n_found))
            if value is None or step is None or not math.isfinite(step):
                continue  # a heading, say
            self._n_found += 1
            metrics = {name: number for name, number in numbers.items() if number is not None}
            yield {"op": "report", "step": int(step), "value": value, "metrics": metrics}


def _number(text: str) -> float | None:
    try:
        return float(text.strip().rstrip(",;"))
    except ValueError:
        return None


def write_all(fd: int, data: bytes) -> None:
    """All of it, however little a pipe takes at once."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
