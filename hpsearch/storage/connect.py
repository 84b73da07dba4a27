"""From a storage URL to an engine, and from a driver's error to one line that never shows the password."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from hpsearch import passwords
from hpsearch.errors import StorageUnreachable
from hpsearch.storage.mounts import network_of

BUSY_S = 5.0  # SQLite's own patience with a lock; the writer thread goes on waiting after that

# A server that is gone without a word must be noticed, by us and, for what we left open in it, by itself: a
# transaction that outlived its connection would hold the locks that the next one waits for.
_PATIENCE = {
    "application_name": "hpsearch",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "options": "-c lock_timeout=10s -c idle_in_transaction_session_timeout=30s",
}
LOCK_TIMEOUT, READ_ONLY = "55P03", "25006"  # PostgreSQL's codes
_TRANSIENT_SQLITE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,  # of the files beside the database, on a full disk
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOMEM,
    }
)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a study is kept: a checked URL."""

    url: sa.URL
    path: Path | None  # of a SQLite file, absolute

    @property
    def label(self) -> str:
        """The URL as people may see it."""
        return self.url.render_as_string(hide_password=True)

    @property
    def bare(self) -> str:
        """The URL without its password, as other tools take it."""
        url = self.url
        bare = sa.URL.create(url.drivername, url.username, None, url.host, url.port, url.database, url.query)
        return bare.render_as_string()

    @property
    def is_missing(self) -> bool:
        """No SQLite file yet. A server is never missing, only unreachable."""
        return self.path is not None and not self.path.exists()


def locate(url: str) -> Location:
    """Check a URL without opening anything; StorageUnreachable with the remedy if it cannot serve."""
    url = passwords.bare(url)
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        raise StorageUnreachable("the storage is no database URL: write it like sqlite:///studies.db") from None
    if parsed.password:  # ``bare`` did not see it, and would show it everywhere
        raise StorageUnreachable("the storage URL has a space in its password: write it as %20")
    scheme = parsed.get_backend_name()
    if scheme in ("postgresql", "postgres"):
        driver = "postgresql+psycopg" if "+" not in parsed.drivername else parsed.drivername
        location = Location(parsed.set(drivername=driver, password=passwords.of(url)), None)
        passwords.same(url, location.bare)
        return location
    if scheme != "sqlite":
        raise StorageUnreachable(f"storage scheme {scheme!r} is unknown: use sqlite or postgresql")
    if not parsed.database or parsed.database == ":memory:":
        raise StorageUnreachable("a SQLite database in memory keeps nothing: name a file, as in sqlite:///studies.db")
    if parsed.database.startswith("file:"):
        raise StorageUnreachable("SQLite's file: form is not supported: write sqlite:///path/to/studies.db")
    path = Path(parsed.database).absolute()
    location = Location(parsed.set(database=str(path)), path)
    if not path.parent.is_dir():
        raise StorageUnreachable(f"{location.label}: no directory {path.parent}: make it, or name another")
    if path.is_dir():
        raise StorageUnreachable(f"{location.label}: is a directory: name a file in it")
    return location


def writing_engine(location: Location) -> sa.Engine:
    """An engine whose every transaction may write. SQLite: WAL, and the write lock taken at the transaction's start."""
    if location.path is None:
        return _create(location)
    for place in (location.path, location.path.parent):
        if place.exists() and not os.access(place, os.W_OK):
            raise StorageUnreachable(f"{location.label}: {place} is not writable")
    if kind := network_of(location.path):
        raise StorageUnreachable(
            f"{location.label}: is on a network file system ({kind}), which SQLite does not survive: "
            "name a file on a local disk, or use postgresql://user@host/database"
        )
    engine = _create(location, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def _tune(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so, see below
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # what is called durable survives a power cut, too

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A transaction that reads first and then wants the lock fails at once in WAL mode if another wrote in between.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def reading_engine(location: Location) -> sa.Engine:
    """An engine that creates and changes nothing."""
    if location.path is None:
        return _create(location).execution_options(postgresql_readonly=True)
    # mode=rw and not ro: a WAL database needs its -shm file even to be read, and a read-only file still opens.
    uri = f"{location.path.as_uri()}?mode=rw"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=30, check_same_thread=False)
        connection.execute("PRAGMA query_only=ON")
        return connection

    return _create(location, creator=connect)


def _create(location: Location, **arguments: Any) -> sa.Engine:
    if location.path is None:
        arguments["connect_args"] = dict(_PATIENCE)
    try:
        # One connection stays open, the writer thread's; opening a study needs a second one for a moment.
        return sa.create_engine(location.url, pool_size=1, max_overflow=2, **arguments)
    except ImportError:
        raise StorageUnreachable(
            f"{location.label}: the PostgreSQL driver is not installed: pip install 'hpsearch[postgres]'"
        ) from None
    except (ArgumentError, NoSuchModuleError, TypeError) as error:
        raise StorageUnreachable(f"{location.label}: {passwords.scrub(str(error))}") from None


@contextmanager
def reaching(location: Location) -> Iterator[None]:
    """Turn what a driver raises inside into StorageUnreachable."""
    try:
        yield
    except DBAPIError as error:
        raise StorageUnreachable(f"{location.label}: {in_words(error)}") from None


def in_words(error: DBAPIError) -> str:
    """The first line of what the driver said."""
    lines = passwords.scrub(str(error.orig)).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


def is_lock(error: DBAPIError) -> bool:
    """Whether it was another program's lock that we waited for long enough."""
    if isinstance(error.orig, sqlite3.Error):
        return (getattr(error.orig, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_BUSY
    return getattr(error.orig, "sqlstate", None) == LOCK_TIMEOUT


def is_transient(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed later: a lock, a full disk, a lost connection."""
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", None)  # extended: the kind is in its low byte
        return code is not None and code & 0xFF in _TRANSIENT_SQLITE
    if getattr(error.orig, "sqlstate", None) == READ_ONLY:
        return True  # the server that answers now is a standby: it, or another one, will be the primary soon
    return error.connection_invalidated or isinstance(error, OperationalError)


def optuna_url(url: str) -> str:
    """The URL with which Optuna's tools open the same database, by hpsearch's driver; never with a password."""
    return locate(url).bare


@dataclass(frozen=True, slots=True)
class _Connect:
    """Opens connections for an engine whose URL has no password; pickled, it has none either."""

    url: str

    def __call__(self) -> Any:
        url = locate(self.url).url
        dialect = url.get_dialect()()
        arguments, options = dialect.create_connect_args(url)
        return dialect.import_dbapi().connect(*arguments, **options)


def load_study(url: str, name: str) -> optuna.Study:
    """The study as stock Optuna loads it; neither it nor its pickle holds the password."""
    location = locate(url)
    arguments = {"creator": _Connect(location.bare)} if location.path is None else {}
    return optuna.load_study(study_name=name, storage=RDBStorage(location.bare, engine_kwargs=arguments))


def label(url: str) -> str:
    """A storage URL as people may see it: absolute, without the password. StorageUnreachable if it cannot serve."""
    return locate(url).label
