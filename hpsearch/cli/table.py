"""Columns of text: aligned, as wide as they need to be for a pipe, cut to the terminal for a person."""

import shutil
import sys
from collections.abc import Sequence

from hpsearch.console.words import shortened

GAP = "  "
MIN_FLEXIBLE = 12


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None,
    right: frozenset[int] = frozenset(),
    flexible: frozenset[int] = frozenset(),
) -> list[str]:
    """Lines of a table, the heads first.

    Args:
        heads: one a column.
        rows: of as many cells.
        width: no line is longer; None for no limit.
        right: columns aligned to the right.
        flexible: columns that give way first where a line would be too long.
    """
    cells = [tuple(heads), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    if width is not None:
        _shrink(widths, width - len(GAP) * (len(heads) - 1), flexible)
    lines = []
    for row in cells:
        fitted = [shortened(cell, widths[column]) for column, cell in enumerate(row)]
        padded = [
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(fitted)
        ]
        line = GAP.join(padded).rstrip()
        lines.append(line if width is None else shortened(line, width))
    return lines


def _shrink(widths: list[int], room: int, flexible: frozenset[int]) -> None:
    """Take the excess from the widest flexible column, again and again, down to a minimum."""
    while sum(widths) > room:
        widest = max(flexible, key=lambda column: widths[column], default=None)
        if widest is None or widths[widest] <= MIN_FLEXIBLE:
            return
        others = sorted((widths[column] for column in flexible if column != widest), reverse=True)
        floor = max(others[0] - 1 if others else 0, MIN_FLEXIBLE, widths[widest] - (sum(widths) - room))
        widths[widest] = min(floor, widths[widest] - 1)
