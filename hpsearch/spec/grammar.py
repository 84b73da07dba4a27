"""The study file's keys, as a table: what each reads, and what it means."""

import re
from typing import Any

from hpsearch.passwords import masked
from hpsearch.spec.arguments import ComponentReader
from hpsearch.spec.command import CommandReader
from hpsearch.spec.components import PRUNERS, SAMPLERS
from hpsearch.spec.objective import ObjectiveReader
from hpsearch.spec.parameters import ParametersReader
from hpsearch.spec.readers import (
    Either,
    Field,
    Flag,
    Name,
    Real,
    Section,
    Sections,
    Text,
    Whole,
    Word,
    Words,
    duration,
    number,
    size,
)
from hpsearch.spec.tree import Item, printable, shown, suggestion

MAX_TRIALS = 10_000_000
MAX_SEED = 2**32 - 1
STORAGES = ("sqlite", "postgresql", "postgresql+psycopg")
SCHEDULERS = ("tcp", "tls", "ws", "wss", "ucx", "ucxx", "inproc")
RETRIED = ("lost", "oom", "timeout", "error")
GOALS = ("minimize", "maximize")


class FailuresReader:
    """``failures: 10`` or ``failures: 20%``: read to a count, or to ``{percent}``."""

    def read(self, item: Item) -> dict[str, float] | None:
        value = item.node.value
        if isinstance(value, str) and value.strip().endswith("%"):
            try:
                percent = float(value.strip()[:-1])
            except ValueError:
                percent = -1.0
            if 0 <= percent <= 100:
                return {"percent": percent}
            item.expected("a percentage from 0% to 100%")
            return None
        count = number(item)
        if isinstance(count, int) and 0 <= count <= MAX_TRIALS:
            return {"count": count}
        item.expected("a number of trials such as 10, or a share such as 20%")
        return None

    def schema(self) -> dict[str, Any]:
        share = {"type": "string", "pattern": r"^\s*[0-9.]+\s*%\s*$"}
        return {"anyOf": [{"type": "integer", "minimum": 0, "maximum": MAX_TRIALS}, share]}


class PatternReader:
    """A regular expression that finds a metric in a line: group ``value``, perhaps ``step``, and more metrics."""

    def read(self, item: Item) -> str | None:
        text = item.node.value
        if not isinstance(text, str):
            item.expected(r"a regular expression such as 'loss=(?P<value>\S+)'")
            return None
        try:
            groups = re.compile(text).groupindex
        except (re.error, RecursionError, OverflowError) as error:
            item.problem(f"is no regular expression: {printable(str(error), 120)}")
            return None
        if "value" not in groups:
            item.problem(r"needs a group (?P<value>...), such as 'loss=(?P<value>\S+)'")
            return None
        return text

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"\(\?P<value>"}


