"""Opening a study, writing behind memory, and leaving it."""

import math
import pickle
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from storage_desk import RECORD, Desk, attempt

from hpsearch.errors import NoSuchStudy, StorageFailed, StorageUnreachable, UsageError
from hpsearch.storage import Mirror, label, optuna_url, peek, send_request
from hpsearch.views import open_views

SPACE = {f"x{i}": FloatDistribution(0, 1) for i in range(5)}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(f"sqlite:///{tmp_path / 'studies.db'}")
    yield desk
    desk.close()


def rows(desk: Desk, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(desk.url.removeprefix("sqlite:///"))
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


# ----------------------------------------------------------------------------------------------- writing


def test_a_trial_is_durable_once_its_ticket_is_committed(desk: Desk) -> None:
    store = desk.open()
    trial = store.study.ask(SPACE)
    trial.report(0.5, 3)
    store.study.tell(trial, 0.75)
    desk.wait_durable(store)
    assert rows(desk, "select number, state from trials") == [(0, "COMPLETE")]
    assert rows(desk, "select count(*) from trial_params") == [(5,)]
    assert rows(desk, "select step, intermediate_value from trial_intermediate_values") == [(3, 0.5)]
    assert rows(desk, "select value from trial_values") == [(0.75,)]
    assert rows(desk, "pragma journal_mode") == [("wal",)]


def test_ask_and_tell_are_one_transaction_each(desk: Desk) -> None:
    store = desk.open()
    desk.wait_durable(store)
    before = store.n_commits
    trial = store.study.ask(SPACE)
    desk.wait_durable(store)
    assert store.n_commits == before + 1
    store.study.tell(trial, 0.5)
    desk.wait_durable(store)
    assert store.n_commits == before + 2


def test_a_whole_trial_together_is_one_transaction(desk: Desk) -> None:
    store = desk.open()
    desk.wait_durable(store)
    before = store.n_commits
    with store.together():
        trial = store.study.ask(SPACE)
        store.put_attempt(attempt(0))
        for step in range(20):
            trial.report(step / 20, step)
        store.study.tell(trial, 1.0)
        store.put_event("trial.completed", 0, 1, "done", {})
        assert desk.durable < store.ticket()
    desk.wait_durable(store)
    assert store.n_commits == before + 1


def test_no_sql_on_the_calling_thread(desk: Desk) -> None:
    store = desk.open()
    threads: set[int] = set()

    def note(*_: object) -> None:
        threads.add(threading.get_ident())

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        trial = store.study.ask(SPACE)
        trial.report(1.0, 1)
        trial.should_prune()
        store.put_attempt(attempt(0))
        store.put_metrics(0, 1, 1, {"loss": 0.5})
        store.study.tell(trial, 1.0)
        assert store.study.best_value == 1.0
        desk.wait_durable(store)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert threads == desk.threads
    assert threading.get_ident() not in threads


def test_a_report_repeated_writes_over_the_first(desk: Desk) -> None:
    store = desk.open()
    trial = store.study.ask()
    for value in (0.25, 0.5):
        store.study._storage.set_trial_intermediate_value(trial._trial_id, 7, value)
        store.put_metrics(0, 1, 7, {"loss": value, "gap": math.nan})
        desk.wait_durable(store)
    assert rows(desk, "select step, intermediate_value from trial_intermediate_values") == [(7, 0.5)]
    assert rows(desk, "select name, value from hpsearch_metric order by name") == [("gap", None), ("loss", 0.5)]


def test_attempts_are_read_back_when_the_study_is_opened_again(desk: Desk) -> None:
    store = desk.open()
    store.study.ask()
    ended = attempt(0, 1, state="ended", cause="signal", reason="SIGSEGV", ended=200.0, exit_code=-11, log_tail="x\ny")
    store.put_attempt(attempt(0))
    store.put_attempt(ended)
    store.put_attempt(attempt(0, 2))
    store.close()
    assert desk.open().attempts == {0: [ended, attempt(0, 2)]}


def test_what_a_job_printed_may_be_anything(desk: Desk) -> None:
    store = desk.open()
    store.study.ask()
    store.put_attempt(attempt(0, reason="nul \x00", log_tail="lone \udcff", traceback="ünï"))
    store.put_event("odd", 0, 1, "\x00\ud800", {"path": Path("/x"), "n": math.inf})
    store.close()
    (row,) = desk.open().attempts[0]
    assert (row.reason, row.log_tail, row.traceback) == ("nul \N{REPLACEMENT CHARACTER}", "lone ?", "ünï")
    assert desk.errors == []


def test_what_no_database_takes_is_refused_at_once_and_changes_nothing(desk: Desk) -> None:
    store = desk.open()
    trial = store.study.ask()
    storage, row = store.study._storage, trial._trial_id
    ticket = store.ticket()
    with pytest.raises(ValueError, match="512 characters"):
        trial.suggest_float("x" * 513, 0, 1)
    with pytest.raises(ValueError, match="NUL"):
        trial.set_user_attr("a\x00b", 1)
    with pytest.raises(TypeError, match="JSON"):
        trial.set_user_attr("a", object())
    with pytest.raises(ValueError, match="out of range"):
        storage.set_trial_intermediate_value(row, 2**31, 1.0)
    with pytest.raises(ValueError, match="NaN"):
        storage.set_trial_state_values(row, TrialState.COMPLETE, [math.nan])
    with pytest.raises(TypeError, match="JSON"):
        store.study.add_trial(create_trial(value=1.0, user_attrs={"a": object()}))
    with pytest.raises(ValueError, match="out of range"):
        store.put_metrics(0, 1, -(2**31), {"loss": 1.0})
    with pytest.raises(ValueError, match="too long"):
        store.put_metrics(0, 1, 1, {"l" * 513: 1.0})
    frozen = storage.get_trial(row)
    assert (frozen.state, frozen.params, frozen.user_attrs) == (TrialState.RUNNING, {}, {})
    assert (store.ticket(), len(store.study.trials)) == (ticket, 1)


def test_memory_holds_what_a_reader_of_the_database_would_get(desk: Desk) -> None:
    store = desk.open()
    trial = store.study.ask()
    shared = [1, 2]
    trial.set_user_attr("shape", (3, 4))
    trial.set_user_attr("list", shared)
    shared.append(3)
    assert store.study.trials[0].user_attrs == {"shape": [3, 4], "list": [1, 2]}


def test_a_trial_set_waiting_is_asked_again_with_its_parameters(desk: Desk) -> None:
    store = desk.open()
    first = store.study.ask(SPACE)
    store.study.tell(store.study.ask(SPACE), 1.0)
    store.study._storage.set_trial_state_values(first._trial_id, TrialState.WAITING)
    again = store.study.ask(SPACE)
    assert (again.number, again.params) == (0, first.params)


def test_the_mirror_leaves_a_pickle_as_a_snapshot_without_the_database(desk: Desk) -> None:
    store = desk.open()
    store.study.tell(store.study.ask(SPACE), 0.5)
    snapshot = pickle.loads(pickle.dumps(store.study))
    assert snapshot.best_value == 0.5
    for write in (
        lambda: snapshot.set_user_attr("a", 1),
        lambda: snapshot.ask(),
        lambda: optuna.delete_study(study_name="digits", storage=snapshot._storage),
    ):
        with pytest.raises(StorageFailed, match="snapshot"):
            write()
    assert b"studies.db" not in pickle.dumps(store.study)


# ----------------------------------------------------------------------------------- opening and closing


def test_peek_sees_the_record_of_the_last_opening(desk: Desk) -> None:
    assert peek(desk.url, "digits") is None
    desk.open().close()
    assert peek(desk.url, "digits") == RECORD
    assert peek(desk.url, "letters") is None


def test_nobody_is_told_of_a_study_in_memory(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        desk.open().close()
    assert "memory" not in caplog.text


def test_closing_drains_and_closing_again_does_nothing(desk: Desk) -> None:
    store = desk.open()
    for _ in range(50):
        store.study.tell(store.study.ask(SPACE), 1.0)
    store.close()
    store.close()
    store.abandon()
    assert rows(desk, "select count(*) from trials where state = 'COMPLETE'") == [(50,)]
    store.study.ask()  # memory only
    assert rows(desk, "select count(*) from trials") == [(50,)]


def test_a_study_opened_again_goes_on_with_the_next_number(desk: Desk) -> None:
    for run in range(3):
        store = desk.open()
        for _ in range(3):
            store.study.tell(store.study.ask(SPACE), 1.0)
        assert [trial.number for trial in store.study.trials] == list(range(3 * run + 3))
        store.close()
    assert rows(desk, "select number from trials order by trial_id") == [(number,) for number in range(9)]


def test_abandoning_loses_only_what_was_not_committed(desk: Desk) -> None:
    store = desk.open()
    store.study.ask()
    desk.wait_durable(store)
    with store.together():
        store.study.ask()
        store.abandon()
    assert rows(desk, "select number from trials") == [(0,)]
    assert [trial.number for trial in desk.open().study.trials] == [0]


def test_fresh_starts_over_and_leaves_other_studies_alone(desk: Desk) -> None:
    for name in ("digits", "letters"):
        store = desk.open(name)
        store.study.tell(store.study.ask(SPACE), 1.0)
        store.put_attempt(attempt(0))
        store.put_event("trial.started", 0, 1, "", {})
        store.close()
    store = desk.open("digits", fresh=True)
    assert store.study.trials == []
    assert store.attempts == {}
    store.put_event("trial.started", 0, 1, "anew", {})
    store.close()
    with open_views(desk.url) as views:
        assert [event.text for event in views.events("digits")] == ["anew"]
        assert len(views.trials("letters")) == 1
    assert rows(desk, "select count(*) from trial_params") == [(5,)]


def test_a_study_that_optunas_tools_deleted_leaves_nothing_to_the_next(desk: Desk) -> None:
    store = desk.open()
    store.study.ask()
    store.put_attempt(attempt(0))
    store.close()
    optuna.delete_study(study_name="digits", storage=desk.url)
    assert desk.open("letters").attempts == {}


def test_other_directions_are_refused(desk: Desk) -> None:
    desk.open().close()
    with pytest.raises(UsageError, match=r"begun with direction maximize, not minimize, maximize: .*--fresh"):
        desk.open(directions=["minimize", "maximize"])
    assert desk.open(directions=["minimize", "maximize"], fresh=True).study.directions[0].name == "MINIMIZE"


def test_metric_names_are_kept_where_optuna_looks_for_them(desk: Desk) -> None:
    desk.open().close()
    assert optuna.load_study(study_name="digits", storage=desk.url).metric_names == ["accuracy"]


def test_each_run_of_a_study_numbers_its_own_events(desk: Desk) -> None:
    for text in ("first", "second"):
        store = desk.open()
        store.put_event("study.started", None, None, text, {"n": 1})
        store.close()
    with open_views(desk.url) as views:
        first, second = views.events("digits")
        assert (first.text, second.text, second.fields) == ("first", "second", {"n": 1})
        assert [event.text for event in views.events("digits", after_id=first.id)] == ["second"]


# ---------------------------------------------------------------------------------------------- requests


def test_a_request_reaches_the_coordinator_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpsearch.storage.requests.POLL_S", 0.01)
    store = desk.open()
    send_request(desk.url, "digits", "stop_trial", {"trial": 3})
    desk.wait(lambda: desk.requests)
    send_request(desk.url, "digits", "stop")
    desk.wait(lambda: len(desk.requests) == 2)
    assert [(request.kind, request.arguments) for request in desk.requests] == [
        ("stop_trial", {"trial": 3}),
        ("stop", {}),
    ]
    store.close()


def test_a_request_nobody_read_does_not_stop_the_next_run(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.open().close()
    send_request(desk.url, "digits", "stop")
    monkeypatch.setattr("hpsearch.storage.requests.POLL_S", 0.01)
    store = desk.open()
    send_request(desk.url, "digits", "stop_trial", {"trial": 1})
    desk.wait(lambda: desk.requests)
    assert [request.kind for request in desk.requests] == ["stop_trial"]
    store.close()


def test_a_request_for_an_unknown_study_names_the_known_ones(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(NoSuchStudy, match="none yet"):
        send_request(desk.url, "digits", "stop")
    assert list(tmp_path.iterdir()) == []
    desk.open("letters").close()
    with pytest.raises(NoSuchStudy, match="it has: letters"):
        send_request(desk.url, "digits", "stop")


# -------------------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("studies.db", "write it like sqlite:///studies.db"),
        ("", "no database URL"),
        ("mysql://u:s3cret@h/d", "scheme 'mysql' is unknown: use sqlite or postgresql"),
        ("sqlite://", "in memory keeps nothing"),
        ("sqlite:///:memory:", "in memory keeps nothing"),
        ("sqlite:///file:x.db?uri=true", "file: form"),
        ("sqlite:////no/such/place/studies.db", "no directory /no/such/place"),
        ("sqlite:////tmp", "is a directory"),
        ("sqlite:////proc/studies.db", "unable to open database file"),
        ("postgresql+oracle://u:s3cret@h/d", "sqlalchemy.dialects:postgresql.oracle"),
        ("postgresql://u:s3cret@127.0.0.1:1/d", "onnection refused"),
        ("postgresql://127.0.0.1:1/d?user=u&password=s3cret", "onnection refused"),
    ],
)
def test_a_storage_out_of_reach_is_one_line_without_a_password(url: str, words: str) -> None:
    with pytest.raises(StorageUnreachable) as caught:
        Desk(url).open()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert "s3cret" not in message
    assert caught.value.exit_code == 5


def test_an_unwritable_place_is_named(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(StorageUnreachable, match=f"{tmp_path} is not writable"):
        desk.open()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_driver_comes_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageUnreachable, match=r"pip install 'hpsearch\[postgres\]'"):
        Desk("postgresql://u:s3cret@h/d").open()


def test_a_file_that_is_no_database_is_left_as_it_is(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("name: digits\n" * 100)
    for look in (desk.open, lambda: peek(desk.url, "digits"), lambda: open_views(desk.url)):
        with pytest.raises(StorageUnreachable, match="not a database"):
            look()
    assert (tmp_path / "studies.db").read_text() == "name: digits\n" * 100


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("update hpsearch_version set version_num = '99'", "version 99.* pip install -U hpsearch"),
        ("update alembic_version set version_num = 'v99.0.0.a'", "another Optuna than .* pip install -U optuna"),
        (
            "update alembic_version set version_num = 'v0.9.0.a'",
            "another Optuna than .* hpsearch db upgrade --storage",
        ),
    ],
)
def test_another_schema_is_refused(desk: Desk, change: str, words: str) -> None:
    desk.open().close()
    connection = sqlite3.connect(desk.url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute(change)
    connection.close()
    with pytest.raises(StorageUnreachable, match=words):
        desk.open()
    if "hpsearch" in change:
        with pytest.raises(StorageUnreachable, match=words):
            peek(desk.url, "digits")


def test_a_study_with_a_hole_in_its_numbers_is_not_opened(desk: Desk) -> None:
    store = desk.open()
    for _ in range(3):
        store.put_attempt(attempt(store.study.ask().number))  # what is on record of 2 would become that of 1
    store.close()
    connection = sqlite3.connect(desk.url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("delete from trials where number = 1")
    connection.close()
    for _ in range(2):  # and it is not left held
        with pytest.raises(StorageUnreachable, match="expected 1"):
            desk.open()


def test_a_label_shows_no_password() -> None:
    assert label("postgresql://u:s3cret@h/d") == "postgresql+psycopg://u:***@h/d"
    assert "s3cret" not in label("postgresql://h/d?password=s3cret")
    assert label("sqlite:///x.db") == f"sqlite:///{Path.cwd() / 'x.db'}"


def test_optuna_opens_the_same_database_by_the_driver_that_is_there() -> None:
    assert optuna_url("postgresql://u:s3cret@h/d") == "postgresql+psycopg://u@h/d"
    assert optuna_url("sqlite:///x.db") == f"sqlite:///{Path.cwd() / 'x.db'}"


def test_peeking_creates_nothing(desk: Desk, tmp_path: Path) -> None:
    assert peek(desk.url, "digits") is None
    assert list(tmp_path.iterdir()) == []
    desk.open().close()
    assert [path.name for path in tmp_path.iterdir()] == ["studies.db"]
    before = (tmp_path / "studies.db").read_bytes()
    assert peek(desk.url, "digits") == RECORD
    assert [path.name for path in tmp_path.iterdir()] == ["studies.db"]
    assert (tmp_path / "studies.db").read_bytes() == before
    (tmp_path / "empty.db").touch()
    assert peek(f"sqlite:///{tmp_path / 'empty.db'}", "digits") is None
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_a_withdrawn_trial_leaves_no_trace(desk: Desk) -> None:
    store = desk.open()
    kept, withdrawn = store.study.ask(SPACE), store.study.ask(SPACE)
    desk.wait_durable(store)
    mirror = store.study._storage
    assert isinstance(mirror, Mirror)
    assert not mirror.withdraw_trial(kept._trial_id)  # numbers have no gaps
    assert mirror.withdraw_trial(withdrawn._trial_id)
    at_once = store.study.ask(SPACE)
    assert at_once.number == 1
    assert mirror.withdraw_trial(at_once._trial_id)
    store.close()
    assert [trial.number for trial in desk.open().study.trials] == [0]
    with sqlite3.connect(desk.url.removeprefix("sqlite:///")) as database:
        assert database.execute("SELECT count(*) FROM trial_params").fetchone() == (len(SPACE),)
