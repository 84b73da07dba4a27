"""YAML 1.2 to a tree of values that know their line and column.

ruamel.yaml scans and parses; its constructors, which can make Python objects, are not used. Plain scalars get
their type from the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): ``1e-5`` is a number,
``no`` a string.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from hpsearch.errors import Problem, StudyFileError
from hpsearch.spec.tree import Node, Report, Scalar, printable

MAX_BYTES = 1_000_000
MAX_DEPTH = 24
MAX_VALUES = 20_000  # after aliases are expanded, so that a few lines can't stand for millions of values
MAX_DIGITS = 400
MAX_LINE = 200_000  # ruamel's time for a tag grows with the square of its length

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


class _Refused(Exception):
    """Reading can't go on."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line, self.column = line, column


def read_text(path: Path, label: str) -> str:
    """The text of a study file. Raises StudyFileError where it is no file, too large or not UTF-8."""
    try:
        if not path.is_file():
            raise StudyFileError([Problem(label, "", "no such file" if not path.exists() else "is not a file")])
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise StudyFileError([Problem(label, "", f"cannot be read: {getattr(error, 'strerror', error)}")]) from None
    if len(data) > MAX_BYTES:
        raise StudyFileError([Problem(label, "", "is over 1 MB: that is no study file")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StudyFileError([Problem(f"{label}:{line}", "", "is not UTF-8 text")]) from None


def parse(text: str, label: str, report: Report) -> Node:
    """The tree of a study file.

    A key that is there twice, a tag and the like go to ``report``; StudyFileError is raised where nothing can be read.
    """
    _check_characters(text, label, report)
    report.check()
    builder = _Builder(text, label, report)
    try:
        node = builder.document()
    except _Refused as refused:
        report.add(f"{label}:{refused.line}:{refused.column}", "", str(refused))
        report.check()
        raise
    return node


def parse_value(text: str, where: str) -> Node:
    """The value of an override such as ``KEY=[32, 64]``. Raises StudyFileError."""
    report = Report()
    try:
        if "\n" in text or _UNREADABLE.search(text):
            raise _Refused(1, 1, "has a line break or an unreadable character")
        node = _Builder(text, "", report, where).document(empty=True)
    except _Refused as refused:
        report.add(where, "", f"'{printable(text)}': {refused}")
    report.check()
    return node


def _check_characters(text: str, label: str, report: Report) -> None:
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        indent = line[: len(line) - len(line.lstrip())]
        if "\t" in indent and line.strip():
            report.add(f"{label}:{number}:{indent.index(chr(9)) + 1}", "", "a tab: YAML is indented by spaces")
        if len(line) > MAX_LINE:
            report.add(f"{label}:{number}:1", "", f"a line of over {MAX_LINE} characters")
        if found := _UNREADABLE.search(line):
            report.add(f"{label}:{number}:{found.start() + 1}", "", f"unreadable character U+{ord(found[0]):04X}")


class _Builder:
    """Builds the tree from ruamel's events, never deeper or larger than a person could mean."""

    def __init__(self, text: str, label: str, report: Report, where: str = "") -> None:
        self._events = _events(text)
        self._label = label
        self._fixed = where
        self._report = report
        self._anchors: dict[str, tuple[Node, int] | None] = {}  # None: still open, so an alias would be a loop
        self._n_values = 0

    def document(self, *, empty: bool = False) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    raise _refused(event, "a second document: one study a file")
                root = self._node(next(self._events), 1)
        if root is None or (root.value is None and not empty):
            if empty:
                return Node(None, self._fixed)
            raise _Refused(1, 1, "is empty: a study needs an objective, a metric and a budget")
        return root

    def _where(self, event: Any) -> str:
        return self._fixed or f"{self._label}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"

    def _count(self, event: Any, n: int = 1) -> None:
        self._n_values += n
        if self._n_values > MAX_VALUES:
            raise _refused(event, f"more than {MAX_VALUES} values, aliases expanded")

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, AliasEvent):
            return self._alias(event)
        before = self._n_values
        self._count(event)
        if depth > MAX_DEPTH:
            raise _refused(event, f"nested deeper than {MAX_DEPTH} levels")
        if event.ctag is not None:
            self._report.add(self._where(event), "", f"the tag {printable(str(event.tag))} is not allowed here")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        node = Node(None, self._where(event))
        if isinstance(event, ScalarEvent):
            node.value = self._scalar(event)
            node.text = str(event.value)
        elif isinstance(event, SequenceStartEvent):
            node.value = self._list(depth)
        else:
            node.value = self._mapping(node, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._n_values - before)
        return node

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self._anchors:
            raise _refused(event, f"*{printable(str(event.anchor))} names no anchor before it")
        found = self._anchors[event.anchor]
        if found is None:
            raise _refused(event, f"*{printable(str(event.anchor))} contains itself")
        node, n_values = found
        self._count(event, n_values)
        return node

    def _scalar(self, event: Any) -> Scalar:
        if _SURROGATE.search(event.value):
            self._report.add(self._where(event), "", "half a character: no database could keep it")
            return None
        if not event.implicit[0]:  # quoted, or a block of text
            return str(event.value)
        try:
            return resolve(event.value)
        except ValueError as error:
            self._report.add(self._where(event), "", str(error))
            return None

    def _list(self, depth: int) -> list[Node]:
        nodes = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            nodes.append(self._node(event, depth + 1))
        return nodes

    def _mapping(self, node: Node, depth: int) -> dict[str, Node]:
        children: dict[str, Node] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                raise _refused(event, "a key must be a word, not an alias, a list or a mapping")
            key, where = str(event.value), self._where(event)
            if _SURROGATE.search(key):
                raise _refused(event, "half a character in a key")
            self._count(event)
            child = self._node(next(self._events), depth + 1)
            if child.value is None and not child.text:  # ruamel sees an empty value where the next key begins
                child = replace(child, where=where)
            if key in children:
                first = node.keys[key].rpartition(":")[0].rpartition(":")[2]
                self._report.add(where, printable(key), f"the key is here twice (first on line {first})")
            else:
                children[key], node.keys[key] = child, where
        return children


def resolve(text: str) -> Scalar:
    """The value of a plain scalar. Raises ValueError for a number too long to be one."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number of {len(text)} digits")
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinite := _INFINITE.fullmatch(text):
        return float(infinite[1] + "inf")
    return text


def _refused(event: Any, message: str) -> _Refused:
    return _Refused(event.start_mark.line + 1, event.start_mark.column + 1, message)


def _events(text: str) -> Iterator[Any]:
    """ruamel's events of a text, its errors as ours."""
    yaml = YAML(typ="safe", pure=True)
    parsed = yaml.parse(text)
    line, column = 1, 1  # where the last thing that could be read ends
    while True:
        try:
            event = next(parsed)
            line, column = event.end_mark.line + 1, event.end_mark.column + 1
        except StopIteration:
            return
        except MarkedYAMLError as error:
            if (mark := error.problem_mark or error.context_mark) is not None:
                line, column = mark.line + 1, mark.column + 1
            raise _Refused(line, column, f"is not YAML: {_words(error)}") from None
        except Exception as error:
            # ruamel trips over some broken texts with IndexError, OverflowError and the like;
            # to the person it is all the same
            raise _Refused(line, column, f"is not YAML: {printable(str(error))}") from None
        yield event


def _words(error: MarkedYAMLError) -> str:
    words = [str(part) for part in (error.context, error.problem) if part]
    return printable(" ".join(", ".join(words).split()), limit=200)