class MetricReader:
    """One metric, or a list of them; read to a list of dicts."""

    one = Section(
        {
            "name": Field(Name(), "What the value that the objective returns is called."),
            "goal": Field(Word(GOALS), "Whether small or large values are good."),
            "target": Field(Real(), "The study ends once a trial is at least this good."),
            "pattern": Field(PatternReader(), "How a command prints it: a regular expression with (?P<value>...)."),
        },
        "{name: accuracy, goal: maximize}",
        hints={"direction": ": write goal"},
    )

    def read(self, item: Item) -> list[dict[str, Any]] | None:
        if not isinstance(item.node.value, list):
            found = self.one.read(item)
            return None if found is None else [found]
        if not item.node.value:
            item.problem("an empty list: at least one metric is needed")
        metrics = [self.one.read(element) or {} for element in item.elements()]
        names = [metric.get("name") for metric in metrics]
        for element, metric in zip(item.elements(), metrics, strict=True):
            if isinstance(element.node.value, dict) and len(metrics) > 1 and "name" not in element.node.value:
                element.problem("name is needed where there are several metrics")
            elif metric.get("name") is not None and names.count(metric["name"]) > 1:
                element.problem(f"two metrics are called {shown(metric['name'])}")
        return metrics

    def schema(self) -> dict[str, Any]:
        one = self.one.schema()
        return {"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]}


def wrong_storage(url: str) -> str | None:
    """What is wrong with a database's URL, or None; never shows the URL, which may hold a password."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "must be a URL such as sqlite:///studies.db or postgresql://user@host/database"
    if scheme not in STORAGES:
        return f"unknown kind of database '{scheme[:40]}'{suggestion(scheme, STORAGES)}"
    if scheme == "sqlite" and (rest.strip("/") == "" or ":memory:" in rest):
        return "a database in memory is gone when the command ends: name a file, such as sqlite:///studies.db"
    return None


_URL = Text("a URL such as sqlite:///studies.db", wrong_storage)


class StorageReader:
    """A database's URL, or a mapping with it; read to ``{url, password_file}``."""

    whole = Section(
        {
            "url": Field(_URL, "The database."),
            "password_file": Field(Text("a file's path"), "Its first line is the database's password."),
        },
        "{url: postgresql://user@host/database, password_file: /run/secrets/database}",
        required=("url",),
        hints={"password": ": write password_file, or set PGPASSWORD"},
    )

    def read(self, item: Item) -> dict[str, Any] | None:
        if isinstance(item.node.value, dict):
            return self.whole.read(item)
        url = _URL.read(item)
        return None if url is None else {"url": url}

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [_URL.schema(), self.whole.schema()]}


