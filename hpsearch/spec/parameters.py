"""The ``parameters:`` of a study file to a :class:`~hpsearch.space.Space`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeGuard

from hpsearch.spec.readers import number, wrong_name
from hpsearch.spec.tree import Item, Node, joined, shown, suggestion

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from hpsearch.space import Space

MAX_INT = 2**53  # Optuna keeps numbers as floats, which are exact only so far
MAX_STEP = 2**31
RANGE_KEYS = ("min", "max", "log", "step", "type", "when")
SHAPES = ("{min: 0.0, max: 1.0}", "[a, list, of, choices]", "{values: ...}", "{value: constant}")
_HINTS = {
    "low": ": write min",
    "high": ": write max",
    "choices": ": write values",
    "distribution": ": write min and max, with log: true or type: int where needed",
    "q": ": write step",
}


@dataclass(slots=True)
class Draft:
    """One parameter as read, before conditions are put in order."""

    item: Item
    distribution: "BaseDistribution"
    labels: dict[str, Any] = field(default_factory=dict)
    when: dict[str, Item] = field(default_factory=dict)  # parent -> the value or values it must have


@dataclass(frozen=True, slots=True)
class ParametersReader:
    """Reads the whole search space; returns None where nothing of it is usable."""

    def read(self, item: Item) -> "Space | None":
        from hpsearch.spec.conditions import ordered

        if not isinstance(item.node.value, dict):
            item.expected("a mapping such as {lr: {min: 1e-4, max: 1.0, log: true}}")
            return None
        reading = _Reading()
        reading.group(item, "", {})
        return ordered(reading.drafts, reading.constants, reading.broken)

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"$ref": "#/$defs/parameter"}}


class _Reading:
    def __init__(self) -> None:
        self.drafts: dict[str, Draft] = {}
        self.constants: dict[str, Item] = {}
        self._seen: set[str] = set()

    @property
    def broken(self) -> set[str]:
        """Parameters that are there, but wrong."""
        return self._seen - self.drafts.keys() - self.constants.keys()

    def group(self, item: Item, prefix: str, when: dict[str, Item]) -> None:
        for key, child in item.children():
            name = f"{prefix}.{key}" if prefix else key
            if (wrong := wrong_name(name)) is not None:
                item.report.add(item.node.keys.get(key, child.node.where), child.key, wrong)
            elif name in self._seen:
                child.problem(f"the parameter {shown(name)} is here twice")
            else:
                self._seen.add(name)
                self._entry(child, name, when)

    def _entry(self, item: Item, name: str, outer: dict[str, Item]) -> None:
        value = item.node.value
        if isinstance(value, dict):
            when = self._when(item, outer)
            if "parameters" in value:
                self._nested(item, name, when)
            elif "value" in value:
                self._constant(item, name, when)
            else:
                distribution, labels = _values(item) if "values" in value else (_range(item), {})
                if distribution is not None:
                    self.drafts[name] = Draft(item, distribution, labels, when)
        elif isinstance(value, list):
            distribution, labels = _choices(item)
            if distribution is not None:
                self.drafts[name] = Draft(item, distribution, labels, outer)
        elif value is None:
            item.problem(f"is empty: write {', '.join(SHAPES[:-1])} or a constant")
        else:
            self.constants[name] = item

    def _when(self, item: Item, outer: dict[str, Item]) -> dict[str, Item]:
        if not isinstance(item.node.value, dict) or "when" not in item.node.value:
            return outer
        when = Item(item.node.value["when"], joined(item.key, "when"), item.report)
        if not isinstance(when.node.value, dict) or not when.node.value:
            when.expected("a mapping such as {optimizer: sgd} or {optimizer: [sgd, adamw]}")
            return outer
        own = dict(when.children())
        for parent in own.keys() & outer.keys():
            own[parent].problem("the group around it has a condition on this already")
        return {**outer, **own}

    def _nested(self, item: Item, name: str, when: dict[str, Item]) -> None:
        _only(item, ("parameters", "when"))
        inner = item.child("parameters")
        if inner is None or not isinstance(inner.node.value, dict) or not inner.node.value:
            (inner or item).expected("a mapping of parameters")
        else:
            self.group(inner, name, when)

    def _constant(self, item: Item, name: str, when: dict[str, Item]) -> None:
        _only(item, ("value",))
        if (value := item.child("value")) is None:
            item.problem("value is empty")
        else:
            self.constants[name] = value


def plain(node: Node) -> Any:
    """A node as plain data."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def _only(item: Item, known: tuple[str, ...]) -> bool:
    """Report all other keys; whether there was none."""
    others = [key for key in item.node.value if key not in known] if isinstance(item.node.value, dict) else []
    for key in others:
        item.unknown(key, known, _HINTS.get(key, ""))
    return not others


def _values(item: Item) -> "tuple[BaseDistribution | None, dict[str, Any]]":
    _only(item, ("values", "when"))
    values = item.child("values")
    if values is not None and isinstance(values.node.value, list):
        return _choices(values)
    if values is None or not isinstance(values.node.value, dict) or not values.node.value:
        (values or item).expected("a list of choices, or a mapping of labels to values such as {small: [64, 64]}")
        return None, {}
    labels = {label: plain(choice.node) for label, choice in values.children()}
    for label in labels:
        if (wrong := wrong_name(label)) is not None:
            item.report.add(values.node.keys[label], joined(values.key, label), wrong)
    return _categorical(list(labels)), labels


