"""A study file, or a function's name, to a StudySpec."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch import passwords
from hpsearch.errors import Problem, StudyFileError
from hpsearch.spec import layers
from hpsearch.spec.command import located, settle
from hpsearch.spec.compatibility import wrong_pruner, wrong_sampler
from hpsearch.spec.explain import origins_of
from hpsearch.spec.grammar import STUDY
from hpsearch.spec.model import (
    DEFAULT_DIRECTORY,
    DEFAULT_STORAGE,
    Budget,
    Checkpoints,
    ClusterSpec,
    Component,
    FailureLimit,
    LogPolicy,
    Metric,
    Objective,
    Plateau,
    Resources,
    Retry,
    StudySpec,
)
from hpsearch.spec.objective import folders, is_target
from hpsearch.spec.readers import wrong_name
from hpsearch.spec.tree import Item, Node, Report, printable
from hpsearch.spec.yamlfile import parse, read_text

if TYPE_CHECKING:
    from hpsearch.space import Space

_YAML = (".yaml", ".yml")
_NOWHERE = Objective(kind="module", target="", function="")


def load_study(
    source: str,
    overrides: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
) -> StudySpec:
    """Read a study, all defaults filled in.

    ``source`` is the path of a study file, or ``file.py:function`` or ``package.module:function`` for a study without
    one. ``overrides`` are ``KEY=VALUE`` as typed, ``options`` values by dotted key, ``environ`` the environment
    (``os.environ`` if None). The command line is stronger than the environment, that than the file, that than defaults.
    No code of the user is run.

    Raises StudyFileError with every problem there is.
    """
    report = Report()
    text = ""
    if is_target(source) and not source.endswith(_YAML):
        root = Node({"objective": Node(source, layers.COMMAND_LINE, text=source)}, layers.COMMAND_LINE)
    elif source.endswith(".py"):
        raise StudyFileError(
            [Problem(printable(source), "", f"which function of it? Such as {printable(source)}:train")]
        )
    else:
        label = printable(source, 300)
        text = read_text(Path(source), label)
        root = parse(text, label, report)
    if not isinstance(root.value, dict):
        report.add(root.where, "", f"must be a mapping such as {STUDY.example}")
        report.check()
    environ = os.environ if environ is None else environ
    root = layers.lay(root, layers.environment_layer(environ, report), report)
    root = layers.lay(root, layers.override_layer(overrides, report), report)
    root = layers.lay(root, layers.option_layer(options or {}), report)
    item = Item(root, "", report)
    values = STUDY.read(item) or {}
    _check_needed(item, from_file=bool(text))
    spec = _spec(values, source, item, environ)
    report.check()
    # A study file may name its storage with a password, and everybody who reads the study could read that.
    masked = passwords.masked(text)
    origins = origins_of(root)
    if file := environ.get(passwords.FILE):
        spec = replace(spec, password_file=file)
        origins = {**origins, "storage.password_file": f"environment {passwords.FILE}"}
    return replace(spec, source_text=masked, origins=origins)


def _check_needed(item: Item, *, from_file: bool) -> None:
    objective, command = item.child("objective"), item.child("command")
    if objective is None and command is None:
        item.problem("objective is needed, such as objective: train.py:train")
    elif objective is not None and command is not None:
        command.problem("objective and command are two ways to say what is run: give one")
    if from_file and item.child("metric") is None:
        item.problem("metric is needed, such as metric: {name: accuracy, goal: maximize}")
    elif from_file:
        _check_goals(item)
    budget = item.child("budget")
    if budget is None or (budget.child("trials") is None and budget.child("time") is None):
        remedy = "" if from_file else ": say --trials N or --timeout T"
        (budget or item).problem(f"budget.trials or budget.time is needed{remedy}")
    pruner = item.node.value.get("pruner") if isinstance(item.node.value, dict) else None
    if pruner is not None and pruner.value is None:
        item.report.add(pruner.where, "pruner", "is empty: write none, or leave the key out")


def _check_goals(item: Item) -> None:
    metric = item.child("metric")
    assert metric is not None
    for one in metric.elements() if isinstance(metric.node.value, list) else [metric]:
        if isinstance(one.node.value, dict) and one.child("goal") is None:
            one.problem("goal is needed: minimize or maximize")


def _spec(values: Mapping[str, Any], source: str, item: Item, environ: Mapping[str, str]) -> StudySpec:
    """The spec of what was read; its holes don't matter where there were problems."""
    from hpsearch.space import Space

    metrics = tuple(Metric(**metric) for metric in values.get("metric") or [{}])
    space: Space = values.get("parameters") or Space()
    objective = _command(item, values, space, environ) or values.get("objective") or _NOWHERE
    sampler = values.get("sampler") or Component(name="tpe")
    # Optuna's own default; it has none for several metrics
    pruner = values.get("pruner") or Component(name="median" if len(metrics) == 1 else "none")
    storage = values.get("storage") or {}
    _check_together(item, values, space, len(metrics))
    name = values.get("name") or _default_name(source, objective, item)
    return StudySpec(
        name=name,
        objective=objective,
        metrics=metrics,
        parameters=space,
        sampler=sampler,
        pruner=pruner,
        budget=_budget(values.get("budget") or {}),
        resources=_resources(values.get("resources") or {}, item),
        retry=_retry(values.get("retry") or {}),
        checkpoints=_checkpoints(values.get("checkpoints") or {}),
        storage=storage.get("url", DEFAULT_STORAGE),
        password_file=storage.get("password_file"),
        cluster=_cluster(values.get("cluster") or {}, item),
        seed=values.get("seed"),
        ask_ahead=values.get("ask_ahead"),
        directory=values.get("directory", DEFAULT_DIRECTORY),
    )


