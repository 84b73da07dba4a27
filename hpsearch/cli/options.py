"""What several verbs share: their options, the command line as it was typed, and how a study is found.

Even small modules are imported where they are used: ``--help`` needs none of them.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpsearch import passwords
from hpsearch.errors import UsageError

if TYPE_CHECKING:
    from hpsearch.views import StudySummary, Views

DEFAULT_STORAGE = "sqlite:///studies.db"

StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Database of the study. [default: $HPSEARCH_STORAGE, else sqlite:///studies.db]",
        show_default=False,
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", "--study", metavar="NAME", help="The study; not needed where there is only one."),
]


@dataclass(frozen=True, slots=True)
class Invocation:
    """The command line as it was typed, without the program."""

    arguments: tuple[str, ...]
    program: str = "hpsearch"

    def resume_command(self) -> str:
        """The same command, ready to paste: without ``--fresh`` and ``--take-over``, and without passwords."""
        import shlex

        kept: list[str] = []
        for n, argument in enumerate(self.arguments):
            if argument == "--":
                kept += self.arguments[n:]
                break
            if argument not in ("--fresh", "--take-over", "--yes", "-y"):
                kept.append(argument)
        return " ".join([self.program, shlex.join(passwords.masked(argument, "") for argument in kept)]).rstrip()


def program_name() -> str:
    """How this program was started, as a person would type it again."""
    return "python -m hpsearch" if Path(sys.argv[0]).name == "__main__.py" else "hpsearch"


def find_storage(given: str | None) -> str:
    """The database to look at: the option, the environment, or ``studies.db`` where it is.

    Raises:
        UsageError: none of the three.
    """
    url = given or os.environ.get("HPSEARCH_STORAGE")
    if url:
        if file := os.environ.get(passwords.FILE):
            unlock(url, file)
        return url
    if Path("studies.db").exists():
        return DEFAULT_STORAGE
    raise UsageError(
        "no studies.db in this directory: give --storage URL, or set HPSEARCH_STORAGE (`hpsearch run` makes a database)"
    )


def unlock(url: str, file: str) -> None:
    """Read the password of a database from a file; a warning where others can read it too. UsageError."""
    if warning := passwords.read_file(passwords.bare(url), file):
        typer.echo(f"hpsearch: warning: {warning}", err=True)


def find_study(views: "Views", name: str | None, *, running_first: bool = False) -> "StudySummary":
    """The study of that name, or the only one; with ``running_first``, the only one that runs.

    Raises:
        NoSuchStudy: no such name, or no study at all.
        UsageError: several studies and no name.
    """
    if name is not None:
        return views.study(name)
    studies = views.studies()
    if running_first:
        running = [study for study in studies if study.running]
        studies = running if len(running) == 1 else studies
    if len(studies) == 1:
        return studies[0]
    if not studies:
        raise UsageError("this storage holds no study yet: `hpsearch run` begins one")
    raise UsageError(f"this storage holds {len(studies)} studies ({names(studies)}): choose one by --name")


def names(studies: Sequence["StudySummary"], most: int = 8) -> str:
    """``a, b, c and 4 more``."""
    shown = ", ".join(study.name for study in studies[:most])
    return f"{shown} and {len(studies) - most} more" if len(studies) > most else shown


def where_options(storage: str | None, name: str | None) -> str:
    """The options with which the look verbs find this study again from the same directory and environment."""
    import shlex

    parts = []
    if storage is not None and storage != (os.environ.get("HPSEARCH_STORAGE") or DEFAULT_STORAGE):
        parts += ["--storage", passwords.masked(storage, "")]
    if name is not None:
        parts += ["--name", name]
    return shlex.join(parts)


def holds_others(storage: str, name: str) -> bool:
    """Whether the look verbs would need ``--name`` to find this study: other studies share its database.

    Asked before anything heavy is imported, so only an SQLite file is really looked into.
    """
    scheme, mark, path = storage.partition(":///")
    if not mark or not scheme.startswith("sqlite"):
        return True
    if not Path(path).is_file():
        return False
    import sqlite3
    from contextlib import closing
    from urllib.parse import quote

    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=1.0)) as database:
            others = database.execute("SELECT 1 FROM studies WHERE study_name <> ? LIMIT 1", (name,)).fetchone()
    except sqlite3.Error:
        return False  # no such table yet; whatever else is wrong is found when the storage is opened
    return others is not None
