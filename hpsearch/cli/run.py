"""``hpsearch run``: reads the study, hands it to the coordinator, shows what happens."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from hpsearch import passwords
from hpsearch.cli.options import Invocation, holds_others, unlock, where_options
from hpsearch.errors import HpsearchError

if TYPE_CHECKING:
    from hpsearch.launcher import LauncherProcess
    from hpsearch.spec import StudySpec


Study = Annotated[
    str, typer.Argument(metavar="STUDY", help="Study file, or objective: file.py:function, package.module:function.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides of the study file: parameters.lr.max=0.1")
]
Storage = Annotated[
    str | None, typer.Option(metavar="URL", help="Database: sqlite:///studies.db, postgresql://user@host/db.")
]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the study in the database.")]
Direction = Annotated[str | None, typer.Option(metavar="minimize|maximize", help="Goal of the metric.")]
Trials = Annotated[int | None, typer.Option(metavar="N", help="Trials in total, those of earlier runs counted.")]
Timeout = Annotated[str | None, typer.Option(metavar="TIME", help="Longest time of this run: 90s, 10m, 2h30m.")]
Workers = Annotated[int | None, typer.Option(metavar="N", help="Local Dask workers to start.")]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="An existing Dask scheduler to run on.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Seed of the sampler.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Delete the study of this name and start over.")]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Replace whoever runs this study at this moment, after asking.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="The answer to what --take-over asks.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run; start and write nothing.")]
Plain = Annotated[bool, typer.Option("--plain", help="Plain lines instead of the live view.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object an event on stdout, the rest on stderr.")]


def run(
    context: typer.Context,
    study: Study,
    overrides: Overrides = None,
    storage: Storage = None,
    name: Name = None,
    direction: Direction = None,
    trials: Trials = None,
    timeout: Timeout = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    seed: Seed = None,
    fresh: Fresh = False,
    take_over: TakeOver = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Search, or go on with a search.

    The same command continues where it was left: what is finished stays, what was cut off runs again.

    Exit codes: 0 budget or target reached, 2 usage or study file, 3 no trial succeeded, 4 too many failures,
    5 cluster or storage out of reach, 130 interrupted and resumable.
    """
    from hpsearch.spec import load_study

    passwords.withdraw()  # before the first child process, and before this one stays for hours
    options: dict[str, object] = {
        "storage": storage,
        "name": name,
        "metric.goal": direction,
        "budget.trials": trials,
        "budget.time": timeout,
        "cluster.workers": workers,
        "cluster.address": scheduler,
        "seed": seed,
    }
    given = {key: value for key, value in options.items() if value is not None}
    spec = load_study(study, overrides or (), options=given)
    if spec.password_file is not None:
        unlock(spec.storage, spec.password_file)
    if dry_run:
        from hpsearch.cli.dry_run import plan

        for line in plan(spec, fresh=fresh):
            typer.echo(line)
        return
    take_over = take_over and _may_take_over(spec, yes=yes)
    invocation = context.obj if isinstance(context.obj, Invocation) else Invocation(tuple(sys.argv[1:]))
    with _warming(spec) as launcher:
        raise typer.Exit(_search(spec, invocation, launcher, fresh=fresh, take_over=take_over, plain=plain, json=json))


def _may_take_over(spec: "StudySpec", *, yes: bool) -> bool:
    """Whether there is somebody to take the study from, and the person at the terminal wants that."""
    from hpsearch.errors import NoSuchStudy, StorageUnreachable, UsageError
    from hpsearch.views import open_views

    try:
        with open_views(spec.storage) as views:
            holder = views.study(spec.name).holder
    except (NoSuchStudy, StorageUnreachable):  # no such study yet; what else is wrong is said when it is opened
        return False
    if not holder or yes:
        return bool(holder)
    if not sys.stdin.isatty():
        raise UsageError(f"study {spec.name!r} is being run by {holder}: --take-over asks first, --yes answers")
    if not typer.confirm(
        f"study {spec.name!r} is being run by {holder}. Replace it? What it runs now starts again", err=True
    ):
        raise typer.Exit(5)
    return True


@contextmanager
def _warming(spec: "StudySpec") -> Iterator["LauncherProcess | None"]:
    """The launcher for a local cluster; it warms up while this process still imports Dask and the database."""
    if spec.cluster.kind != "local":
        yield None
        return
    from hpsearch.launcher import warm_up

    launcher = warm_up(spec.objective.as_message(), spec.resources.cpus_per_rank)
    try:
        yield launcher
    finally:
        launcher.close()


def _search(
    spec: "StudySpec",
    invocation: Invocation,
    launcher: "LauncherProcess | None",
    *,
    fresh: bool,
    take_over: bool,
    plain: bool,
    json: bool,
) -> int:
    import logging

    from hpsearch.console import Hints, choose_mode, open_console

    mode = choose_mode(plain=plain, json=json, stream=sys.stdout, term=os.environ.get("TERM", ""))
    name = spec.name if holds_others(spec.storage, spec.name) else None
    hints = Hints(
        study=spec.name,
        program=invocation.program,
        where=where_options(spec.storage, name),
        storage=spec.storage,
    )
    resume = invocation.resume_command()
    console = open_console(mode, hints)
    try:
        with console:
            from hpsearch.api import run_study

            logging.getLogger("optuna").setLevel(logging.WARNING)  # its news of each trial are told here already
            outcome = run_study(
                spec, listener=console, fresh=fresh, take_over=take_over, resume_command=resume, launcher=launcher
            )
    except HpsearchError:
        if console.begun and not console.finished:
            typer.echo(f"resume: {resume}", err=True)
        raise
    finally:
        _say_fault(console.fault)
    return outcome.exit_code


def _say_fault(fault: Exception | None) -> None:
    if fault is not None and not isinstance(fault, OSError):
        typer.echo(f"hpsearch: the view failed, not the search: {type(fault).__name__}: {fault}", err=True)
