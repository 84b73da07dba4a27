"""The tables: Optuna's own by their Core names, ours beside them, and how both are made once.

Optuna's tables keep what Optuna's tools read. Ours, prefixed ``hpsearch_``, keep every attempt, all metrics, the
reasons, who coordinates the study and what people ask of it. They hang on ``studies.study_id``.
"""

import fcntl
import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import Column, Double, Integer, String, Table, Text, UniqueConstraint

from hpsearch.errors import StorageUnreachable
from hpsearch.events import MAX_NAME
from hpsearch.storage.connect import Location

VERSION = "3"  # the newest of hpsearch/database/migrations
NAME_LENGTH = MAX_NAME  # Optuna's longest indexed string
_ADVISORY_LOCK = 0x68707365  # "hpse"

STUDIES: Table = models.StudyModel.__table__
DIRECTIONS: Table = models.StudyDirectionModel.__table__
STUDY_USER_ATTRS: Table = models.StudyUserAttributeModel.__table__
STUDY_SYSTEM_ATTRS: Table = models.StudySystemAttributeModel.__table__
TRIALS: Table = models.TrialModel.__table__
PARAMS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
INTERMEDIATE: Table = models.TrialIntermediateValueModel.__table__
TRIAL_USER_ATTRS: Table = models.TrialUserAttributeModel.__table__
TRIAL_SYSTEM_ATTRS: Table = models.TrialSystemAttributeModel.__table__
HEARTBEATS: Table = models.TrialHeartbeatModel.__table__

OF_A_TRIAL = (PARAMS, VALUES, INTERMEDIATE, TRIAL_USER_ATTRS, TRIAL_SYSTEM_ATTRS, HEARTBEATS)
OF_A_STUDY = (DIRECTIONS, STUDY_USER_ATTRS, STUDY_SYSTEM_ATTRS)

metadata = sa.MetaData()


def _study_column(*, primary: bool) -> Column[int]:
    # Optuna's tools delete studies: what is ours has to go along, and must not stop them.
    parent = sa.ForeignKey(STUDIES.c.study_id, ondelete="CASCADE")
    return Column("study_id", Integer, parent, primary_key=primary, nullable=False, autoincrement=False)


SCHEMA = Table("hpsearch_version", metadata, Column("version_num", String(32), primary_key=True))

RECORDS = Table(
    "hpsearch_study",
    metadata,
    _study_column(primary=True),
    Column("name", String(NAME_LENGTH), nullable=False),
    Column("spec_text", Text, nullable=False),
    Column("space_json", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("directory", Text, nullable=False),
    Column("version", String(64), nullable=False),  # of hpsearch
    Column("created", Double, nullable=False),  # unix seconds, as every time in our tables
)

COORDINATORS = Table(
    "hpsearch_coordinator",
    metadata,
    _study_column(primary=True),
    Column("token", Integer, nullable=False),  # grows with every coordinator of the study
    Column("hold", String(32), nullable=False),  # tells apart what one process opened, gave up and opened again
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=True),  # NULL: released
    Column("process_started", Double, nullable=False),  # tells a reused pid from the holder's
    Column("started", Double, nullable=False),
    Column("heartbeat", Double, nullable=False),  # on the database's clock
    Column("machine", Text),  # tells apart hosts and containers of one name; NULL: by an hpsearch that kept none
    Column("serial", Integer, nullable=False, server_default="0"),  # of this coordinator's last transaction
)

