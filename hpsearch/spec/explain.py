"""Where each value of a study came from."""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from hpsearch import passwords
from hpsearch.spec.model import Component, StudySpec
from hpsearch.spec.tree import Node, joined
from hpsearch.spec.units import duration_words, size_words

DEFAULT = "default"


def explain(spec: StudySpec) -> list[tuple[str, str, str]]:
    """A row for each value: dotted key, value in words, origin. Passwords are hidden."""
    return [(key, value, _origin(spec.origins, key)) for key, value in _rows(spec)]


def origins_of(root: Node) -> dict[str, str]:
    """Dotted key to origin, for everything that a tree gives; groups of parameters are left out of the keys."""
    origins = dict(_origins(root, "", grouped=False))
    for alias, key in (("resources.cpus", "resources.cpus_per_rank"),):
        if alias in origins:
            origins[key] = origins[alias]
    return origins


def _origins(node: Node, key: str, *, grouped: bool) -> Iterator[tuple[str, str]]:
    if key and node.value is not None:
        yield key, node.where
    if isinstance(node.value, dict):
        for word, child in node.value.items():
            if grouped and word == "parameters":
                yield from _origins(child, key, grouped=True)
            else:
                yield from _origins(child, joined(key, word), grouped=grouped or word == "parameters")
    elif isinstance(node.value, list) and any(isinstance(child.value, dict) for child in node.value):
        for index, child in enumerate(node.value):
            yield from _origins(child, f"{key}[{index}]", grouped=grouped)


def _origin(origins: Mapping[str, str], key: str) -> str:
    origin = origins.get(key, DEFAULT)
    # a range from the file whose max the command line changed has two origins
    changed = [
        f"{inner.removeprefix(key + '.')}: {other}"
        for inner, other in origins.items()
        if inner.startswith(key + ".") and key.startswith("parameters.") and _source(other) != _source(origin)
    ]
    return ", ".join([origin, *changed])


def _source(origin: str) -> str:
    return re.sub(r":\d+:\d+$", "", origin)


def _rows(spec: StudySpec) -> Iterator[tuple[str, str]]:
    yield "name", spec.name
    if spec.objective.command is not None:
        yield "command", shlex.join(spec.objective.command.written)
    else:
        yield "objective", spec.objective.label if spec.objective.kind == "pickle" else _target(spec)
    for index, metric in enumerate(spec.metrics):
        key = f"metric[{index}]" if len(spec.metrics) > 1 else "metric"
        yield from ((f"{key}.{word}", _words(getattr(metric, word))) for word in ("name", "goal", "target"))
        if metric.pattern:
            yield f"{key}.pattern", metric.pattern
    for parameter in spec.parameters:
        yield f"parameters.{parameter.name}", str(parameter)
    for name, value in spec.parameters.constants.items():
        yield f"parameters.{name}", _words(value)
    yield from _component("sampler", spec.sampler)
    yield from _component("pruner", spec.pruner)
    yield from _limits(spec)
    yield "storage", spec.storage
    if spec.password_file is not None:
        yield "storage.password_file", spec.password_file
    yield from ((f"cluster.{word}", _words(getattr(spec.cluster, word))) for word in ("kind", "workers", "address"))
    yield "seed", _words(spec.seed)
    yield "directory", spec.directory


def _limits(spec: StudySpec) -> Iterator[tuple[str, str]]:
    budget, resources, retry = spec.budget, spec.resources, spec.retry
    yield "budget.trials", _words(budget.trials)
    yield "budget.time", _duration(budget.time_s)
    if budget.plateau is not None:
        yield "budget.plateau.trials", _words(budget.plateau.trials)
        yield "budget.plateau.min_delta", _words(budget.plateau.min_delta)
    if (failures := budget.failures) is not None:
        yield "budget.failures", f"{failures.percent:g}%" if failures.count is None else _words(failures.count)
    yield from (
        (f"resources.{word}", _words(getattr(resources, word)))
        for word in ("ranks", "gpus_per_rank", "cpus_per_rank", "hosts")
    )
    yield "resources.memory", "none" if resources.memory_bytes is None else size_words(resources.memory_bytes)
    yield "resources.time", _duration(resources.time_s)
    yield "resources.no_progress", _duration(resources.no_progress_s)
    yield "resources.grace", _duration(resources.grace_s)
    yield "retry.max", _words(retry.max)
    yield "retry.on", ", ".join(sorted(retry.on)) or "none"
    yield "retry.exclude_host_after", _words(retry.exclude_host_after or "never")
    yield "retry.policies", "; ".join(f"{one.pattern!r}: {one.action}" for one in retry.policies) or "none"
    checkpoints = spec.checkpoints
    yield "checkpoints.url", passwords.masked(checkpoints.url or "none")
    yield from ((f"checkpoints.{word}", _words(getattr(checkpoints, word))) for word in ("keep", "keep_best"))
    yield "checkpoints.quota", "none" if checkpoints.quota_bytes is None else size_words(checkpoints.quota_bytes)


def _component(key: str, component: Component) -> Iterator[tuple[str, str]]:
    yield key, component.name
    for name, value in component.arguments.items():
        yield f"{key}.{component.name}.{name}", _words(value)


def _target(spec: StudySpec) -> str:
    return f"{spec.objective.target}:{spec.objective.function}"


def _duration(seconds: float | None) -> str:
    return "none" if seconds is None else duration_words(seconds)


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value)
