"""The record of attempts, and a study's own: rows of our tables as values."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import sqlalchemy as sa

from hpsearch.storage import schema


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One execution of a trial, as far as it is known."""

    trial: int  # its number
    attempt: int
    state: str  # "running" or "ended"
    cause: str | None = None
    reason: str | None = None  # one line
    worker: str = ""
    host: str = ""
    slot: int = 0
    pid: int | None = None
    started: float  # unix seconds
    ended: float | None = None
    exit_code: int | None = None  # negative: the signal's number
    log_path: str = ""
    log_tail: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """What hpsearch keeps of a study beside Optuna's rows."""

    spec_text: str
    space_json: str
    command: str  # that continues it
    directory: str  # of its logs and checkpoints
    version: str  # of hpsearch, last to run it


_COLUMNS = [schema.ATTEMPTS.c[field.name] for field in fields(AttemptRow)]


def attempt_row(attempt: AttemptRow) -> dict[str, Any]:
    """A row of ``hpsearch_attempt``; what a job printed may hold what no database takes."""
    return {key: clean(value) if isinstance(value, str) else value for key, value in asdict(attempt).items()}


def clean(text: str) -> str:
    """``text`` without NUL and lone surrogates."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def load_attempts(
    connection: sa.Connection, study: int, trials: Sequence[int] | None = None
) -> dict[int, list[AttemptRow]]:
    """The attempts of these trials (None: of all) by the trial's number, in their order."""
    c = schema.ATTEMPTS.c
    attempts: dict[int, list[AttemptRow]] = defaultdict(list)
    query = sa.select(*_COLUMNS).where(c.study_id == study).order_by(c.trial, c.attempt)
    if trials is not None:
        query = query.where(c.trial.in_(trials))
    for row in connection.execute(query):
        attempts[row.trial].append(AttemptRow(**row._mapping))
    return dict(attempts)


def load_record(connection: sa.Connection, study: int) -> StudyRecord | None:
    """None: the study was made by Optuna's tools and never run by hpsearch."""
    columns = [schema.RECORDS.c[field.name] for field in fields(StudyRecord)]
    row = connection.execute(sa.select(*columns).where(schema.RECORDS.c.study_id == study)).one_or_none()
    return None if row is None else StudyRecord(**row._mapping)
