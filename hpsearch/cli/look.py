"""Verbs that look at a study, while it runs or after: ``status``, ``trials``, ``best``."""

import sys
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from hpsearch.cli.options import NameOption, StorageOption, find_storage, find_study
from hpsearch.errors import UsageError

if TYPE_CHECKING:
    from hpsearch.views import Views

REDRAW_S = 1.0


class BestFormat(StrEnum):
    """How ``best`` writes the parameters."""

    yaml = "yaml"
    json = "json"
    args = "args"  # for another program's command line


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Redraw each second until the search ends.")] = False,
    storage: StorageOption = None,
    name: NameOption = None,
) -> None:
    """Show where a study stands.

    Running or not, how many trials ended how, the best one, what runs now. Several studies: a line each.
    """
    from hpsearch.cli.pages import overview, study_page
    from hpsearch.cli.table import terminal_width
    from hpsearch.views import open_views

    with open_views(find_storage(storage)) as views:
        studies = views.studies()
        if name is None and len(studies) > 1 and not watch:
            for line in overview(studies, terminal_width()):
                typer.echo(line)
            return
        study = find_study(views, name, running_first=watch)
        if watch and study.running:
            _watch(views, study.name)
            study = views.study(study.name)
        for line in study_page(study, views.trials(study.name), time.time(), terminal_width()):
            typer.echo(line)


def _watch(views: "Views", name: str) -> None:
    """Show the study until its coordinator is gone or Ctrl-C."""
    try:
        if sys.stdout.isatty():
            _redraw(views, name)
        else:
            _say_changes(views, name)
    except KeyboardInterrupt:
        return


def _redraw(views: "Views", name: str) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from hpsearch.cli.pages import study_page

    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        while (study := views.study(name)).running:
            lines = study_page(study, views.trials(name), time.time(), console.width)
            live.update(Text("\n".join(lines[: console.height - 1]), no_wrap=True), refresh=True)
            time.sleep(REDRAW_S)


def _say_changes(views: "Views", name: str) -> None:
    from hpsearch.cli.pages import count_words

    said = ""
    while (study := views.study(name)).running:
        if (words := count_words(study)) != said:
            typer.echo(f"{time.strftime('%H:%M:%S')} {words}")
            sys.stdout.flush()
            said = words
        time.sleep(REDRAW_S)


def trials(
    trial: Annotated[int | None, typer.Argument(metavar="[N]", help="One trial and its attempts.", min=0)] = None,
    json: Annotated[bool, typer.Option("--json", help="A JSON object a trial, its attempts included.")] = False,
    storage: StorageOption = None,
    name: NameOption = None,
) -> None:
    """List the trials, or show one.

    A line each: state, value, parameters, attempts, reason; with N, the chain of attempts of one trial.
    """
    from hpsearch.cli.pages import trial_json, trial_page, trials_table
    from hpsearch.cli.table import terminal_width
    from hpsearch.views import open_views

    with open_views(find_storage(storage)) as views:
        study = find_study(views, name)
        if trial is None:
            found = views.trials(study.name)
            lines = (
                trials_table(found, time.time(), terminal_width())
                if not json
                else [
                    trial_json(one, views.resumptions(study.name, one.number) if len(one.attempts) > 1 else {})
                    for one in found
                ]
            )
        else:
            one = views.trial(study.name, trial)
            if one is None:
                raise UsageError(f"{study.name} has no trial {trial}: its {study.n_trials} are numbered from 0")
            resumed = views.resumptions(study.name, trial)
            lines = [trial_json(one, resumed)] if json else trial_page(study, one, time.time(), resumed)
    for line in lines:
        typer.echo(line)


def best(
    format: Annotated[BestFormat, typer.Option("--format", help="How the parameters are written.")] = BestFormat.yaml,
    storage: StorageOption = None,
    name: NameOption = None,
) -> None:
    """Print the best parameters.

    Those that the objective saw, constants included; with several objectives, the Pareto front.
    """
    from hpsearch.cli.best import written
    from hpsearch.storage import peek
    from hpsearch.views import open_views

    url = find_storage(storage)
    with open_views(url) as views:
        study = find_study(views, name)
        found = views.best(study.name)
    front = found if isinstance(found, list) else [found] if found is not None else []
    if not front:
        typer.echo(f"hpsearch: no trial of {study.name} has succeeded yet", err=True)
        raise typer.Exit(3)
    record = peek(url, study.name)
    typer.echo(written(study, front, record.space_json if record else "", format.value), nl=False)
