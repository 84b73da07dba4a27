"""Where the database of a standard run lies: a file, a server, or either of them on a small disk of its own."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.postgres import Postgres, Proxy, Template

SQLITE_DISK = "12m"
POSTGRES_DISK = "160m"
_LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One database, and what can be done to it."""

    url: str
    sqlite: Path | None = None
    postgres: Postgres | None = None
    proxy: Proxy | None = None
    disk: Path | None = None  # a small file system of its own

    @property
    def server(self) -> Postgres:
        """The server, where there is one."""
        assert self.postgres is not None
        return self.postgres

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Another process holds SQLite's lock."""
        assert self.sqlite is not None
        import sys

        with subprocess.Popen(
            [sys.executable, "-c", _LOCKER, str(self.sqlite)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as locker:
            assert locker.stdin is not None
            assert locker.stdout is not None
            try:
                assert locker.stdout.readline() == b"locked\n"
                yield
            finally:
                locker.stdin.close()
                locker.wait(30)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Its disk has no byte left."""
        assert self.disk is not None
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                while _wrote(file.write, bytes(size)):
                    pass
        try:
            yield
        finally:
            filler.unlink()


def _wrote(write: Callable[[bytes], int | None], block: bytes) -> bool:
    try:
        return write(block) == len(block)
    except OSError:
        return False


@contextmanager
def on_sqlite(directory: Path, template: Callable[[], Template]) -> Iterator[Place]:
    """A file beside the run's others."""
    path = directory / "studies.db"
    yield Place(url=f"sqlite:///{path}", sqlite=path)


@contextmanager
def on_postgresql(directory: Path, template: Callable[[], Template]) -> Iterator[Place]:
    """A server of the test's own."""
    with template().copy() as server:
        yield Place(url=server.url, postgres=server)


@contextmanager
def behind_a_proxy(directory: Path, template: Callable[[], Template]) -> Iterator[Place]:
    """The same, reached by way of our proxy."""
    with template().copy() as server:
        proxy = Proxy(server)
        try:
            yield Place(url=proxy.url, postgres=server, proxy=proxy)
        finally:
            server.stop("immediate")  # which ends the proxy's connections
            proxy.close()


@contextmanager
def sqlite_on_a_small_disk(directory: Path, template: Callable[[], Template]) -> Iterator[Place]:
    """A file on a tmpfs of its own."""
    with _mounted(directory / "disk", SQLITE_DISK) as disk:
        path = disk / "studies.db"
        yield Place(url=f"sqlite:///{path}", sqlite=path, disk=disk)


@contextmanager
def postgresql_on_a_small_disk(directory: Path, template: Callable[[], Template]) -> Iterator[Place]:
    """A data directory on a tmpfs of its own."""
    import tempfile

    place = Path(tempfile.mkdtemp(prefix="hpsearch-disk-"))
    try:
        with _mounted(place, POSTGRES_DISK) as disk, template().copy(disk) as server:
            yield Place(url=server.url, postgres=server, disk=disk)
    finally:
        place.rmdir()


@contextmanager
def _mounted(disk: Path, size: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("to mount a small disk takes root")
    disk.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "hpsearch-fault", str(disk)]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


PlaceFactory = Callable[[Path, Callable[[], Template]], AbstractContextManager[Place]]
