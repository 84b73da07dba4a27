"""``hpsearch db copy``: studies from one database to another, row by row, with new row ids and nothing else new."""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hpsearch.errors import NoSuchStudy, StorageUnreachable, StudyHeld, UsageError
from hpsearch.storage import schema
from hpsearch.storage.connect import Location, locate, reaching, reading_engine, writing_engine
from hpsearch.storage.holder import read_holder
from hpsearch.storage.studies import find_study, insert_study, study_names

BATCH = 2_000  # rows

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied."""

    source: str  # labels
    target: str
    names: tuple[str, ...]  # as they are called in the target
    n_trials: int
    n_rows: int  # of all tables

    @property
    def words(self) -> str:
        """One line."""
        studies = f"study {self.names[0]!r}" if len(self.names) == 1 else f"{len(self.names)} studies"
        return f"copied {studies} ({self.n_trials} trials, {self.n_rows} rows) from {self.source} to {self.target}"


def copy_studies(source: str, target: str, *, name: str | None = None, as_name: str | None = None) -> Copied:
    """Copy one study, or all, as they are at one moment; the target has all of it or nothing.

    Args:
        source: URL; it is only read.
        target: URL; its tables are made where there are none.
        name: of the study; None: all of them.
        as_name: what the study is called in the target.

    Raises:
        StudyHeld: a study is being coordinated now.
        NoSuchStudy, UsageError: there is none, the target has one of that name, or the two are one database.
        StorageUnreachable: one of the two cannot serve, or its tables have another version.
    """
    here, there = locate(source), locate(target)
    if here.is_missing:
        raise StorageUnreachable(f"{here.label}: there is no such database")
    if here.path is not None and here.path == there.path:
        raise UsageError(f"{here.label} is both: a study is copied to another database")
    with _snapshot(here) as old:
        studies = _chosen(here, old, name)
        if as_name is not None and len(studies) != 1:
            raise UsageError(f"--as names one study, and {here.label} has {len(studies)}: choose one by --name")
        names = {found: as_name or found for found in studies}
        with _transaction(there) as new:
            _refuse_one_database(here, there, old, new)
            _refuse_other_optuna(here, old, new)
            _refuse_taken(there, new, list(names.values()))
            copies = [_Copy(here, old, new, row, names[found]) for found, row in studies.items()]
            for copy in copies:
                copy.run()
    n_trials, n_rows = sum(copy.n_trials for copy in copies), sum(copy.n_rows for copy in copies)
    return Copied(here.label, there.label, tuple(names.values()), n_trials, n_rows)


class _Copy:
    """One study on its way."""

    def __init__(self, here: Location, old: sa.Connection, new: sa.Connection, study: int, name: str) -> None:
        self._here = here
        self._old = old
        self._new = new
        self._study = study
        self._name = name
        self.n_trials = 0
        self.n_rows = 0

    def run(self) -> None:
        c = schema.DIRECTIONS.c
        directions = sa.select(c.direction).where(c.study_id == self._study).order_by(c.objective)
        found = list(self._old.scalars(directions))
        study = insert_study(self._new, self._name, found)
        self.n_rows += 1 + len(found)
        for table in (schema.STUDY_USER_ATTRS, schema.STUDY_SYSTEM_ATTRS):
            self._copy(table, {"study_id": study})
        trials = self._copy_trials(study)
        for table in schema.OF_A_TRIAL:
            self._copy_of_trials(table, trials)
        if not sa.inspect(self._old).has_table(schema.SCHEMA.name):
            return  # made by Optuna's tools, and never run by hpsearch
        for table in schema.OURS_OF_A_STUDY:
            changes: Row = {"study_id": study}
            if table is schema.RECORDS:
                changes["name"] = self._name
            elif table is schema.COORDINATORS:  # its token goes on growing, or later events would be taken for old ones
                changes["pid"] = None
            self._copy(table, changes)

    def _copy(self, table: sa.Table, changes: Row) -> None:
        own = _own_key(table)
        with self._batches(sa.select(table).where(table.c.study_id == self._study), table) as batches:
            for rows in batches:
                self._insert(table, [{**_without(row, own), **changes} for row in rows])

    def _copy_trials(self, study: int) -> dict[int, int]:
        trials: dict[int, int] = {}
        insert = sa.insert(schema.TRIALS).returning(schema.TRIALS.c.trial_id, sort_by_parameter_order=True)
        with self._batches(
            sa.select(schema.TRIALS).where(schema.TRIALS.c.study_id == self._study), schema.TRIALS
        ) as batches:
            for rows in batches:
                fresh = [{**_without(row, "trial_id"), "study_id": study} for row in rows]
                made = self._new.scalars(insert, fresh)
                trials.update(zip((row["trial_id"] for row in rows), made, strict=True))
                self.n_rows += len(rows)
        self.n_trials = len(trials)
        return trials

    def _copy_of_trials(self, table: sa.Table, trials: dict[int, int]) -> None:
        own = _own_key(table)
        of_study = sa.select(schema.TRIALS.c.trial_id).where(schema.TRIALS.c.study_id == self._study)
        with self._batches(sa.select(table).where(table.c.trial_id.in_(of_study)), table) as batches:
            for rows in batches:
                self._insert(table, [{**_without(row, own), "trial_id": trials[row["trial_id"]]} for row in rows])

    def _insert(self, table: sa.Table, rows: Sequence[Row]) -> None:
        self._new.execute(sa.insert(table), rows)
        self.n_rows += len(rows)

    @contextmanager
    def _batches(self, query: "sa.Select[Any]", table: sa.Table) -> Iterator[Iterator[Sequence[Row]]]:
        """Rows in the order in which they were made: Optuna reads parameters and attributes in that order."""
        ordered = query.order_by(*table.primary_key.columns).execution_options(yield_per=BATCH)

        def batches() -> Iterator[Sequence[Row]]:
            with reaching(self._here):  # what goes wrong in the loop's body is the other database's
                for rows in result.mappings().partitions():
                    yield [dict(row) for row in rows]

        with reaching(self._here):
            result = self._old.execute(ordered)
        with result:
            yield batches()


def _own_key(table: sa.Table) -> str | None:
    """The column that the database numbers by itself."""
    column = table.autoincrement_column
    return column.name if column is not None else None


def _without(row: Row, key: str | None) -> Row:
    return {name: value for name, value in row.items() if name != key}


@contextmanager
def _snapshot(location: Location) -> Iterator[sa.Connection]:
    """A connection that reads the database as it is now, whatever is written meanwhile."""
    engine = reading_engine(location)
    try:
        with reaching(location), engine.connect() as connection:
            if location.path is None:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            else:
                connection.exec_driver_sql("BEGIN")  # which Python's sqlite3 leaves out before a SELECT
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _transaction(location: Location) -> Iterator[sa.Connection]:
    engine = writing_engine(location)
    try:
        with reaching(location), schema.alone(location, engine):
            schema.prepare(location, engine)
            with engine.begin() as connection:
                yield connection
    finally:
        engine.dispose()


def _chosen(location: Location, connection: sa.Connection, name: str | None) -> dict[str, int]:
    """The rows of the studies to copy, by name."""
    known = study_names(connection)
    if name is not None and name not in known:
        raise NoSuchStudy(name, known)
    if not known:
        raise UsageError(f"{location.label}: holds no study to copy")
    ours = schema.version(connection) is not None
    if ours:
        schema.check_version(location, connection)
    studies = {}
    for found in known if name is None else (name,):
        query = sa.select(schema.STUDIES.c.study_id).where(schema.STUDIES.c.study_name == found)
        studies[found] = connection.execute(query).scalar_one()
        holder = read_holder(connection, studies[found]) if ours else None
        if holder is not None and holder.is_alive():
            raise StudyHeld(found, holder.words)
    return studies


def _refuse_one_database(here: Location, there: Location, old: sa.Connection, new: sa.Connection) -> None:
    if here.path is not None and there.path is not None:
        same = os.path.samefile(here.path, there.path)
    elif here.path is None and there.path is None:
        identity = sa.select(sa.func.pg_postmaster_start_time(), sa.func.current_database(), sa.func.current_schema())
        same = old.execute(identity).one() == new.execute(identity).one()
    else:
        same = False
    if same:
        raise UsageError(f"{here.label} and {there.label} are one database: a study is copied to another")


def _refuse_other_optuna(here: Location, old: sa.Connection, new: sa.Connection) -> None:
    version = sa.text("SELECT version_num FROM alembic_version")
    if old.scalar(version) != new.scalar(version):
        remedy = f"hpsearch db upgrade --storage {shlex.quote(here.bare)}"
        raise StorageUnreachable(f"{here.label}: its tables were made by another Optuna: {remedy}")


def _refuse_taken(there: Location, new: sa.Connection, names: Sequence[str]) -> None:
    taken = [name for name in names if find_study(new, name) is not None]
    if taken:
        listed = ", ".join(map(repr, taken))
        raise UsageError(f"{there.label} has {listed} already: choose one study by --name, another name for it by --as")
