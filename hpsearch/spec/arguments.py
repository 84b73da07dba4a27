"""Reads ``sampler:`` and ``pruner:``, their arguments checked against Optuna's own signatures."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from hpsearch.spec.compatibility import MAX_GRID
from hpsearch.spec.components import Catalog, Kind, defaults, load_class, make, nested_catalog, signature
from hpsearch.spec.model import Component
from hpsearch.spec.objective import NotFound, check_module, importable
from hpsearch.spec.parameters import MAX_INT, plain
from hpsearch.spec.readers import number
from hpsearch.spec.tree import Item, printable, shown, suggestion

# Optuna accepts these and fails only in the middle of a study.
_LIMITS: dict[str, tuple[float, float]] = {
    "n_startup_trials": (0, MAX_INT),
    "n_ei_candidates": (1, 1_000_000),
    "popsize": (2, 1_000_000),
    "population_size": (2, 1_000_000),
    "dividing_parameter": (1, 1000),
    "crossover_prob": (0, 1),
    "mutation_prob": (0, 1),
    "swapping_prob": (0, 1),
    "min_resource": (1, MAX_INT),
    "max_resource": (1, MAX_INT),
    "reduction_factor": (2, 1_000_000),
    "min_early_stopping_rate": (0, 64),
    "bootstrap_count": (0, MAX_INT),
    "patience": (0, MAX_INT),
    "n_warmup_steps": (0, MAX_INT),
    "interval_steps": (1, MAX_INT),
    "n_min_trials": (1, MAX_INT),
    "seed": (0, 2**32 - 1),
}
_ANYTHING = object()


@dataclass(frozen=True, slots=True)
class ComponentReader:
    """Reads ``tpe``, ``{tpe: {n_startup_trials: 5}}`` or ``module:Class`` with or without arguments."""

    what: str  # "sampler"
    catalog: Catalog

    def read(self, item: Item) -> Component | None:
        value = item.node.value
        if isinstance(value, str):
            name, arguments = value, None
        elif isinstance(value, dict) and len(value) == 1:
            name = next(iter(value))
            arguments = item.child(name)
        else:
            item.expected(f"one {self.what} such as {self._example()}")
            return None
        if arguments is not None and not isinstance(arguments.node.value, dict):
            arguments.expected("a mapping of arguments")
            return None
        if name in self.catalog:
            return self._known(item, name, arguments)
        if ":" in name:
            return self._own(item, name, arguments)
        where = item.node.keys.get(name, item.node.where)
        item.report.add(where, item.key, f"unknown {self.what} {shown(name)}{suggestion(name, self.catalog)}")
        return None

    def _example(self) -> str:
        name = next(iter(self.catalog))
        return f"{name} or {{{name}: {{...}}}}"

    def _own(self, item: Item, name: str, arguments: Item | None) -> Component | None:
        module, _, cls = name.partition(":")
        try:
            check_module(module, cls, "class")
        except NotFound as error:
            item.problem(str(error))
            return None
        return Component(name=name, arguments=plain(arguments.node) if arguments else {})

    def _known(self, item: Item, name: str, given: Item | None) -> Component | None:
        kind = self.catalog[name]
        if missing := [package for package in kind.needs if not importable(package)]:
            item.problem(f"{name} needs the package {missing[0]}: pip install {missing[0]}")
        types, needed = argument_types(self.catalog[name].path, tuple(sorted(kind.types.items())))
        arguments: dict[str, Any] = {}
        sound = not missing
        for key, child in given.children() if given else ():
            word = kind.renamed.get(key, key)
            if word in kind.left_out:
                child.problem(kind.left_out[word])
            elif word not in types:
                assert given is not None
                known = [known for known in (*types, *kind.renamed) if known not in kind.left_out]
                given.unknown(key, known, "" if known else f": {name} takes no arguments")
            elif (value := _argument(child, word, types[word])) is not _ANYTHING:
                arguments[word] = value
                continue
            sound = False
        complete = True
        words = {ours: word for word, ours in kind.renamed.items()}
        for word in dict.fromkeys((*needed, *kind.required)):
            if sound and word not in arguments and word not in kind.derived:
                (given or item).problem(f"{name} needs {words.get(word, word)}")
                complete = False
        component = Component(name=name, arguments=arguments)
        return component if sound and complete and _can_be_made(given or item, component, self.catalog) else None

    def schema(self) -> dict[str, Any]:
        forms: list[dict[str, Any]] = [
            {"enum": [name for name, kind in self.catalog.items() if not required_words(kind)]},
            {"type": "string", "pattern": "^[^:]+:[^:]+$", "description": "module:Class of your own"},
        ]
        for name, kind in self.catalog.items():
            forms.append(
                {
                    "type": "object",
                    "additionalProperties": False,
                    "required": [name],
                    "properties": {name: kind_schema(kind)},
                }
            )
        own = {"^[^:]+:[^:]+$": {"type": ["object", "null"]}}
        forms.append({"type": "object", "additionalProperties": False, "minProperties": 1, "patternProperties": own})
        return {"anyOf": forms}


@cache
def argument_types(path: str, narrower: tuple[tuple[str, str], ...]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Arguments of a class with their annotations, and which of them have no default."""
    cls = load_class(path)
    own = signature(cls)
    return {**own, **dict(narrower)}, tuple(name for name in own if name not in defaults(cls))


def required_words(kind: Kind) -> list[str]:
    """Arguments that must be given, in the study file's words."""
    _, needed = argument_types(kind.path, tuple(sorted(kind.types.items())))
    words = {ours: word for word, ours in kind.renamed.items()}
    return [words.get(word, word) for word in dict.fromkeys((*needed, *kind.required)) if word not in kind.derived]