def _command(item: Item, values: Mapping[str, Any], space: "Space", environ: Mapping[str, str]) -> Objective | None:
    """The program to run, if one is given; also checks what goes with a program only."""
    command, metric = item.child("command"), item.child("metric")
    if command is None and metric is not None:
        for one in metric.elements() if isinstance(metric.node.value, list) else [metric]:
            if pattern := one.child("pattern"):
                pattern.problem("goes with a command: an objective calls trial.report")
    if command is None or "command" not in values:
        return None
    if metric is not None and len(values.get("metric") or ()) > 1:
        metric.problem("a command has one metric; it may report others beside it")
    declared = [parameter.name for parameter in space]
    settled = values["command"]
    if "parameters" in values or item.child("parameters") is None:
        settled = settle(
            command,
            settled,
            known=[*declared, *space.constants],
            conditional=[parameter.name for parameter in space if parameter.when],
            environ=environ,
        )
    cluster = values.get("cluster") or {}
    here = cluster.get("kind", "address" if "address" in cluster else "local") == "local"
    settled = located(command, settled, folders(next(command.elements())), here=here)
    return Objective(kind="command", target="", function="", command=settled)


def _check_together(item: Item, values: Mapping[str, Any], space: "Space", n_metrics: int) -> None:
    sampler, pruner = item.child("sampler"), item.child("pruner")
    # an unusable space was reported already, and would only be reported again as a sampler's fault
    usable = "parameters" in values or item.child("parameters") is None
    if sampler is not None and "sampler" in values and usable:
        wrong = wrong_sampler(values["sampler"], space, n_metrics)
        if wrong is not None:
            sampler.problem(wrong)
    if pruner is not None and "pruner" in values:
        wrong = wrong_pruner(values["pruner"], n_metrics)
        if wrong is not None:
            pruner.problem(wrong)


def _default_name(source: str, objective: Objective, item: Item) -> str:
    if source.endswith(_YAML):
        name = Path(source).stem
    elif objective.kind == "file":
        name = Path(objective.target).stem
    else:
        name = objective.function
    if (objective.function or objective.command) and wrong_name(name) is not None:
        item.problem("name is needed: the file's own name cannot be a study's")
    return name


def _budget(values: Mapping[str, Any]) -> Budget:
    plateau, failures = values.get("plateau"), values.get("failures")
    return Budget(
        trials=values.get("trials"),
        time_s=values.get("time"),
        plateau=Plateau(**plateau) if plateau and "trials" in plateau else None,
        failures=FailureLimit(**failures) if failures else None,
    )


def _retry(values: Mapping[str, Any]) -> Retry:
    policies = tuple(LogPolicy(**policy) for policy in values.get("policies", ()) if len(policy) == 2)
    return Retry(**{**values, "policies": policies})


def _checkpoints(values: Mapping[str, Any]) -> Checkpoints:
    given = dict(values)
    quota = given.pop("quota", None)
    return Checkpoints(**given, quota_bytes=None if quota is None else round(quota))


def _resources(values: Mapping[str, Any], item: Item) -> Resources:
    resources = item.child("resources")
    if "cpus" in values and "cpus_per_rank" in values and resources is not None:
        resources.problem("cpus and cpus_per_rank are the same: give one")
    memory = values.get("memory")
    given = {
        "ranks": values.get("ranks"),
        "gpus_per_rank": values.get("gpus_per_rank"),
        "cpus_per_rank": values.get("cpus_per_rank", values.get("cpus")),
        "hosts": values.get("hosts"),
        "memory_bytes": None if memory is None else round(memory),
        "time_s": values.get("time"),
        "no_progress_s": values.get("no_progress"),
        "grace_s": values.get("grace"),
    }
    return Resources(**{key: value for key, value in given.items() if value is not None})


def _cluster(values: Mapping[str, Any], item: Item) -> ClusterSpec:
    kind = values.get("kind", "address" if "address" in values else "local")
    cluster = item.child("cluster")
    if cluster is not None and kind == "local" and "address" in values:
        cluster.problem("address goes with kind: address")
    if cluster is not None and kind == "address" and cluster.child("address") is None:
        cluster.problem("kind: address needs an address, such as tcp://host:8786")
    return ClusterSpec(kind=kind, workers=values.get("workers"), address=values.get("address"))