ATTEMPTS = Table(
    "hpsearch_attempt",
    metadata,
    _study_column(primary=True),
    Column("trial", Integer, primary_key=True, autoincrement=False),  # its number
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("cause", String(32)),
    Column("reason", Text),
    Column("worker", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("pid", Integer),
    Column("started", Double, nullable=False),
    Column("ended", Double),
    Column("exit_code", Integer),
    Column("log_path", Text, nullable=False),
    Column("log_tail", Text, nullable=False),
    Column("traceback", Text, nullable=False),
)

METRICS = Table(
    "hpsearch_metric",
    metadata,
    _study_column(primary=True),
    Column("trial", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("name", String(NAME_LENGTH), primary_key=True),
    Column("value", Double),  # NULL: NaN, which SQLite does not keep
)

EVENTS = Table(
    "hpsearch_event",
    metadata,
    Column("event_id", Integer, primary_key=True),
    _study_column(primary=False),
    Column("token", Integer, nullable=False),  # with serial: written once, however often the write is repeated
    Column("serial", Integer, nullable=False),
    Column("time", Double, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("trial", Integer),
    Column("attempt", Integer),
    Column("text", Text, nullable=False),
    Column("fields", Text, nullable=False),  # JSON
    UniqueConstraint("study_id", "token", "serial"),
)

REQUESTS = Table(
    "hpsearch_request",
    metadata,
    Column("request_id", Integer, primary_key=True),
    _study_column(primary=False),
    Column("kind", String(64), nullable=False),
    Column("arguments", Text, nullable=False),  # JSON
    Column("created", Double, nullable=False),
    Column("handled", Double),
    sa.Index("hpsearch_request_open", "study_id", "handled"),
)

OURS_OF_A_STUDY = (RECORDS, COORDINATORS, ATTEMPTS, METRICS, EVENTS, REQUESTS)


@contextmanager
def alone(location: Location, engine: sa.Engine) -> Iterator[None]:
    """Open a study one at a time: concurrent first connects crash in Optuna ("table already exists")."""
    if location.path is None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.select(sa.func.pg_advisory_lock(_ADVISORY_LOCK)))
            try:
                yield
            finally:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(_ADVISORY_LOCK)))
        return
    # The directory and not the file: closing another descriptor of the file would drop SQLite's locks on it.
    descriptor = os.open(location.path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def prepare(location: Location, engine: sa.Engine) -> None:
    """Make the tables where there are none, while ``alone``; StorageUnreachable if they are of another version."""
    with engine.begin() as connection:
        if version(connection) is not None:
            check_version(location, connection)
    with optuna_storage(location):
        pass
    with engine.begin() as connection:
        metadata.create_all(connection)
        if version(connection) is None:
            connection.execute(SCHEMA.insert(), {"version_num": VERSION})


def version(connection: sa.Connection) -> str | None:
    """That of our tables, or None where there are none."""
    if not sa.inspect(connection).has_table(SCHEMA.name):
        return None
    return connection.scalar(sa.select(SCHEMA.c.version_num))


def check_version(location: Location, connection: sa.Connection) -> None:
    """StorageUnreachable if our tables were made by a newer hpsearch, or by an older one."""
    found = connection.scalar(sa.select(SCHEMA.c.version_num))
    if found is None or found == VERSION:
        return
    refuse_newer(location, found)
    raise StorageUnreachable(
        f"{location.label}: its tables have version {found}, this hpsearch needs {VERSION}: "
        f"hpsearch db upgrade --storage {shlex.quote(location.bare)}"
    )


def refuse_newer(location: Location, found: str) -> None:
    """StorageUnreachable if a version of our tables is one that this hpsearch does not know."""
    if not (found.isdecimal() and int(found) <= int(VERSION)):
        raise StorageUnreachable(
            f"{location.label}: its tables have version {found}, this hpsearch knows {VERSION}: pip install -U hpsearch"
        )


def is_prepared(connection: sa.Connection) -> bool:
    """Whether both Optuna's tables and ours are here."""
    names = sa.inspect(connection).get_table_names()
    return STUDIES.name in names and SCHEMA.name in names


@contextmanager
def optuna_storage(location: Location, *, skip_compatibility_check: bool = False) -> Iterator[RDBStorage]:
    """Optuna's own storage over the same database; it makes Optuna's tables where there are none."""
    url = location.url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    level = logging.getLogger("alembic").level
    connect = {"timeout": 30} if location.path is not None else {}
    try:
        storage = RDBStorage(
            url,
            engine_kwargs={"connect_args": connect, "poolclass": sa.NullPool},
            skip_compatibility_check=skip_compatibility_check,
        )
    except RuntimeError as error:  # Optuna's word for a schema that is not its own
        upgrade = f"hpsearch db upgrade --storage {shlex.quote(location.bare)}"
        remedy = "pip install -U optuna" if "pip install" in str(error) else upgrade
        raise StorageUnreachable(
            f"{location.label}: its tables were made by another Optuna than {optuna.__version__}: {remedy}"
        ) from None
    finally:
        logging.getLogger("alembic").setLevel(level)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
