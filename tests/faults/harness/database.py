"""Reads a study for the checker: trials by stock Optuna, the rest by plain SQL, nothing by hpsearch."""

import sqlite3
from typing import Any

import optuna
import sqlalchemy as sa

from harness.checker import Database, TrialRow

# What the tables must satisfy even where a damaged index would hide it: no duplicate, no orphan.
UNIQUE = {
    "trials": "study_id, number",
    "trial_params": "trial_id, param_name",
    "trial_values": "trial_id, objective",
    "trial_intermediate_values": "trial_id, step",
    "hpsearch_attempt": "study_id, trial, attempt",
    "hpsearch_metric": "study_id, trial, attempt, step, name",
    "hpsearch_event": "study_id, token, serial",
}
OWNED = {
    "trial_params": ("trial_id", "trials"),
    "trial_values": ("trial_id", "trials"),
    "trial_intermediate_values": ("trial_id", "trials"),
    "trials": ("study_id", "studies"),
    "hpsearch_attempt": ("study_id", "studies"),
}


def engine_of(url: str) -> sa.Engine:
    """An engine for a look at the database."""
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)


def read_database(url: str, name: str = "standard") -> Database:
    """All of a study."""
    engine = engine_of(url)
    storage = optuna.storages.RDBStorage(
        engine.url.render_as_string(hide_password=False), engine_kwargs={"poolclass": sa.NullPool}
    )
    try:
        trials = optuna.load_study(study_name=name, storage=storage).trials
    finally:
        storage.remove_session()
        storage.engine.dispose()
    with engine.connect() as connection:
        metrics = _rows(connection, "SELECT trial, attempt, step, name, value FROM hpsearch_metric")
        return Database(
            trials=[
                TrialRow(
                    number=trial.number,
                    state=trial.state.name,
                    values=tuple(trial.values or ()),
                    params=trial.params,
                    steps=trial.intermediate_values,
                )
                for trial in trials
            ],
            attempts=_rows(connection, "SELECT trial, attempt, state, cause FROM hpsearch_attempt"),
            metrics={tuple(row.values())[:4]: row["value"] for row in metrics},
            events=_rows(connection, "SELECT token, serial, kind, trial FROM hpsearch_event ORDER BY event_id"),
            faults=_faults(connection),
        )


def dump(url: str) -> dict[str, list[Any]]:
    """All rows of all tables, to be compared with another dump."""
    engine = engine_of(url)
    with engine.connect() as connection:
        tables = sorted(sa.inspect(connection).get_table_names())
        return {table: sorted(map(str, connection.execute(sa.text(f"SELECT * FROM {table}")))) for table in tables}


def holder_age_s(url: str) -> float | None:
    """How old the coordinator's heartbeat is, on the database's clock; None while there is none."""
    engine = engine_of(url)
    clock = "extract(epoch from clock_timestamp())"
    if engine.dialect.name == "sqlite":
        clock = "(julianday('now') - 2440587.5) * 86400.0"
    with engine.connect() as connection:
        age = connection.scalar(sa.text(f"SELECT {clock} - heartbeat FROM hpsearch_coordinator"))
        return None if age is None else float(age)


def in_transaction(url: str) -> bool:
    """Whether a coordinator is in the middle of a transaction."""
    engine = engine_of(url)
    if engine.dialect.name == "sqlite":
        database = sqlite3.connect(str(engine.url.database), timeout=0, isolation_level=None)
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
        finally:
            database.close()
        return False
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hpsearch' AND xact_start IS NOT NULL"
    with engine.connect() as connection:
        return bool(connection.scalar(sa.text(query)))


def _rows(connection: sa.Connection, query: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(sa.text(query)).mappings()]


def _faults(connection: sa.Connection) -> list[str]:
    found: list[str] = []
    if connection.dialect.name == "sqlite":
        found += [str(row[0]) for row in connection.execute(sa.text("PRAGMA integrity_check")) if row[0] != "ok"]
        found += [f"orphan {tuple(row)}" for row in connection.execute(sa.text("PRAGMA foreign_key_check"))]
    else:
        for setting in ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"):
            connection.execute(sa.text(f"SET {setting} = off"))
    for table, columns in UNIQUE.items():
        query = f"SELECT {columns}, count(*) FROM {table} GROUP BY {columns} HAVING count(*) > 1"
        found += [f"{table} has {tuple(row)}" for row in connection.execute(sa.text(query))]
    for table, (column, owner) in OWNED.items():
        query = f"SELECT {column} FROM {table} WHERE {column} NOT IN (SELECT {column} FROM {owner})"
        found += [f"{table} has an orphan of {column} {row[0]}" for row in connection.execute(sa.text(query))]
    return found