def kind_schema(kind: Kind) -> dict[str, Any]:
    """JSON Schema of the arguments of one component."""
    types, _ = argument_types(kind.path, tuple(sorted(kind.types.items())))
    words = {ours: word for word, ours in kind.renamed.items()}
    properties = {
        alias: _argument_schema(name, annotation)
        for name, annotation in types.items()
        if name not in kind.left_out
        for alias in dict.fromkeys((name, words.get(name, name)))
    }
    needed = [word for word in required_words(kind) if word not in kind.renamed]
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**schema, "required": needed} if needed else {**schema, "type": ["object", "null"]}


def _argument_schema(name: str, annotation: str) -> dict[str, Any]:
    if (catalog := nested_catalog(annotation)) is not None:
        return {"type": ["string", "object", "null"], "description": f"one of {', '.join(catalog)}"}
    words = {"int": "integer", "float": "number", "bool": "boolean", "str": "string", "None": "null"}
    found = [words[part] for part in _parts(annotation) if part in words]
    if "ndarray" in annotation:
        return {"type": ["array", "null"], "items": {"type": "array", "items": {"type": "number"}}}
    if not found or any(part not in words for part in _parts(annotation)):
        return {"type": ["object", "null"]}
    schema: dict[str, Any] = {"type": found[0] if len(found) == 1 else found}
    if name in _LIMITS:
        schema["minimum"], schema["maximum"] = _LIMITS[name]
    return schema


def _parts(annotation: str) -> list[str]:
    return [part.strip() for part in annotation.split("|")]


def _argument(item: Item, name: str, annotation: str) -> Any:
    """The value of one argument as plain data; _ANYTHING after reporting a problem."""
    value, parts = item.node.value, _parts(annotation)
    if value is None and "None" in parts:
        return None
    if (catalog := nested_catalog(annotation)) is not None:
        component = ComponentReader(name, catalog).read(item)
        return _ANYTHING if component is None else {component.name: dict(component.arguments)}
    if "ndarray" in annotation:
        return _matrix(item)
    if any(part.startswith(("dict", "Mapping")) for part in parts):
        return _mapping(item, lists="Sequence" in annotation)
    found = _scalar(item, parts)
    if found is _ANYTHING:
        wishes = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}
        item.expected(" or ".join(wishes[part] for part in parts if part in wishes))
    elif name in _LIMITS and isinstance(found, int | float):
        low, high = _LIMITS[name]
        if not low <= found <= high:
            item.expected(f"from {low} to {high}" if high < MAX_INT else f"at least {low}")
            return _ANYTHING
    return found


def _scalar(item: Item, parts: list[str]) -> Any:
    value = item.node.value
    if isinstance(value, bool):
        return value if "bool" in parts else _ANYTHING
    if isinstance(value, str):
        return value if "str" in parts else _ANYTHING
    found = number(item)
    if found is None or abs(found) > MAX_INT * 1024:
        return _ANYTHING
    if "int" in parts and float(found).is_integer():
        return int(found)
    return float(found) if "float" in parts else _ANYTHING


def _mapping(item: Item, *, lists: bool) -> Any:
    if not isinstance(item.node.value, dict) or not item.node.value:
        item.expected("a mapping of parameters")
        return _ANYTHING
    n_points = 1
    for _, child in item.children():
        nodes = list(child.elements()) if lists else [child]
        n_points *= len(nodes)
        if not nodes or any(isinstance(node.node.value, list | dict) for node in nodes):
            child.expected("a list of values" if lists else "a value")
            return _ANYTHING
    if n_points > MAX_GRID:  # Optuna would build them all in memory
        item.problem(f"is a grid of {n_points:.3g} points: at most {MAX_GRID}")
        return _ANYTHING
    return plain(item.node)


def _matrix(item: Item) -> Any:
    rows = [list(row.elements()) for row in item.elements()]
    if not rows or any(len(row) != len(rows[0]) or not row for row in rows):
        item.expected("a list of lists of numbers, all of one length")
        return _ANYTHING
    if any(number(cell) is None for row in rows for cell in row):
        item.problem("has something in it that is no number")
        return _ANYTHING
    return plain(item.node)


def _can_be_made(item: Item, component: Component, catalog: Catalog) -> bool:
    """Make one and throw it away: Optuna knows best which values go together."""
    if not _resources_fit(item, component.arguments):
        return False
    if not _is_quick(component.name, component.arguments, catalog):
        return True
    try:
        make(component, catalog)
    except Exception as error:
        item.problem(f"{component.name}: {printable(' '.join(str(error).split()), 200)}")
        return False
    return True


def _is_quick(name: str, arguments: Mapping[str, Any], catalog: Catalog) -> bool:
    """Whether making a component, with those inside it, imports nothing large and needs nothing else."""
    if name not in catalog or not catalog[name].quick:
        return False
    types = signature(load_class(catalog[name].path))
    for key, value in arguments.items():
        inner = nested_catalog(types.get(key, ""))
        if inner is not None and value is not None:
            [(inner_name, inner_arguments)] = value.items()
            if not _is_quick(inner_name, inner_arguments, inner):
                return False
    return True


def _resources_fit(item: Item, arguments: Mapping[str, Any]) -> bool:
    low, high = arguments.get("min_resource", 1), arguments.get("max_resource")
    if isinstance(low, int) and isinstance(high, int) and high < low:
        item.problem(f"max_resource must be at least min_resource ({low}) (got {high})")
        return False
    return True
