"""Verbs for the keeper of a database: ``db upgrade``, ``db copy``."""

import os
from typing import Annotated

import typer

from hpsearch import passwords
from hpsearch.cli.options import DEFAULT_STORAGE, NameOption, StorageOption, unlock

db = typer.Typer(help="Look after a database: bring it to this version, copy studies.", no_args_is_help=True)


@db.command()
def upgrade(storage: StorageOption = None) -> None:
    """Make the tables of a database, or bring older ones to this version.

    Optuna's and hpsearch's; refused while a search runs in it. Doing it twice is doing it once.
    """
    url = storage or os.environ.get("HPSEARCH_STORAGE") or DEFAULT_STORAGE
    if file := os.environ.get(passwords.FILE):
        unlock(url, file)
    from hpsearch.database import upgrade as upgraded

    typer.echo(upgraded(url).words)


@db.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="URL of the database to read.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="URL of the database to write.")],
    name: NameOption = None,
    as_name: Annotated[str | None, typer.Option("--as", metavar="NEW", help="Its name in the other database.")] = None,
) -> None:
    """Copy a study, or all of them, to another database, with everything.

    All of it as it is at one moment, or nothing. `hpsearch run` with the new storage goes on with it.
    """
    if file := os.environ.get(passwords.FILE):
        for url in (source, target):
            if not url.startswith("sqlite"):
                unlock(url, file)
    from hpsearch.database import copy_studies

    typer.echo(copy_studies(source, target, name=name, as_name=as_name).words)
