"""Values with the place they were written at, and the list of everything wrong with them."""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hpsearch.errors import Problem, StudyFileError

MAX_PROBLEMS = 100  # in one message

Scalar = None | bool | int | float | str


@dataclass(slots=True)
class Node:
    """One value of a study file, or of an override that was laid over it."""

    value: "Scalar | list[Node] | dict[str, Node]"
    where: str  # "study.yaml:12:9", "command line", "environment HPSEARCH_SEED"
    keys: dict[str, str] = field(default_factory=dict)  # of a mapping: key -> where the key stands
    text: str = ""  # of a plain scalar: as written


class Report:
    """Collects problems, so that all of them are shown at once."""

    def __init__(self) -> None:
        self._problems: dict[Problem, None] = {}  # the same problem twice (by an alias, say) is one

    def add(self, where: str, key: str, message: str) -> None:
        """Note one problem."""
        self._problems[Problem(where, key, message)] = None

    def check(self) -> None:
        """Raise StudyFileError if there was any problem; those of a file in the order of its lines."""
        if self._problems:
            problems = sorted(self._problems, key=_place)
            more = [Problem("", "", f"and {len(problems) - MAX_PROBLEMS} more problems")]
            raise StudyFileError(problems[:MAX_PROBLEMS] + (more if len(problems) > MAX_PROBLEMS else []))


@dataclass(frozen=True, slots=True)
class Item:
    """A node, the dotted key it stands for, and where to report what is wrong with it."""

    node: Node
    key: str
    report: Report

    def problem(self, message: str) -> None:
        self.report.add(self.node.where, self.key, message)

    def expected(self, wish: str) -> None:
        """Report ``must be <wish> (got <this>)``."""
        self.problem(f"must be {wish} (got {self.shown})")

    @property
    def shown(self) -> str:
        """The value in a message; a number as it was written."""
        value = self.node.value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return printable(self.node.text) if is_number and self.node.text else shown(value)

    def child(self, key: str) -> "Item | None":
        """The value under ``key``; None where there is none, or it is left empty."""
        children = self.node.value
        if not isinstance(children, dict) or key not in children or children[key].value is None:
            return None
        return Item(children[key], joined(self.key, key), self.report)

    def children(self) -> Iterator[tuple[str, "Item"]]:
        """Each key of a mapping with its value; nothing for other values."""
        if isinstance(self.node.value, dict):
            for key, node in self.node.value.items():
                yield key, Item(node, joined(self.key, key), self.report)

    def elements(self) -> Iterator["Item"]:
        """Each value of a list, keyed ``metric[1]``; nothing for other values."""
        if isinstance(self.node.value, list):
            for index, node in enumerate(self.node.value):
                yield Item(node, f"{self.key}[{index}]", self.report)

    def unknown(self, key: str, known: Iterable[str], hint: str = "") -> None:
        """Report a key that has no meaning here, with the nearest that has."""
        where = self.node.keys.get(key, self.node.where)
        self.report.add(where, joined(self.key, key), "unknown key" + (hint or suggestion(key, known)))


def _place(problem: Problem) -> tuple[int, int]:
    found = re.search(r":(\d+):(\d+)$", problem.where)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def joined(*keys: str) -> str:
    """Keys as one dotted key, fit to be shown on a line."""
    return ".".join(printable(key) for key in keys if key)


def printable(text: str, limit: int = 60) -> str:
    """``text`` on one line and short enough to read."""
    if not text.isprintable():
        text = repr(text)[1:-1]
    return text if len(text) <= limit else text[: limit - 3] + "..."


def shown(value: object) -> str:
    """A value in a message."""
    match value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return f"'{printable(value)}'"
        case _:
            return printable(repr(value))


def suggestion(word: str, known: Iterable[str]) -> str:
    """`` (did you mean "trials"?)``, or the known words where none is near."""
    known = list(known)
    # difflib is quadratic: nobody meant a word of a thousand letters anyway.
    near = difflib.get_close_matches(word, known, n=1) if len(word) <= 64 else []
    if near:
        return f" (did you mean '{printable(near[0])}'?)"
    return f" (known: {', '.join(printable(one) for one in known)})" if 0 < len(known) <= 16 else ""
