"""Who coordinates a study: one row, kept fresh by a heartbeat, given back on close.

The row's token grows with every coordinator. Each transaction of a coordinator begins by numbering itself in that row:
one that was replaced while it slept finds out before it has written anything, and one whose commit was never answered
finds out whether it was done.
"""

import os
import socket
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from hpsearch.errors import StorageFailed, StudyHeld
from hpsearch.storage import schema
from hpsearch.storage.connect import locate

FRESH_S = 15.0  # a heartbeat older than this is no sign of life
_SAME_START_S = 2.0  # psutil derives a process's start from the boot time, which clock corrections move a little

_live: set[str] = set()  # the holds of this very process


@dataclass(frozen=True, slots=True)
class Holder:
    """The coordinator row of one study."""

    token: int
    hold: str
    host: str
    pid: int | None
    process_started: float
    started: float  # unix seconds
    machine: str | None  # as ``this_machine`` had it; None: by an hpsearch that kept only the name
    age_s: float  # of the last heartbeat, on the database's clock

    @property
    def words(self) -> str:
        """For people."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host} since {since}"

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs on another host; another container of this host's kernel is not elsewhere."""
        if self.machine is None:
            return self.host != socket.gethostname()
        return self.machine.partition("/")[0] != this_machine().partition("/")[0]

    def is_alive(self) -> bool:
        """Whether it still coordinates: its heartbeat is fresh, and it is no dead process of this host."""
        if self.pid is None or self.age_s >= FRESH_S:
            return False
        # A name is no identity, containers may share one; but it is all that older rows have.
        here = self.host == socket.gethostname() if self.machine is None else self.machine == this_machine()
        if not here:
            return True
        if self.pid == os.getpid():
            return self.hold in _live
        started = _started(self.pid)
        return started is not None and abs(started - self.process_started) <= _SAME_START_S


class Held:
    """This process's hold of a study."""

    def __init__(self, name: str, study: int, token: int) -> None:
        self._name = name
        self._study = study
        self.token = token
        self.hold = uuid.uuid4().hex
        _live.add(self.hold)

    @property
    def _mine(self) -> sa.ColumnElement[bool]:
        c, study = schema.COORDINATORS.c, schema.STUDIES.c
        # In SQLite Optuna's tools delete a study and leave our row; its id then goes to the next study.
        exists = sa.exists().where(study.study_id == self._study, study.study_name == self._name)
        return sa.and_(c.study_id == self._study, c.hold == self.hold, exists)

    def fence(self, connection: sa.Connection, serial: int) -> bool:
        """Begin the transaction of this number, and say that the coordinator lives; False if it was committed before.

        Raises:
            StudyHeld: another coordinator has taken the study.
            StorageFailed: the study was deleted.
        """
        c = schema.COORDINATORS.c
        mark = sa.update(schema.COORDINATORS).where(self._mine, c.serial < serial)
        if connection.execute(mark.values(serial=serial, heartbeat=clock(connection))).rowcount == 1:
            return True
        if connection.scalar(sa.select(c.serial).where(self._mine)) is not None:
            return False
        holder = read_holder(connection, self._study)
        if holder is None or holder.hold == self.hold:
            raise StorageFailed(f"study {self._name!r} was deleted while it ran")
        raise StudyHeld(self._name, holder.words)

    def release(self, connection: sa.Connection) -> None:
        """Give the study back; releasing twice is one release."""
        connection.execute(sa.update(schema.COORDINATORS).where(self._mine).values(pid=None))
        self.forget()

    def forget(self) -> None:
        """This process no longer coordinates, whatever the row says."""
        _live.discard(self.hold)


def take(connection: sa.Connection, name: str, study: int, *, after: int = 0, over: bool = False) -> Held:
    """Become the study's coordinator, within the caller's transaction; StudyHeld if somebody alive is.

    The token is larger than the row's and than ``after``. ``over``: also if somebody alive is, who is fenced by that.
    """
    held = Held(name, study, max(refuse_held(connection, name, study, over=over), after) + 1)
    row = {
        "study_id": study,
        "token": held.token,
        "hold": held.hold,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": _started(os.getpid()) or 0.0,
        "started": time.time(),
        "serial": 0,
        "machine": this_machine(),
    }
    connection.execute(sa.delete(schema.COORDINATORS).where(schema.COORDINATORS.c.study_id == study))
    connection.execute(sa.insert(schema.COORDINATORS).values({**row, "heartbeat": clock(connection)}))
    return held


def refuse_held(connection: sa.Connection, name: str, study: int, *, over: bool = False) -> int:
    """StudyHeld if somebody alive coordinates the study, unless ``over``; otherwise the last token (0: never held).

    The row stays locked until the caller's transaction ends: whoever looked dead cannot come back meanwhile.
    """
    holder = read_holder(connection, study, lock=True)
    if holder is not None and holder.is_alive() and not over:
        raise StudyHeld(name, holder.words)
    return holder.token if holder else 0


def read_holder(connection: sa.Connection, study: int, *, lock: bool = False) -> Holder | None:
    """The coordinator row; None if the study never had one."""
    return read_holders(connection, schema.COORDINATORS.c.study_id == study, lock=lock).get(study)


def read_holders(
    connection: sa.Connection,
    *which: sa.ColumnElement[bool],
    lock: bool = False,
    known: Collection[str] | None = None,
) -> dict[int, Holder]:
    """The coordinator rows by the study's row; ``known`` are the columns that older tables have."""
    c = schema.COORDINATORS.c
    names = [field.name for field in fields(Holder) if field.name != "age_s"]
    columns = [c[name] if known is None or name in known else sa.null().label(name) for name in names]
    age = (clock(connection) - c.heartbeat).label("age")
    query = sa.select(c.study_id, *columns, age).where(*which)
    if lock:
        query = query.with_for_update()
    rows: list[tuple[Any, ...]] = [tuple(row) for row in connection.execute(query)]
    return {study: Holder(*values) for study, *values in rows}


@cache
def this_machine() -> str:
    """Where a pid means what it means here: the boot of a kernel, and the pid namespace (a container has its own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def identity(url: str) -> str:
    """Names a database among all of a cluster's users: one that only this machine can mean names the machine, too."""
    location = locate(url)
    own = location.path is not None or (location.url.host or "localhost") in {"localhost", "127.0.0.1", "::1"}
    return f"{location.label} {this_machine()}" if own else location.label


def clock(connection: sa.Connection) -> sa.ColumnElement[float]:
    """The database's clock, unix seconds: hosts may disagree."""
    if connection.dialect.name == "postgresql":
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
    return sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Double)


def _started(pid: int) -> float | None:
    """When a process of this host started; None if there is none, or only its zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None
