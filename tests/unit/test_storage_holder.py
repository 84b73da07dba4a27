"""One coordinator a study: who holds it, until when, and how the next one takes over."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from storage_desk import Desk

from hpsearch.errors import StorageUnreachable, StudyHeld
from hpsearch.storage.holder import FRESH_S, this_machine
from hpsearch.views import open_views

HERE = socket.gethostname()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(f"sqlite:///{tmp_path / 'studies.db'}")
    yield desk
    desk.close()


def pretend(desk: Desk, **columns: object) -> None:
    """Change the coordinator row of an abandoned study: another process, host, age."""
    names = ", ".join(f"{name} = ?" for name in columns)
    connection = sqlite3.connect(desk.url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute(f"update hpsearch_coordinator set {names}", tuple(columns.values()))
    connection.close()


def left_by(desk: Desk, **columns: object) -> None:
    """A study that an earlier coordinator, described by ``columns``, did not give back."""
    desk.open().abandon()
    pretend(desk, **columns)


def is_running(desk: Desk) -> bool:
    with open_views(desk.url) as views:
        return views.study("digits").running


def test_a_study_is_held_until_it_is_closed(desk: Desk) -> None:
    store = desk.open()
    assert is_running(desk)
    for fresh in (False, True):
        with pytest.raises(StudyHeld, match=f"run by process {os.getpid()} on {HERE} since 20") as caught:
            desk.open(fresh=fresh)
    assert caught.value.exit_code == 5
    desk.open("letters").close()
    store.close()
    assert not is_running(desk)
    desk.open().close()


def test_what_this_process_abandoned_it_may_take_again(desk: Desk) -> None:
    desk.open().abandon()
    assert not is_running(desk)
    desk.open().close()


@pytest.mark.parametrize("age_s", [0.0, FRESH_S - 5])
def test_another_host_holds_it_while_its_heartbeat_is_fresh(desk: Desk, age_s: float) -> None:
    left_by(desk, host="elsewhere", machine="another/pid:[1]", pid=1)
    with sqlite3.connect(desk.url.removeprefix("sqlite:///")) as connection:
        connection.execute("update hpsearch_coordinator set heartbeat = heartbeat - ?", (age_s,))
    connection.close()
    assert is_running(desk)
    with pytest.raises(StudyHeld, match="process 1 on elsewhere"):
        desk.open()


def test_a_stale_heartbeat_is_no_hold(desk: Desk) -> None:
    left_by(desk, host="elsewhere", machine="another/pid:[1]", pid=1, heartbeat=1000.0)
    assert not is_running(desk)
    desk.open().close()


def test_a_living_process_of_this_host_holds_it(desk: Desk) -> None:
    parent = psutil.Process(os.getppid())
    left_by(desk, pid=parent.pid, process_started=parent.create_time())
    assert is_running(desk)
    with pytest.raises(StudyHeld):
        desk.open()


def test_a_pid_that_was_given_to_another_process_is_no_hold(desk: Desk) -> None:
    parent = psutil.Process(os.getppid())
    left_by(desk, pid=parent.pid, process_started=parent.create_time() - 60)
    desk.open().close()


def test_a_zombie_is_no_hold(desk: Desk) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        left_by(desk, pid=child.pid, process_started=psutil.Process(child.pid).create_time())
        desk.open().close()
    finally:
        child.wait()


CRASH = """
import sys
sys.path.insert(0, {desk!r})
from storage_desk import Desk
desk = Desk({url!r})
store = desk.open()
store.study.ask()
desk.wait_durable(store)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_killed_coordinator_is_replaced_at_once(desk: Desk) -> None:
    script = CRASH.format(desk=str(Path(__file__).parent.parent), url=desk.url)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(StudyHeld, match=f"process {child.pid} on {HERE}"):
            desk.open()
        child.send_signal(signal.SIGKILL)
        child.wait()
        store = desk.open()
        assert [trial.state.name for trial in store.study.trials] == ["RUNNING"]


