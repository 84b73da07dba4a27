"""One small object for each kind of value: it reads the value, says what is wrong with it, and knows its JSON Schema.

The study file's grammar is a table of these (:mod:`hpsearch.spec.grammar`), so that what is read and what editors
are told cannot drift apart.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hpsearch.spec.tree import Item, shown, suggestion
from hpsearch.spec.units import parse_duration, parse_size

MAX_SECONDS = 10 * 365 * 86400.0
MAX_NAME = 128


class Reader(Protocol):
    """Reads one value; returns None after reporting a problem."""

    def read(self, item: Item) -> Any: ...

    def schema(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int

    def read(self, item: Item) -> int | None:
        value = item.node.value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        # +20 would read as "20 more", which it never means
        if isinstance(value, int) and not isinstance(value, bool) and not item.node.text.startswith("+"):
            if self.low <= value <= self.high:
                return value
            item.expected(f"from {self.low} to {self.high}")
        else:
            item.expected(f"a whole number from {self.low} to {self.high}")
        return None

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Real:
    """A finite number from ``low`` to ``high``."""

    low: float = -math.inf
    high: float = math.inf

    def read(self, item: Item) -> float | None:
        value = number(item)
        if value is None:
            item.expected("a number")
            return None
        if not self.low <= value <= self.high:
            item.expected(f"from {self.low:g} to {self.high:g}" if self.high < math.inf else f"at least {self.low:g}")
            return None
        return float(value)

    def schema(self) -> dict[str, Any]:
        limits = {"minimum": self.low, "maximum": self.high}
        return {"type": "number", **{word: limit for word, limit in limits.items() if math.isfinite(limit)}}


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    def read(self, item: Item) -> bool | None:
        value = item.node.value
        if isinstance(value, bool):
            return value
        item.expected("true or false")
        return None

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Word:
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, item: Item) -> str | None:
        value = item.node.value
        if isinstance(value, str) and value in self.words:
            return value
        near = suggestion(value, self.words) if isinstance(value, str) else ""
        item.problem(f"must be {' or '.join(self.words)} (got {shown(value)})" + (near if "mean" in near else ""))
        return None

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Words:
    """A list of different words out of a few, or a single one."""

    words: tuple[str, ...]

    def read(self, item: Item) -> frozenset[str] | None:
        value = item.node.value
        if isinstance(value, str):
            found = [Word(self.words).read(item)]
        elif isinstance(value, list):
            found = [Word(self.words).read(element) for element in item.elements()]
        else:
            item.expected(f"a list of {', '.join(self.words)}")
            return None
        return frozenset(word for word in found if word is not None)

    def schema(self) -> dict[str, Any]:
        one = {"enum": list(self.words)}
        return {"anyOf": [one, {"type": "array", "items": one, "uniqueItems": True}]}


@dataclass(frozen=True, slots=True)
class Text:
    """A non-empty text; ``check`` says what is wrong with one, or None."""

    wish: str
    check: Callable[[str], str | None] = lambda text: None

    def read(self, item: Item) -> str | None:
        value = item.node.value
        if not isinstance(value, str) or not value.strip():
            item.expected(self.wish)
            return None
        wrong = self.check(value) if value.isprintable() else "must not contain control characters"
        if wrong is not None:
            item.problem(wrong)
            return None
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class Name:
    """A name of a study, a metric or the like; a number is a name too."""

    def read(self, item: Item) -> str | None:
        value = item.node.value
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = item.node.text or str(value)
        if not isinstance(value, str):
            item.expected("a name")
            return None
        if (wrong := wrong_name(value)) is not None:
            item.problem(wrong)
            return None
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": "^[^/]+$"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A positive number with a unit."""

    parse: Callable[[str], float]
    pattern: str
    high: float
    zero: bool = False

    def read(self, item: Item) -> float | None:
        value = number(item)
        if value is None and isinstance(item.node.value, str):
            try:
                value = self.parse(item.node.value)
            except ValueError as error:
                item.problem(f"{error} (got {item.shown})")
                return None
        if value is None:
            item.expected("a number, or one with a unit")
        elif value < 0 or (value == 0 and not self.zero):
            item.expected("0 or more" if self.zero else "more than 0")
        elif value > self.high:
            item.problem(f"is more than anything there is (got {item.shown})")
        else:
            return value
        return None

    def schema(self) -> dict[str, Any]:
        low = {"minimum": 0} if self.zero else {"exclusiveMinimum": 0}
        return {"anyOf": [{"type": "number", **low}, {"type": "string", "pattern": self.pattern}]}