def _choices(item: Item) -> "tuple[BaseDistribution | None, dict[str, Any]]":
    choices: dict[Any, None] = {}
    elements = list(item.elements())
    if not elements:
        item.problem("has no choices")
    for element in elements:
        value = element.node.value
        if isinstance(value, list | dict):
            element.problem(
                f"{shown(value)} cannot be a choice: give each a label, such as {{values: {{small: [64, 64]}}}}"
            )
        elif isinstance(value, float) and math.isnan(value):
            element.problem("NaN cannot be a choice")
        elif isinstance(value, int) and abs(value) > MAX_INT * 1024:
            element.problem("is too large a number for a choice")
        # 1, 1.0 and true are equal to Python, and so to Optuna
        elif value in choices:
            element.problem(f"{shown(value)} is among the choices twice")
        else:
            choices[value] = None
    return (_categorical(list(choices)), {}) if elements and len(choices) == len(elements) else (None, {})


def _categorical(choices: list[Any]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution

    return CategoricalDistribution(choices)


def _range(item: Item) -> "BaseDistribution | None":
    from optuna.distributions import FloatDistribution, IntDistribution

    known = _only(item, RANGE_KEYS)
    children = {key: item.child(key) for key in RANGE_KEYS}
    if children["min"] is None and children["max"] is None:
        if known:
            item.problem(f"must be {', '.join(SHAPES[:-1])} or {SHAPES[-1]}")
        return None
    for key in ("min", "max"):
        if children[key] is None:
            item.problem(f"{key} is needed beside {'max' if key == 'min' else 'min'}")
    low, high, step = (_bound(child) for child in (children["min"], children["max"], children["step"]))
    log, kind = _flag(children["log"]), _kind(children["type"])
    if low is None or high is None or (step is None and children["step"] is not None):
        return None
    whole = kind == "int" or (kind is None and all(isinstance(bound, int) for bound in (low, high, step or 0)))
    if not _range_is_sound(children, low, high, step, whole=whole, log=log):
        return None
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=None if step is None else float(step))


def _range_is_sound(
    items: Mapping[str, Item | None],
    low: float,
    high: float,
    step: float | None,
    *,
    whole: bool,
    log: bool,
) -> bool:
    wrong: dict[str, str] = {}
    if whole:
        for key, value in (("min", low), ("max", high), ("step", step)):
            if value is not None and not float(value).is_integer():
                wrong[key] = f"must be a whole number for an int (got {value})"
            elif value is not None and abs(value) > (MAX_STEP if key == "step" else MAX_INT):
                wrong[key] = f"must be at most {MAX_STEP if key == 'step' else MAX_INT} for an int (got {value})"
    if low > high:
        if _in_file(items["max"]) or not _in_file(items["min"]):
            wrong.setdefault("min", f"must not be more than max ({high}) (got {low})")
        else:
            wrong.setdefault("max", f"must not be less than min ({low}) (got {high})")
    if log and low <= 0:
        wrong.setdefault("min", f"must be > 0 when log is true (got {low})")
    if step is not None and step <= 0:
        wrong.setdefault("step", f"must be more than 0 (got {step})")
    elif step is not None and log:
        wrong.setdefault("step", "cannot be combined with log: true")
    if not wrong and not math.isfinite(float(high) - float(low)):
        wrong["max"] = f"is too far from min (got {high})"
    if step is not None and not wrong:
        wrong = _step_mismatch(low, high, step)
    for key, message in wrong.items():
        if (item := items[key]) is not None:
            item.problem(message)
    return not wrong


def _in_file(item: Item | None) -> bool:
    return item is not None and item.node.where[-1:].isdigit() and ":" in item.node.where


def _step_mismatch(low: float, high: float, step: float) -> dict[str, str]:
    if (high - low) / step > MAX_INT:
        return {"step": f"is too small for so wide a range (got {step})"}
    # Decimal, as in Optuna: 0.1 + 0.2 is to be 0.3
    rest = (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step))
    if rest == 0:
        return {}
    last = (Decimal(str(high)) - rest).normalize()
    return {"max": f"must be min plus a multiple of step, such as {last:f} (got {high})"}


def _bound(item: Item | None) -> int | float | None:
    if item is None:
        return None
    value = number(item)
    if value is None or not math.isfinite(value):
        item.expected("a finite number")
        return None
    return value


def _flag(item: Item | None) -> bool:
    if item is not None and not isinstance(item.node.value, bool):
        item.expected("true or false")
    return item is not None and item.node.value is True


def _kind(item: Item | None) -> str | None:
    if item is None:
        return None
    kind = item.node.value
    if not _is_kind(kind):
        near = suggestion(kind, ("int", "float")) if isinstance(kind, str) else ""
        item.problem(f"must be int or float (got {shown(kind)}){near if 'mean' in near else ''}")
        return None
    return kind


def _is_kind(kind: object) -> TypeGuard[str]:
    return kind in ("int", "float")