@pytest.mark.parametrize("deleted", [False, True])
def test_a_replaced_coordinator_writes_nothing_more(desk: Desk, deleted: bool) -> None:
    store = desk.open()
    store.study.ask()
    desk.wait_durable(store)
    with store.together():
        if deleted:
            connection = sqlite3.connect(desk.url.removeprefix("sqlite:///"), isolation_level=None)
            connection.execute("delete from hpsearch_coordinator")
            connection.close()
        else:
            pretend(desk, token=7, hold="another", host="elsewhere", machine="another/pid:[1]")
        store.study.ask()
    desk.wait(lambda: desk.errors)
    (error,) = desk.errors
    if deleted:
        assert str(error) == "study 'digits' was deleted while it ran"
    else:
        assert isinstance(error, StudyHeld)
        assert error.holder.startswith(f"process {os.getpid()} on elsewhere since")
    with pytest.raises(type(error)):
        store.close()
    with open_views(desk.url) as views:
        assert len(views.trials("digits")) == 1


def test_a_study_that_optunas_tools_delete_is_written_no_more_and_the_next_of_its_id_stays_clean(desk: Desk) -> None:
    store = desk.open()
    store.study.ask()
    desk.wait_durable(store)
    optuna.delete_study(study_name="digits", storage=desk.url)
    optuna.create_study(study_name="letters", storage=desk.url)
    store.study.ask()
    desk.wait(lambda: desk.errors)
    assert str(desk.errors[0]) == "study 'digits' was deleted while it ran"
    assert optuna.load_study(study_name="letters", storage=desk.url).trials == []


def test_a_coordinator_that_is_alive_can_be_taken_over(desk: Desk) -> None:
    first = desk.open()
    first.study.ask()
    desk.wait_durable(first)
    second = desk.open(take_over=True)
    first.study.ask()
    desk.wait(lambda: desk.errors)
    assert isinstance(desk.errors[0], StudyHeld)
    second.study.ask()
    second.close()
    with open_views(desk.url) as views:
        assert [trial.number for trial in views.trials("digits")] == [0, 1]


def test_a_container_of_the_same_name_is_another_machine(desk: Desk) -> None:
    """Its pids mean nothing here: only its heartbeat tells."""
    boot = this_machine().partition("/")[0]
    left_by(desk, pid=2**30, machine=f"{boot}/pid:[1]")  # no process of this host has that number
    assert is_running(desk)
    with pytest.raises(StudyHeld, match=f"process {2**30} on {HERE}"):
        desk.open()
    desk.open("letters").close()  # one kernel: SQLite's locks hold
    pretend(desk, heartbeat=1000.0)
    desk.open().close()


def test_a_host_that_was_renamed_is_the_same_machine(desk: Desk) -> None:
    left_by(desk, pid=2**30, host="before")
    assert not is_running(desk)


def test_rows_of_before_go_by_the_name(desk: Desk) -> None:
    left_by(desk, pid=2**30, machine=None)
    assert not is_running(desk)
    pretend(desk, host="elsewhere")
    assert is_running(desk)


@pytest.mark.parametrize("machine", ["another/pid:[1]", None])
def test_sqlite_serves_one_host(desk: Desk, machine: str | None) -> None:
    left_by(desk, host="elsewhere", pid=1, machine=machine)
    with pytest.raises(StorageUnreachable, match=r"process 1 on elsewhere since .* SQLite serves one host: use Post"):
        desk.open("letters")
    with open_views(desk.url) as views:  # looking is allowed
        assert [study.name for study in views.studies()] == ["digits"]
    pretend(desk, heartbeat=1000.0)
    desk.open("letters").close()


def test_a_machine_is_told_by_its_boot_and_its_pids() -> None:
    boot, _, namespace = this_machine().partition("/")
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert namespace == os.readlink("/proc/self/ns/pid")