def duration(*, zero: bool = False) -> Quantity:
    """Seconds, or text such as 1h30m."""
    return Quantity(parse_duration, r"^\s*([0-9.]+\s*(ms|s|m|min|h|d|w)?\s*)+$", MAX_SECONDS, zero)


def size() -> Quantity:
    """Bytes, or text such as 2GB."""
    return Quantity(parse_size, r"^\s*[0-9.]+\s*([kKmMgGtTpP]?i?[bB])?\s*$", 1e18)


@dataclass(frozen=True, slots=True)
class Either:
    """A word with a meaning of its own, or else what ``other`` reads."""

    word: str
    other: Reader

    def read(self, item: Item) -> Any:
        return self.word if item.node.value == self.word else self.other.read(item)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"const": self.word}, self.other.schema()]}


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a section."""

    reader: Reader
    doc: str


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with known keys, read to a dict of those that are given."""

    fields: Mapping[str, Field]
    example: str
    required: Sequence[str] = ()
    hints: Mapping[str, str] = field(default_factory=dict)  # words of other tools -> what to write here

    def read(self, item: Item) -> dict[str, Any] | None:
        if not isinstance(item.node.value, dict):
            item.expected(f"a mapping such as {self.example}")
            return None
        values = {}
        for key in item.node.value:
            if key not in self.fields:
                item.unknown(key, self.fields, self.hints.get(key, ""))
            elif (child := item.child(key)) is not None:
                values[key] = self.fields[key].reader.read(child)
        for key in self.required:
            if item.child(key) is None:
                item.problem(f"{key} is needed, such as {self.example}")
        return {key: value for key, value in values.items() if value is not None}

    def schema(self) -> dict[str, Any]:
        properties = {key: described(field.reader.schema(), field.doc) for key, field in self.fields.items()}
        required = {"required": list(self.required)} if self.required else {}
        return {"type": "object", "additionalProperties": False, "properties": properties, **required}


@dataclass(frozen=True, slots=True)
class Sections:
    """A list of mappings of one kind."""

    one: Section

    def read(self, item: Item) -> list[dict[str, Any]] | None:
        if not isinstance(item.node.value, list):
            item.expected(f"a list such as [{self.one.example}]")
            return None
        return [self.one.read(element) or {} for element in item.elements()]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.one.schema()}


def described(schema: dict[str, Any], doc: str) -> dict[str, Any]:
    """A schema with the text that editors show."""
    return {"description": doc, **schema}


def number(item: Item) -> int | float | None:
    """The finite number that a node holds, if it does."""
    value = item.node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= 1e308 else None  # an int past that is no float; NaN compares as False


def wrong_name(name: str) -> str | None:
    """What is wrong with a name, or None."""
    if not name.strip():
        return "a name must not be empty"
    if len(name) > MAX_NAME:
        return f"a name has at most {MAX_NAME} characters (this one: {len(name)})"
    if "/" in name:
        return f"a name must not contain '/' (got {shown(name)})"
    if not name.isprintable():
        return f"a name must not contain control characters (got {shown(name)})"
    if name in (".", "..") or name != name.strip():
        return f"a name must not be '.' or '..', nor begin or end with a space (got {shown(name)})"
    return None
