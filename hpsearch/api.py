"""The two ways to run a study: :func:`run_study` for a study file, :func:`optimize` from Python."""

import base64
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import optuna

from hpsearch.cluster import borrow
from hpsearch.coordinator.announcer import Listener
from hpsearch.coordinator.inbound import Inbound
from hpsearch.coordinator.session import Outcome, Session
from hpsearch.errors import HpsearchError, UsageError
from hpsearch.events import DrainRequested, KillRequested
from hpsearch.search import build_pruner, build_sampler
from hpsearch.space import Space
from hpsearch.spec import Budget, ClusterSpec, Component, Metric, Objective, Resources, Retry, StudySpec, wrong_name
from hpsearch.storage import load_study

if TYPE_CHECKING:
    from distributed import Client

    from hpsearch.launcher import LauncherProcess

__all__ = ["Outcome", "StudyFailed", "optimize", "run_study"]


class StudyFailed(HpsearchError):
    """No trial succeeded, or the failure budget is spent; ``exit_code`` says which."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason, exit_code)
        self.reason = reason
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.reason}: see `hpsearch trials` and `hpsearch logs`"


def run_study(
    spec: StudySpec,
    *,
    listener: Listener,
    fresh: bool = False,
    take_over: bool = False,
    resume_command: str = "",
    interrupts: bool = True,
    launcher: "LauncherProcess | None" = None,
) -> Outcome:
    """Run a study to its end; what ``hpsearch run`` does between reading the file and leaving.

    Args:
        spec: from :func:`hpsearch.spec.load_study`.
        listener: hears every notice, on the coordinator's thread; must be quick.
        fresh: delete a study of that name first.
        take_over: replace a coordinator of this study that is alive; it ends, and what it runs starts again.
        resume_command: shown to people as what continues this study.
        interrupts: Ctrl-C or SIGTERM drains, the second time kills.
        launcher: warming up for this study's local cluster already; closed at the end.

    Raises:
        HpsearchError: see :meth:`hpsearch.coordinator.session.Session.run`.
    """
    session = Session(
        spec=spec,
        sampler=build_sampler(spec.sampler, seed=spec.seed, space=spec.parameters),
        pruner=build_pruner(spec.pruner),
        listener=listener,
        fresh=fresh,
        take_over=take_over,
        resume_command=resume_command,
        launcher=launcher,
    )
    with _interrupts(session.inbound, enabled=interrupts):
        return session.run()


def optimize(
    objective: Callable[..., Any],
    *,
    n_trials: int | None = None,
    timeout: float | None = None,
    direction: str | None = None,
    directions: Sequence[str] | None = None,
    client: "Client | None" = None,
    storage: str | None = None,
    study_name: str | None = None,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
    resources: Resources | None = None,
    retry: Retry | None = None,
    workers: int | None = None,
    directory: str | Path = "runs",
    listener: Listener | None = None,
) -> optuna.Study:
    """Search from Python or a notebook, each trial in a process of its own.

    Args:
        objective: an ordinary Optuna objective; it may live in ``__main__`` (it is shipped by cloudpickle).
        n_trials: total number of trials of the study, those of earlier calls counted.
        timeout: seconds; at least one of the two is needed.
        direction: "minimize" (default) or "maximize".
        directions: instead of ``direction``, for several objectives.
        client: any Dask client; without one a cluster on this machine is started and stopped.
        storage: database URL; without one the study lives in memory after the call.
        study_name: without one a name is made up.
        sampler: Optuna's own object; default TPE.
        pruner: Optuna's own object; default Median, as in Optuna.
        resources: of one trial.
        retry: which ends are worth another attempt.
        workers: number of workers of the local cluster.
        directory: where logs and checkpoints go.
        listener: hears every notice.

    Returns:
        The study, loaded from its storage.

    Raises:
        UsageError: the arguments cannot be meant.
        StudyFailed: no trial succeeded, or the first five all failed.
        HpsearchError: see :meth:`hpsearch.coordinator.session.Session.run`.
        KeyboardInterrupt: after an orderly stop.
    """
    if n_trials is None and timeout is None:
        raise UsageError("optimize() needs n_trials or timeout, or it would never end")
    if direction is not None and directions is not None:
        raise UsageError("optimize() takes direction or directions, not both")
    for wrong in _wrong(objective, n_trials, timeout, directions, study_name, sampler, pruner, workers):
        raise UsageError(wrong)
    goals = list(directions) if directions is not None else [direction or "minimize"]
    with _storage_url(storage) as url:
        spec = StudySpec(
            name=study_name or f"study-{uuid.uuid4().hex[:12]}",
            objective=_pickled(objective),
            metrics=tuple(_metric(goal, index, len(goals)) for index, goal in enumerate(goals)),
            parameters=Space(),
            sampler=Component(name=type(sampler).__name__ if sampler else "tpe"),
            pruner=Component(name=type(pruner).__name__ if pruner else "median"),
            budget=Budget(trials=n_trials, time_s=timeout),
            resources=resources or Resources(),
            retry=retry or Retry(),
            storage=url,
            cluster=ClusterSpec(workers=workers),
            directory=str(directory),
        )
        session = Session(
            spec=spec,
            sampler=sampler or build_sampler(spec.sampler, seed=None, space=spec.parameters),
            pruner=pruner or build_pruner(spec.pruner),
            listener=listener or _deaf,
            connection=borrow(client) if client is not None else None,
        )
        _run_to_success(session)
        return _loaded(spec.name, url, keep=storage is not None)


def _wrong(
    objective: object,
    n_trials: object,
    timeout: object,
    directions: Sequence[str] | None,
    study_name: str | None,
    sampler: object,
    pruner: object,
    workers: object,
) -> Iterator[str]:
    """What cannot be meant among the arguments of :func:`optimize`, which no study file has checked."""
    if not callable(objective):
        yield f"objective: must be a function of a trial (got {objective!r})"
    for name, number in (("n_trials", n_trials), ("workers", workers)):
        if number is not None and not (isinstance(number, Integral) and int(number) >= 1):
            yield f"{name}: must be a whole number of at least 1 (got {number!r})"
    if timeout is not None and not (isinstance(timeout, Real) and float(timeout) > 0):
        yield f"timeout: must be a number of seconds above 0 (got {timeout!r})"
    if directions is not None and (isinstance(directions, str) or not directions):
        yield f"directions: must be a list of 'minimize' and 'maximize' (got {directions!r})"
    if study_name is not None and (fault := wrong_name(study_name)):
        yield f"study_name: {fault}"
    for name, given, kind in (
        ("sampler", sampler, optuna.samplers.BaseSampler),
        ("pruner", pruner, optuna.pruners.BasePruner),
    ):
        if given is not None and not isinstance(given, kind):
            yield f"{name}: must be an object of one of the classes of optuna.{name}s (got {given!r})"


def _run_to_success(session: Session) -> None:
    with _interrupts(session.inbound, enabled=True):
        outcome = session.run()
    if outcome.exit_code == 130:
        raise KeyboardInterrupt(outcome.reason)
    if outcome.exit_code:
        raise StudyFailed(outcome.reason, outcome.exit_code)


def _metric(goal: str, index: int, n_goals: int) -> Metric:
    match goal:
        case "minimize" | "maximize":
            return Metric(name="value" if n_goals == 1 else f"value_{index}", goal=goal)
    raise UsageError(f"direction: must be 'minimize' or 'maximize' (got {goal!r})")


def _pickled(objective: Callable[..., Any]) -> Objective:
    try:
        blob = cloudpickle.dumps(objective)
    except Exception as error:
        raise UsageError(
            f"the objective cannot be shipped to a worker ({error}): open files, locks and connections inside it"
        ) from error
    name = getattr(objective, "__name__", type(objective).__name__)
    return Objective(kind="pickle", target="", function=name, blob_base64=base64.b64encode(blob).decode())


@contextmanager
def _storage_url(storage: str | None) -> Iterator[str]:
    if storage is not None:
        yield storage
        return
    with tempfile.TemporaryDirectory(prefix="hpsearch-") as directory:
        yield f"sqlite:///{directory}/study.db"


def _loaded(name: str, url: str, *, keep: bool) -> optuna.Study:
    if keep:
        return load_study(url, name)
    memory = optuna.storages.InMemoryStorage()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # that a copy was made is no news to the caller
    try:
        optuna.copy_study(from_study_name=name, from_storage=url, to_storage=memory)
        return optuna.load_study(study_name=name, storage=memory)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _deaf(_: Any) -> None:
    """Hears nothing."""


@contextmanager
def _interrupts(inbound: Inbound, *, enabled: bool) -> Iterator[None]:
    """The first SIGINT or SIGTERM drains, the second kills. Signals exist in the main thread only."""
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield
        return
    n_signals = 0

    def interrupted(number: int, frame: Any) -> None:
        nonlocal n_signals
        n_signals += 1
        name = signal.Signals(number).name
        if n_signals == 1:
            inbound.put(DrainRequested(reason=f"interrupted ({name})", exit_code=130))
        else:
            inbound.put(KillRequested(reason=f"interrupted twice ({name})", exit_code=130))

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
