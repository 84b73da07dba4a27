"""Verbs that ask something of a running search: ``stop``."""

from typing import Annotated

import typer

from hpsearch.cli.options import NameOption, StorageOption, find_storage, find_study


def stop(
    trial: Annotated[
        int | None, typer.Argument(metavar="[TRIAL]", help="Stop this trial for good, not the search.", min=0)
    ] = None,
    storage: StorageOption = None,
    name: NameOption = None,
) -> None:
    """Let a running search end, or a trial.

    No new trials start; running ones stop at their next report, and resume when the search is run again.
    """
    from hpsearch.storage import send_request
    from hpsearch.views import open_views

    url = find_storage(storage)
    with open_views(url) as views:
        study = find_study(views, name, running_first=True)
    if not study.running:
        typer.echo(f"{study.name} is not running: nothing to stop")
        return
    if trial is None:
        send_request(url, study.name, "stop", {})
        typer.echo(f"asked {study.name} to stop; `hpsearch status -w` shows when it has")
    else:
        send_request(url, study.name, "stop_trial", {"trial": trial})
        typer.echo(f"asked {study.name} to stop trial {trial}")
