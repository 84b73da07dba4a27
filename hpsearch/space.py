"""The declared search space: Optuna distributions, the conditions between them, and constants.

A value of a parameter is *external* in Optuna's sense everywhere here: what ``trial.params`` holds.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json

Condition = tuple[str, tuple[Any, ...]]  # a parameter's name, and the values that let the other one exist


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One searched parameter; it exists in a trial only where every condition of ``when`` holds."""

    name: str
    distribution: BaseDistribution
    when: tuple[Condition, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)  # choice -> the value the objective sees

    def __str__(self) -> str:
        """``float 0.0001 to 1.0, log, when optimizer is "sgd"``."""
        entry = _entry(self)
        return _words(entry) + (f", {_condition(entry['when'])}" if self.when else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """All parameters, in an order in which each comes after those that its conditions name.

    A space without parameters is define-by-run: the objective suggests its own.
    """

    declared: tuple[Parameter, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.declared)

    def __len__(self) -> int:
        return len(self.declared)

    def __bool__(self) -> bool:
        return bool(self.declared or self.constants)

    def __getitem__(self, name: str) -> Parameter:
        for parameter in self.declared:
            if parameter.name == name:
                return parameter
        raise KeyError(name)

    def active(self, name: str, params: Mapping[str, Any]) -> bool:
        """Whether the parameter exists in a trial that has these ``params`` so far.

        Raises KeyError where no such parameter is declared.
        """
        # A parent that is itself inactive is absent from params, so its children are inactive too.
        return all(parent in params and params[parent] in values for parent, values in self[name].when)

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What the objective sees: constants added, labels replaced by the values that they stand for."""
        labels = {parameter.name: parameter.labels for parameter in self.declared if parameter.labels}
        resolved = dict(self.constants)
        for name, value in params.items():
            resolved[name] = labels[name][value] if name in labels else value
        return resolved

    def to_json(self) -> str:
        """The space as it is kept with the study, for :meth:`difference`."""
        parameters = {parameter.name: _entry(parameter) for parameter in self.declared}
        return json.dumps({"parameters": parameters, "constants": dict(self.constants)}, sort_keys=True)

    def difference(self, old_json: str) -> list[str]:
        """What changed since ``old_json`` was written, one line for each change; empty where nothing did."""
        old, new = json.loads(old_json), json.loads(self.to_json())
        lines = []
        for name in sorted(old["parameters"].keys() | new["parameters"].keys()):
            lines += _changes(name, old["parameters"].get(name), new["parameters"].get(name))
        for name in sorted(old["constants"].keys() | new["constants"].keys()):
            before, after = (json.dumps(side["constants"].get(name)) for side in (old, new))
            if name not in new["constants"]:
                lines.append(f"{name}: the constant {before} is gone")
            elif name not in old["constants"]:
                lines.append(f"{name}: new constant {after}")
            elif before != after:
                lines.append(f"{name}: was {before}, is {after}")
        return lines


def _entry(parameter: Parameter) -> dict[str, Any]:
    return {
        "distribution": json.loads(distribution_to_json(parameter.distribution)),
        "when": {parent: list(values) for parent, values in parameter.when},
        "labels": dict(parameter.labels),
    }


def _changes(name: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> list[str]:
    if new is None:
        return [f"{name}: is gone"]
    if old is None:
        return [f"{name}: new parameter, {_words(new)}"]
    lines = []
    if _words(old) != _words(new):
        lines.append(f"{name}: was {_words(old)}, is {_words(new)}")
    else:
        before, after = (json.dumps(entry["labels"], sort_keys=True) for entry in (old, new))
        lines += [f"{name}: was {before}, is {after}"] if before != after else []
    if old["when"] != new["when"]:
        lines.append(f"{name}: was there {_condition(old['when'])}, is {_condition(new['when'])}")
    return lines


def _condition(when: Mapping[str, list[Any]]) -> str:
    if not when:
        return "always"
    return "when " + " and ".join(
        f"{parent} is {' or '.join(json.dumps(value) for value in values)}" for parent, values in when.items()
    )


def _words(entry: Mapping[str, Any]) -> str:
    """A stored distribution in words: ``float 0.0001 to 1.0, log``."""
    kind, attributes = entry["distribution"]["name"], entry["distribution"]["attributes"]
    if kind == "CategoricalDistribution":
        return "one of " + json.dumps(attributes["choices"])
    words = f"{'int' if kind == 'IntDistribution' else 'float'} {attributes['low']} to {attributes['high']}"
    if attributes.get("log"):
        words += ", log"
    step = attributes.get("step")
    if step is not None and not (kind == "IntDistribution" and step == 1):
        words += f", step {step}"
    return words
