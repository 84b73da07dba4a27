"""``hpsearch logs``: what a trial printed, from its file or, where that is elsewhere, from the database."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpsearch.cli.options import NameOption, StorageOption, find_storage, find_study
from hpsearch.errors import UsageError

if TYPE_CHECKING:
    from hpsearch.storage import AttemptRow
    from hpsearch.views import StudySummary, TrialView

FILE_POLL_S = 0.2
ATTEMPT_POLL_S = 1.0
CHUNK_BYTES = 1 << 20


def logs(
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="Number of the trial.", min=0)],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until the attempt ends.")] = False,
    attempt: Annotated[int | None, typer.Option(metavar="N", help="Which attempt. [default: the last]", min=1)] = None,
    rank: Annotated[int, typer.Option(metavar="N", help="Which rank.", min=0)] = 0,
    storage: StorageOption = None,
    name: NameOption = None,
) -> None:
    """Show what a trial printed."""
    from hpsearch.views import open_views

    with open_views(find_storage(storage)) as views:
        study = find_study(views, name)

        def find(number: int | None) -> "AttemptRow | None":
            return _choose(views.trial(study.name, trial), number)

        row = find(attempt)
        while row is None and follow and attempt is None and views.study(study.name).running:
            time.sleep(ATTEMPT_POLL_S)
            row = find(None)
        if row is None:
            raise UsageError(_no_attempt(study, trial, attempt))
        chosen = row.attempt

        def running() -> bool:
            row = find(chosen)
            return row is not None and row.state == "running" and views.study(study.name).running

        path = rank_log(Path(row.log_path), rank)
        if path.exists() or (follow and running()):
            _copy(path, running if follow else lambda: False)
        else:
            _show_stored(row, path, rank)


def _no_attempt(study: "StudySummary", trial: int, attempt: int | None) -> str:
    if trial >= study.n_trials:
        return f"{study.name} has no trial {trial}: its {study.n_trials} are numbered from 0"
    if attempt is None:
        return f"trial {trial} of {study.name} has not run yet"
    return f"trial {trial} of {study.name} has no attempt {attempt}: see `hpsearch trials {trial}`"


def _choose(trial: "TrialView | None", attempt: int | None) -> "AttemptRow | None":
    rows = trial.attempts if trial is not None else ()
    if attempt is None:
        return rows[-1] if rows else None
    return next((row for row in rows if row.attempt == attempt), None)


def rank_log(path: Path, rank: int) -> Path:
    """The log of another rank of the same attempt: beside that of rank 0, under its own number."""
    return path if rank == 0 else path.with_name(path.name.replace("rank-0", f"rank-{rank}"))


class Tail:
    """Reads what was added to a file since the last time; from its start again where it was cut."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> bytes:
        """At most :data:`CHUNK_BYTES` of what is new; empty when nothing is, or no file is there."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                self._offset = 0 if size < self._offset else self._offset
                file.seek(self._offset)
                chunk = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise UsageError(f"cannot read {self._path}: {error.strerror}") from error
        self._offset += len(chunk)
        return chunk


def _copy(path: Path, running: Callable[[], bool], sleep: Callable[[float], None] = time.sleep) -> None:
    """Write the file to stdout, and what is added while ``running()``."""
    tail = Tail(path)
    asked = time.monotonic()
    alive = running()
    while True:
        if chunk := tail.read():
            _write(chunk)
        elif not alive:
            return
        else:
            sleep(FILE_POLL_S)
        if alive and time.monotonic() - asked >= ATTEMPT_POLL_S:
            asked, alive = time.monotonic(), running()


def _show_stored(row: "AttemptRow", path: Path, rank: int) -> None:
    """What the database kept of a log whose file is on another machine, or gone."""
    if rank == 0 and row.log_tail:
        typer.echo(f"hpsearch: {path} is not on this machine ({row.host} wrote it); its last lines:", err=True)
        _write(row.log_tail.encode("utf-8", "replace"))
        if not row.log_tail.endswith("\n"):
            _write(b"\n")
        return
    kept = "nothing of it was kept in the database"
    raise UsageError(f"{path} is not on this machine ({row.host} wrote it), and {kept}")


def _write(chunk: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
