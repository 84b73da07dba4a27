"""What a study file means, once read: frozen values with every default filled in.

Past :func:`hpsearch.spec.load_study` there are no dicts of options and no second validation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from hpsearch import passwords
from hpsearch.spec.command import Command

if TYPE_CHECKING:
    from hpsearch.space import Space

Goal = Literal["minimize", "maximize"]
RetryCause = Literal["lost", "oom", "timeout", "error"]

DEFAULT_STORAGE = "sqlite:///studies.db"
DEFAULT_DIRECTORY = "runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The user's training function and where it is found, or a program."""

    kind: Literal["file", "module", "pickle", "command"]
    target: str  # absolute path of a file, or a module's dotted name; "" for a pickle
    function: str
    blob_base64: str = ""  # the function, by cloudpickle; only of kind "pickle"
    command: Command | None = None  # only of kind "command"

    @property
    def label(self) -> str:
        """For people: ``digits.py:train``."""
        if self.command is not None:
            return self.command.label
        if self.kind == "pickle":
            return self.function
        return f"{PurePath(self.target).name}:{self.function}"

    def as_message(self) -> dict[str, str]:
        """As launchers and ranks are told of it."""
        return {"kind": self.kind, "target": self.target, "function": self.function, "blob": self.blob_base64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One value that the objective returns."""

    name: str = "value"
    goal: Goal = "minimize"
    target: float | None = None  # the study ends once a trial is at least this good
    pattern: str = ""  # a regular expression with a group "value": how a command prints it


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A sampler or a pruner: a short name or ``module:Class``, and its arguments as plain data."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        given = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return f"{self.name}({given})" if given else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau:
    """Stop when this many trials in a row have not improved the best value by more than ``min_delta``."""

    trials: int
    min_delta: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLimit:
    """Stop with exit code 4 when more trials than this have failed; exactly one of the two is set."""

    count: int | None = None
    percent: float | None = None  # of the finished trials, 0 to 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When the study ends. ``trials`` is the total over all runs of the command."""

    trials: int | None = None
    time_s: float | None = None
    plateau: Plateau | None = None
    failures: FailureLimit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one attempt of a trial holds and may use."""

    ranks: int = 1
    gpus_per_rank: float | Literal["auto"] = "auto"
    cpus_per_rank: int = 1
    hosts: Literal["one", "any"] = "any"  # whether all ranks of a trial must sit on one
    memory_bytes: int | None = None  # a rank
    time_s: float | None = None  # an attempt
    no_progress_s: float | None = None  # between two reports
    grace_s: float = 10.0  # between asking a rank to stop and killing it


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPolicy:
    """What follows when an attempt failed and one of its last lines matches."""

    pattern: str  # a regular expression of Python's, searched in each line
    action: Literal["dont_retry", "exclude_host"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Which endings earn a trial another attempt, and how many more it gets."""

    max: int = 2
    on: frozenset[RetryCause] = frozenset({"lost"})
    exclude_host_after: int = 2  # losses of a trial on a host, after which it avoids it; 0: never
    policies: tuple[LogPolicy, ...] = ()  # the first that matches counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Where checkpoints go and which of them stay."""

    url: str | None = None  # of fsspec; None: each trial's own directory
    keep: int = 2  # of the newest, a trial
    keep_best: bool = True
    quota_bytes: int | None = None  # of the whole study


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """Where attempts run: Dask workers started here, or those of the scheduler at ``address``."""

    kind: Literal["local", "address"] = "local"
    workers: int | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A whole study. ``origins`` maps each dotted key to where its value came from."""

    name: str
    objective: Objective
    metrics: tuple[Metric, ...]  # at least one
    parameters: "Space"
    sampler: Component
    pruner: Component
    budget: Budget = field(default_factory=Budget)
    resources: Resources = field(default_factory=Resources)
    retry: Retry = field(default_factory=Retry)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    storage: str = DEFAULT_STORAGE  # without the password: see hpsearch.passwords
    password_file: str | None = None
    cluster: ClusterSpec = field(default_factory=ClusterSpec)
    seed: int | None = None
    ask_ahead: int | None = None  # trials proposed before a slot is free for them; None: what suits the sampler
    directory: str = DEFAULT_DIRECTORY  # files of the study go to <directory>/<name>/
    source_text: str = ""  # the YAML as read; "" without a study file
    origins: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage", passwords.bare(self.storage))
