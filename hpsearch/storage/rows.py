"""Operations on the mirror, folded into as few rows as say the same, and those written by Core ``executemany``.

Every statement may be repeated: an upsert by the row's natural key, or, for new trials, a look for the number first.
So a transaction whose outcome is unknown is simply run again.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg

from hpsearch.storage import schema

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewTrial:
    """A trial that the database does not know yet. Times are naive and local, as Optuna has them in memory."""

    trial: int  # the mirror's id
    study: int  # the mirror's id
    number: int
    state: TrialState
    started: datetime | None
    completed: datetime | None


@dataclass(frozen=True, slots=True)
class TrialChanged:
    """A trial's state and times, all of them, as they are now."""

    trial: int
    state: TrialState
    started: datetime | None
    completed: datetime | None


@dataclass(frozen=True, slots=True)
class TrialWithdrawn:
    """A trial that is to be deleted with all that hangs on it."""

    trial: int


class Upsert(NamedTuple):  # by far the most of all operations, and a tuple is made quickest
    """One row of a table: made, or overwritten."""

    table: sa.Table
    owner: int  # the mirror's id of the trial or study
    row: Row  # without the owner's column


Operation = NewTrial | TrialChanged | TrialWithdrawn | Upsert


class _Shape:
    """How rows of a table are written."""

    def __init__(self, table: sa.Table, *keys: str, keep: bool = False) -> None:
        """``keys``: with the owner the row's natural key. ``keep``: a row that is there stays as it is."""
        self.key = itemgetter(*keys)
        columns = [column.name for column in table.c if column is not table.autoincrement_column]
        self.owner, *others = columns  # "trial_id" or "study_id"
        self.columns = itemgetter(*others)
        data = [] if keep else [name for name in others if name not in keys]
        only: Any = {"column_keys": columns}
        # The text, for the driver itself: SQLAlchemy's own executemany looks at each value of each row.
        self.upserts = {
            dialect.name: str(_upsert(dialect.name, table, (self.owner, *keys), data).compile(dialect=dialect, **only))
            for dialect in (sqlite.dialect(paramstyle="qmark"), cast("Any", psycopg).dialect(paramstyle="format"))
        }


def _upsert(dialect: str, table: sa.Table, keys: Sequence[str], data: Sequence[str]) -> sa.Insert:
    make = cast("Any", postgresql if dialect == "postgresql" else sqlite).insert
    statement = make(table)
    if not data:
        return cast("sa.Insert", statement.on_conflict_do_nothing(index_elements=keys))
    new = {name: statement.excluded[name] for name in data}
    return cast("sa.Insert", statement.on_conflict_do_update(index_elements=keys, set_=new))


_SHAPES: dict[sa.Table, _Shape] = {
    schema.PARAMS: _Shape(schema.PARAMS, "param_name"),
    schema.VALUES: _Shape(schema.VALUES, "objective"),
    schema.INTERMEDIATE: _Shape(schema.INTERMEDIATE, "step"),
    **{table: _Shape(table, "key") for table in (schema.STUDY_USER_ATTRS, schema.STUDY_SYSTEM_ATTRS)},
    **{table: _Shape(table, "key") for table in (schema.TRIAL_USER_ATTRS, schema.TRIAL_SYSTEM_ATTRS)},
    schema.ATTEMPTS: _Shape(schema.ATTEMPTS, "trial", "attempt"),
    schema.METRICS: _Shape(schema.METRICS, "trial", "attempt", "step", "name"),
    schema.EVENTS: _Shape(schema.EVENTS, "token", "serial", keep=True),
}


@dataclass(slots=True)
class RowIds:
    """Which row of the database an id of the mirror stands for."""

    studies: dict[int, int] = field(default_factory=dict)
    trials: dict[int, int] = field(default_factory=dict)