def wrong_address(address: str) -> str | None:
    """What is wrong with a Dask scheduler's address, or None."""
    scheme, separator, rest = address.rpartition("://")
    host, colon, port = rest.rpartition(":")
    if separator and scheme not in SCHEDULERS:
        return f"unknown protocol '{scheme[:40]}'{suggestion(scheme, SCHEDULERS)}"
    if scheme != "inproc" and not (colon and host and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        return f"must be the address of a Dask scheduler, such as tcp://host:8786 (got {shown(address)})"
    return None


BUDGET = Section(
    {
        "trials": Field(Whole(1, MAX_TRIALS), "Total number of trials, however often the study is run."),
        "time": Field(duration(), "No new trial after this long, such as 10m or 2h."),
        "plateau": Field(
            Section(
                {
                    "trials": Field(Whole(1, MAX_TRIALS), "As many trials in a row without improvement."),
                    "min_delta": Field(Real(0), "What counts as an improvement."),
                },
                "{trials: 20, min_delta: 0.001}",
                required=("trials",),
            ),
            "End the study when it stops improving.",
        ),
        "failures": Field(FailuresReader(), "End the study when more trials than this failed: 10, or 20%."),
    },
    "{trials: 60, time: 10m}",
    hints={"n_trials": ": write trials", "timeout": ": write time"},
)

RESOURCES = Section(
    {
        "ranks": Field(Whole(1, 100_000), "Processes of one trial."),
        "gpus_per_rank": Field(Either("auto", Real(0, 1024)), "GPUs a process holds; auto: one where there are any."),
        "cpus_per_rank": Field(Whole(1, 100_000), "CPUs a process holds."),
        "cpus": Field(Whole(1, 100_000), "The same as cpus_per_rank."),
        "hosts": Field(Word(("one", "any")), "one: all processes of a trial on one host; any: on as few as possible."),
        "memory": Field(size(), "Memory a process may use, such as 2GB."),
        "time": Field(duration(), "An attempt is stopped after this long."),
        "no_progress": Field(duration(), "An attempt is stopped after this long without a report."),
        "grace": Field(duration(zero=True), "Between asking a process to stop and killing it."),
    },
    "{ranks: 1, cpus: 2, memory: 2GB}",
    hints={"gpus": ": write gpus_per_rank", "timeout": ": write time"},
)


def wrong_pattern(pattern: str) -> str | None:
    """What is wrong with a regular expression, or None."""
    try:
        re.compile(pattern)
    except re.error as error:
        place = "" if error.pos is None else f" at character {error.pos + 1}"
        return f"is no regular expression: {error.msg}{place} (got {shown(pattern)})"
    except (RecursionError, OverflowError) as error:
        return f"is no regular expression: {error} (got {shown(pattern)})"
    return None


def wrong_place(url: str) -> str | None:
    """What is wrong with a URL of checkpoints, or None; whether fsspec knows it is seen where it is used."""
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or not rest.strip("/"):
        return f"must be a URL such as s3://bucket/prefix or file:///shared/checkpoints (got {shown(masked(url))})"
    return None


POLICY = Section(
    {
        "pattern": Field(Text("a regular expression", wrong_pattern), "Searched in each of an attempt's last lines."),
        "action": Field(
            Word(("dont_retry", "exclude_host")),
            "dont_retry: the trial fails for good; exclude_host: as if lost, and it avoids that host from now on.",
        ),
    },
    "{pattern: 'ECC error', action: exclude_host}",
    required=("pattern", "action"),
)

RETRY = Section(
    {
        "max": Field(Whole(0, 1000), "How many more attempts a trial gets."),
        "on": Field(Words(RETRIED), "After which endings; lost is the infrastructure's fault."),
        "exclude_host_after": Field(
            Whole(0, 1000), "A trial avoids a host after as many losses there, the study after twice as many; 0: never."
        ),
        "policies": Field(Sections(POLICY), "What follows from what a failed attempt said; the first match counts."),
    },
    "{max: 2, on: [lost, oom]}",
)

CHECKPOINTS = Section(
    {
        "url": Field(Text("a URL such as s3://bucket/prefix", wrong_place), "Where, by fsspec; left out: on disk."),
        "keep": Field(Whole(2, 1000), "How many of the newest stay, a trial."),
        "keep_best": Field(Flag(), "Whether the one with the best reported value stays, too."),
        "quota": Field(size(), "Bytes that all checkpoints of the study may take, such as 10GB."),
    },
    "{keep: 2, keep_best: true, quota: 10GB}",
)

CLUSTER = Section(
    {
        "kind": Field(Word(("local", "address")), "local: workers on this machine; address: an existing Dask cluster."),
        "workers": Field(Whole(1, 100_000), "How many workers."),
        "address": Field(Text("an address such as tcp://host:8786", wrong_address), "The Dask scheduler."),
    },
    "{kind: local, workers: 4}",
)

STUDY = Section(
    {
        "name": Field(Name(), "The study's name in the database; the file's name if not given."),
        "objective": Field(ObjectiveReader(), "What is run: path/to/file.py:function or package.module:function."),
        "command": Field(CommandReader(), "In place of an objective, a program and its arguments."),
        "metric": Field(MetricReader(), "What the objective returns, and which values are good."),
        "parameters": Field(ParametersReader(), "What is searched. Left out, the objective suggests its own."),
        "sampler": Field(ComponentReader("sampler", SAMPLERS), "What proposes parameters."),
        "pruner": Field(ComponentReader("pruner", PRUNERS), "What stops unpromising trials early."),
        "budget": Field(BUDGET, "When the study ends."),
        "resources": Field(RESOURCES, "What one trial holds and may use."),
        "retry": Field(RETRY, "Which trials get another attempt."),
        "checkpoints": Field(CHECKPOINTS, "Where checkpoints go and which of them stay."),
        "storage": Field(StorageReader(), "The database: its URL, or {url, password_file}."),
        "cluster": Field(CLUSTER, "Where trials run."),
        "seed": Field(Whole(0, MAX_SEED), "Makes the sampler repeatable."),
        "ask_ahead": Field(Whole(0, 1000), "How many trials may be proposed before a slot is free for them."),
        "directory": Field(Text("a directory's path"), "Logs and checkpoints go to <directory>/<name>/."),
    },
    "{objective: train.py:train, metric: {name: accuracy, goal: maximize}, budget: {trials: 20}}",
    hints={
        "direction": ": write metric: {goal: ...}",
        "n_trials": ": write budget: {trials: ...}",
        "constraints": ": call trial.set_constraint in the objective",
    },
)
