"""Lays environment variables and the command line over the tree of a study file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hpsearch import passwords
from hpsearch.errors import StudyFileError
from hpsearch.spec.tree import Node, Report, Scalar, printable
from hpsearch.spec.yamlfile import parse_value

COMMAND_LINE = "command line"
PREFIX = "HPSEARCH_"
# set by hpsearch for its own processes; a study that is started from a rank must not read them
RESERVED = frozenset(
    {
        "HPSEARCH_DEBUG",
        "HPSEARCH_RANK_TOKEN",
        "HPSEARCH_DIRECTORY",
        "HPSEARCH_TRIAL",
        "HPSEARCH_ATTEMPT",
        "HPSEARCH_RANK",
        passwords.FILE,
    }
)

Layer = dict[str, Node]  # dotted key -> value


def environment_layer(environ: Mapping[str, str], report: Report) -> Layer:
    """``HPSEARCH_BUDGET__TRIALS=20`` sets ``budget.trials``; an empty variable sets nothing."""
    layer: Layer = {}
    for name in sorted(environ):
        text = environ[name]
        if not name.startswith(PREFIX) or name in RESERVED or not text.strip():
            continue
        key = name.removeprefix(PREFIX).lower().replace("__", ".")
        _add(layer, key, text, f"environment {printable(name)}", report)
    return layer


def override_layer(overrides: Sequence[str], report: Report) -> Layer:
    """``parameters.lr.max=0.1``; the value is YAML."""
    layer: Layer = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = re.sub(r"\[(\d+)\]", r".\1", key)  # metric[0].goal, as messages have it
        if not equals:
            report.add(COMMAND_LINE, "", f"'{printable(override)}' must be KEY=VALUE, such as budget.trials=20")
        else:
            _add(layer, key.strip(), text, COMMAND_LINE, report)
    return layer


def option_layer(options: Mapping[str, object]) -> Layer:
    """Options of the command line by dotted key, as Python values; None is not given."""
    return {key: node_of(value, COMMAND_LINE) for key, value in options.items() if value is not None}


def node_of(value: object, where: str) -> Node:
    """Plain data as a node."""
    if isinstance(value, Mapping):
        children = {str(key): node_of(child, where) for key, child in value.items()}
        return Node(children, where, dict.fromkeys(children, where))
    if isinstance(value, list | tuple):
        return Node([node_of(child, where) for child in value], where)
    plain: Scalar = value if value is None or isinstance(value, bool | int | float | str) else str(value)
    return Node(plain, where, text=str(value))


def lay(root: Node, layer: Layer, report: Report) -> Node:
    """The tree with a layer over it; ``root`` itself stays as it is."""
    if "cluster.address" in layer and "cluster.kind" not in layer:
        layer = {**layer, "cluster.kind": node_of("address", layer["cluster.address"].where)}
    for key, node in layer.items():
        try:
            root = _set(root, key.split("."), node, folded=node.where.startswith("environment"))
        except LookupError as error:
            report.add(node.where, printable(key), str(error.args[0]))
    return root


def _add(layer: Layer, key: str, text: str, where: str, report: Report) -> None:
    if not all(key.split(".")) or not key.isprintable() or len(key) > 1000 or key.count(".") > 40:
        report.add(where, printable(key), "must be a key such as budget.trials or parameters.lr.max")
        return
    try:
        layer.pop(key, None)  # the last one counts, and is laid last
        layer[key] = parse_value(text, where)
    except StudyFileError as error:
        for problem in error.problems:
            report.add(where, printable(key), problem.message)


def _set(node: Node, path: list[str], value: Node, *, folded: bool) -> Node:
    """A copy of ``node`` with ``value`` at ``path``; a scalar on the way gives way to a mapping."""
    if not path:
        return value
    if isinstance(node.value, list):
        if path[0] not in (numbers := [str(index) for index in range(len(node.value))]):
            raise LookupError(f"goes into a list of {len(numbers)}: give the whole list, or a number from 0")
        elements = list(node.value)
        elements[int(path[0])] = _set(elements[int(path[0])], path[1:], value, folded=folded)
        return replace(node, value=elements)
    if isinstance(node.value, dict):
        children, keys = dict(node.value), dict(node.keys)
    else:
        node, children, keys = Node({}, value.where), {}, {}
    key, rest = _key(children, path, folded=folded)
    keys.setdefault(key, value.where)
    children[key] = _set(children.get(key, Node(None, value.where)), rest, value, folded=folded)
    return replace(node, value=children, keys=keys)


def _key(children: Mapping[str, Node], path: list[str], *, folded: bool) -> tuple[str, list[str]]:
    """The key that ``path`` goes on with, and the path behind it.

    Keys may hold dots (``parameters.model.width`` for a parameter written ``model.width``), and ``parameters`` of a
    group need not be said.
    """
    known = {key.lower(): key for key in children} if folded else {key: key for key in children}
    for length in range(len(path), 0, -1):
        if (key := ".".join(path[:length])) in known:
            return known[key], path[length:]
    if "parameters" in children and _is_group(children):
        return "parameters", path
    return path[0], path[1:]


def _is_group(children: Iterable[str]) -> bool:
    return set(children) <= {"parameters", "when"}