class Group:
    """Operations in the order they were made, folded: the last word on each row counts."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._new: dict[int, NewTrial] = {}
        self._changed: dict[int, TrialChanged] = {}
        self._withdrawn: list[int] = []
        self._rows: dict[sa.Table, dict[tuple[int, Any], tuple[int, Row]]] = defaultdict(dict)
        for operation in operations:
            self._fold(operation)

    def _fold(self, operation: Operation) -> None:
        if isinstance(operation, Upsert):
            table, owner, row = operation
            self._rows[table][owner, _SHAPES[table].key(row)] = (owner, row)
        elif isinstance(operation, NewTrial):
            self._new[operation.trial] = operation
        elif isinstance(operation, TrialWithdrawn):
            self._withdraw(operation.trial)
        else:
            self._changed[operation.trial] = operation

    def _withdraw(self, trial: int) -> None:
        self._changed.pop(trial, None)
        for table, rows in self._rows.items():
            if _SHAPES[table].owner == "trial_id":
                self._rows[table] = {key: row for key, row in rows.items() if row[0] != trial}
        if self._new.pop(trial, None) is None:
            self._withdrawn.append(trial)

    @property
    def numbers_trials(self) -> bool:
        """Whether trials get a number by them, or give one back."""
        return bool(self._new or self._withdrawn)

    def find(self, connection: sa.Connection, ids: RowIds) -> dict[int, int]:
        """The rows of the new trials, mirror id -> row id, when all of it was written and committed before."""
        return self._find_trials(
            connection, {(ids.studies[new.study], new.number): trial for trial, new in self._new.items()}
        )

    def write(self, connection: sa.Connection, ids: RowIds, *, repeated: bool) -> dict[int, int]:
        """Write all of it within the caller's transaction.

        Returns the rows of the new trials, mirror id -> row id: true only once the transaction is committed.
        ``repeated`` says that an earlier try may have been committed without our hearing of it.
        """
        if self._withdrawn:  # before others get their numbers
            rows_of = [ids.trials[trial] for trial in self._withdrawn]
            for table in (*schema.OF_A_TRIAL, schema.TRIALS):
                connection.execute(sa.delete(table).where(table.c.trial_id.in_(rows_of)))
        new = self._insert_trials(connection, ids, repeated=repeated) if self._new else {}
        changed = [
            {"row": ids.trials[trial], **_trial_columns(change)}
            for trial, change in self._changed.items()
            if trial not in self._new
        ]
        if changed:
            connection.execute(_CHANGE_TRIAL, changed)
        dialect = connection.dialect.name
        for table, rows in self._rows.items():
            if not rows:
                continue
            shape = _SHAPES[table]
            known = ids.studies if shape.owner == "study_id" else ids.trials
            fresh = {} if shape.owner == "study_id" else new
            columns = shape.columns
            connection.exec_driver_sql(
                shape.upserts[dialect],
                [(fresh[id_] if id_ in fresh else known[id_], *columns(row)) for id_, row in rows.values()],
            )
        return new

    def _insert_trials(self, connection: sa.Connection, ids: RowIds, *, repeated: bool) -> dict[int, int]:
        rows = []
        mirrored: dict[tuple[int, int], int] = {}  # (study's row, number) -> mirror id
        for trial, new in self._new.items():
            study = ids.studies[new.study]
            mirrored[study, new.number] = trial
            rows.append({"study_id": study, "number": new.number, **_trial_columns(self._changed.get(trial, new))})
        found: dict[int, int] = {}
        if repeated:
            found = self._find_trials(connection, mirrored)
            rows = [row for row in rows if mirrored[row["study_id"], row["number"]] not in found]
        if rows:
            for row_id, study, number in connection.execute(_INSERT_TRIALS, rows):
                found[mirrored[study, number]] = row_id
        return found

    @staticmethod
    def _find_trials(connection: sa.Connection, mirrored: Mapping[tuple[int, int], int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for study in {study for study, _ in mirrored}:
            first = min(number for owner, number in mirrored if owner == study)
            query = sa.select(schema.TRIALS.c.trial_id, schema.TRIALS.c.number).where(
                schema.TRIALS.c.study_id == study, schema.TRIALS.c.number >= first
            )
            for row_id, number in connection.execute(query):
                if (study, number) in mirrored:
                    found[mirrored[study, number]] = row_id
        return found


def _trial_columns(trial: NewTrial | TrialChanged) -> Row:
    return {
        "state": trial.state,
        "datetime_start": to_utc(trial.started),
        "datetime_complete": to_utc(trial.completed),
    }


_INSERT_TRIALS = sa.insert(schema.TRIALS).returning(
    schema.TRIALS.c.trial_id, schema.TRIALS.c.study_id, schema.TRIALS.c.number
)
_CHANGE_TRIAL = (
    sa.update(schema.TRIALS)
    .where(schema.TRIALS.c.trial_id == sa.bindparam("row"))
    .values({name: sa.bindparam(name) for name in ("state", "datetime_start", "datetime_complete")})
)


_OF_A_RECORD = [column.name for column in schema.RECORDS.c if column.name not in ("study_id", "created")]
UPSERT_RECORD = {
    dialect: _upsert(dialect, schema.RECORDS, ("study_id",), _OF_A_RECORD) for dialect in ("sqlite", "postgresql")
}


def to_utc(local: datetime | None) -> datetime | None:
    """Naive local time, as FrozenTrial has it, to the naive UTC of the database."""
    return None if local is None else local.astimezone(UTC).replace(tzinfo=None)


def from_utc(utc: datetime | None) -> datetime | None:
    """The way back."""
    return None if utc is None else utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def value_row(objective: int, value: float) -> Row:
    """A row of ``trial_values``."""
    stored, kind = models.TrialValueModel.value_to_stored_repr(value)
    return {"objective": objective, "value": stored, "value_type": kind.name}


def intermediate_row(step: int, value: float) -> Row:
    """A row of ``trial_intermediate_values``."""
    stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    return {"step": step, "intermediate_value": stored, "intermediate_value_type": kind.name}


def metric_row(trial: int, attempt: int, step: int, name: str, value: float) -> Row:
    """A row of ``hpsearch_metric``."""
    stored = None if math.isnan(value) else value
    return {"trial": trial, "attempt": attempt, "step": step, "name": name, "value": stored}
