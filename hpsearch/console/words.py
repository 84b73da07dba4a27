"""How values look on one line of a terminal: durations, numbers, parameters, sparklines.

Everything a person's code can influence (parameter values, messages of exceptions) goes through :func:`one_line`,
so that no control sequence of theirs reaches the terminal.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-=+*%#"
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/+-@%,")


def one_line(text: object) -> str:
    """``text`` with line ends and other control characters written out (``\\n``, ``\\x1b``)."""
    raw = str(text)
    if raw.isprintable():
        return raw
    return "".join(char if char.isprintable() else _written_out(char) for char in raw)


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def shortened(text: str, length: int) -> str:
    """``text`` in at most ``length`` characters, with an ellipsis where it was longer."""
    return text if len(text) <= length else text[: max(length - 1, 0)] + "…"


def duration(seconds: float | None) -> str:
    """``0.4s``, ``58s``, ``3m12s``, ``1h05m``, ``2d03h``; ``-`` when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def number(value: object, digits: int = 5) -> str:
    """A metric or parameter value: floats to ``digits`` significant ones, everything else as it is."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return one_line(value)


def quoted(value: object) -> str:
    """The right side of ``key=value``: bare where that is unambiguous, else a JSON string."""
    text = number(value, digits=6) if isinstance(value, float) else str(value)
    if text and _BARE.issuperset(text):
        return text
    return one_line(json.dumps(text, ensure_ascii=False))


def pairs(values: Mapping[str, object]) -> str:
    """``lr=0.0123 width=128``."""
    return " ".join(f"{one_line(key)}={quoted(value)}" for key, value in values.items())


def many(values: Iterable[object]) -> str:
    """The values of one trial: one number, or several joined by a comma."""
    return ", ".join(number(value) for value in values) or "-"


def count(n: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def sparkline(values: Sequence[float], width: int, *, ascii_only: bool = False) -> str:
    """The last ``width`` values as a row of blocks, lowest to highest; a blank for NaN and infinities."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    shown = list(values)[-width:]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return " " * len(shown)
    low, high = min(finite), max(finite)
    span = high - low

    def block(value: float) -> str:
        if not math.isfinite(value):
            return " "
        if not span or not math.isfinite(span):
            return blocks[len(blocks) // 2 - 1]
        return blocks[min(int((value - low) / span * len(blocks)), len(blocks) - 1)]

    return "".join(block(value) for value in shown)
