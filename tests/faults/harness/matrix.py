"""The faults of the database and of its writer: one row each, and how it is brought about.

A seed decides when. Each injection starts the study, breaks it, and returns when the last coordinator is on its way.
"""

import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import psutil

from harness.database import dump, holder_age_s, in_transaction
from harness.oplog import Entry, of
from harness.places import (
    Place,
    PlaceFactory,
    behind_a_proxy,
    on_postgresql,
    on_sqlite,
    postgresql_on_a_small_disk,
    sqlite_on_a_small_disk,
)
from harness.run import PATIENCE_S, Coordinator, Form, StandardRun

PROGRESS = {("ask", "acknowledged"), ("report", "acknowledged"), ("tell", "acknowledged")}


@dataclass(frozen=True)
class Fault:
    """One fault: when it began, and from when on progress was possible again."""

    at: float
    healed: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What an injection has in hand."""

    run: StandardRun
    place: Place
    chance: random.Random
    faults: list[Fault] = field(default_factory=list)

    @property
    def form(self) -> Form:
        """How long things take."""
        return self.run.form

    def some_reports(self, share: float = 0.5) -> list[Entry]:
        """Wait for a number of acknowledged reports, at most this share of them all."""
        n_all = self.form.n_trials * self.form.n_epochs
        return self.run.wait_for_reports(self.chance.randint(1, max(int(share * n_all), 1)))

    def more_reports(self) -> None:
        """Wait for a few reports more than there are."""
        n = sum(1 for _ in of(self.run.entries, "report", "acknowledged"))
        self.run.wait_for_reports(n + self.chance.randint(1, 4))

    def happened(self, at: float) -> None:
        """A fault is over; wait until things go on, so that the next one hits a run that runs."""
        fault = Fault(at, time.time())
        self.faults.append(fault)
        self.run.wait_for("progress after the fault", lambda entries: recovery_s(entries, fault) is not None)


def recovery_s(entries: Sequence[Entry], fault: Fault) -> float | None:
    """From the end of a fault to the first operation acknowledged after it."""
    for entry in entries:
        if (entry["op"], entry["phase"]) in PROGRESS and entry["at"] > fault.healed:
            return float(entry["at"] - fault.healed)
    return None


def trained_during(entries: Sequence[Entry], fault: Fault) -> int:
    """Epochs begun while the fault lasted."""
    return sum(1 for entry in entries if entry["op"] == "epoch" and fault.at < entry["at"] < fault.healed)


# ------------------------------------------------------------------------------------------- injections

# Between any two of these, and in the middle of a commit, the coordinator has to bear to die.
POINTS = (
    ("ask", "invoked"),
    ("ask", "acknowledged"),
    ("notice", "trial.started"),
    ("record", "invoked"),
    ("commit", "invoked"),
    ("commit", "acknowledged"),
    ("tell", "invoked"),
    ("tell", "acknowledged"),
)


def kill_the_coordinator(stage: Stage) -> None:
    """At a seeded operation with even seeds, at a seeded time with odd ones; then the same command again."""
    if stage.run.seed % 2 == 0:
        op, phase = stage.chance.choice(POINTS)
        first = stage.run.start("--fault-after", f"{op}:{phase}:{stage.chance.randint(1, stage.form.n_trials)}")
    else:
        first = stage.run.start()
        stage.some_reports(0.7)
        time.sleep(stage.chance.uniform(0, stage.form.epoch_s))
        first.signal(signal.SIGKILL)
    code = first.wait()
    killed = time.time()
    assert code == -signal.SIGKILL, f"seed {stage.run.seed}: exit code {code}\n{stage.run.words()}"
    stage.run.start()
    stage.faults.append(Fault(killed, killed))


def refuse_a_second(stage: Stage) -> None:
    """A second coordinator hears who holds the study, and leaves; the first does not notice."""
    first = stage.run.start()
    stage.some_reports(0.3)
    began = time.time()
    with stage.run.holding():
        second = stage.run.start()
        assert second.wait() == 5, stage.run.words()
    assert f"process {first.pid} on " in second.stderr, second.stderr
    assert " since 20" in second.stderr, second.stderr
    assert first.exit_code is None
    stage.happened(began)
    stage.run.coordinators.reverse()  # the one to wait for is the first


def freeze_the_first(stage: Stage) -> None:
    """A second coordinator takes over once the first one's heartbeat is old; revived, the first ends by itself.

    With odd seeds it is revived while the second one works, with even ones when that has finished.
    """
    first = stage.run.start()
    stage.some_reports(0.3)
    with stage.run.holding():
        _freeze_between_transactions(stage, first)
    at = time.time()
    while (holder_age_s(stage.place.url) or 0.0) < stage.form.fresh_s:
        time.sleep(0.05)
    healed = time.time()
    second = stage.run.start()
    stage.run.wait_for(
        "the take-over", lambda entries: any(e["pid"] == second.pid for e in of(entries, "ask", "acknowledged"))
    )
    stage.faults.append(Fault(at, healed))
    if stage.run.seed % 2:
        with stage.run.holding():
            _revive(stage, first)
    else:
        assert second.wait() == 0, stage.run.words()
        before = dump(stage.place.url)
        _revive(stage, first)
        assert dump(stage.place.url) == before, f"seed {stage.run.seed}: the revived one wrote"


def _freeze_between_transactions(stage: Stage, first: Coordinator) -> None:
    """What is frozen within one holds the database's locks: that is the next case."""
    deadline = time.time() + PATIENCE_S
    while True:
        first.signal(signal.SIGSTOP)
        while psutil.Process(first.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.001)
        if not in_transaction(stage.place.url):
            return
        assert time.time() < deadline, stage.run.words()
        first.signal(signal.SIGCONT)
        time.sleep(stage.chance.uniform(0.01, 0.1))


def freeze_the_first_in_a_commit(stage: Stage) -> None:
    """It holds SQLite's lock meanwhile: a second one cannot take over yet, and says so; revived, the first goes on."""
    first, at = _frozen_in_a_commit(stage)
    second = stage.run.start()
    assert second.wait() == 5, stage.run.words()
    first.signal(signal.SIGCONT)
    stage.happened(at)
    stage.run.coordinators.reverse()  # the one to wait for is the first


def freeze_the_first_in_a_commit_of_postgresql(stage: Stage) -> None:
    """The server ends the forgotten transaction after a while and a second one takes over; the first writes nothing."""
    first, at = _frozen_in_a_commit(stage)
    healed = time.time()
    while (second := stage.run.start()).wait() == 5:
        assert time.time() < healed + PATIENCE_S, stage.run.words()
    assert second.exit_code == 0, stage.run.words()
    stage.faults.append(Fault(at, healed))
    before = dump(stage.place.url)
    _revive(stage, first)
    assert dump(stage.place.url) == before, f"seed {stage.run.seed}: the revived one wrote"


def _frozen_in_a_commit(stage: Stage) -> tuple[Coordinator, float]:
    """Between the last statement of a transaction and its COMMIT, until its heartbeat is old."""
    n = stage.chance.randint(20, 60)  # a new study is open by then
    first = stage.run.start("--fault-signal", "SIGSTOP", "--fault-after", f"commit:invoked:{n}")
    stage.run.wait_for("the commit", lambda entries: sum(1 for _ in of(entries, "commit", "invoked")) >= n)
    at = time.time()
    while (holder_age_s(stage.place.url) or 0.0) < stage.form.fresh_s:
        time.sleep(0.05)
    return first, at


def _revive(stage: Stage, first: Coordinator) -> None:
    """It finds out by itself, and leaves."""
    first.signal(signal.SIGCONT)
    assert first.wait() == 5, f"seed {stage.run.seed}: exit code {first.exit_code}\n{stage.run.words()}"


def restart_postgresql(mode: str) -> Callable[[Stage], None]:
    """Again and again, as an administrator ("fast") or a crash ("immediate") would."""

    def restart(stage: Stage) -> None:
        stage.run.start()
        stage.some_reports(0.2)
        for _ in range(stage.form.n_restarts):
            stage.more_reports()
            at = time.time()
            with stage.run.holding():
                stage.place.server.stop(mode)
            stage.place.server.start()
            stage.happened(at)

    return restart


def take_postgresql_away(stage: Stage) -> None:
    """For longer than anything is buffered by a socket."""
    stage.run.start()
    stage.some_reports(0.5)
    at = time.time()
    with stage.run.holding():
        stage.place.server.stop(stage.chance.choice(("fast", "immediate")))
    time.sleep(stage.form.outage_s)
    stage.place.server.start()
    stage.happened(at)


def take_postgresql_away_and_kill(stage: Stage) -> None:
    """The coordinator dies with its buffer full; what was not committed was never acknowledged."""
    first = stage.run.start()
    stage.some_reports(0.5)
    with stage.run.holding():
        stage.place.server.stop(stage.chance.choice(("fast", "immediate")))
    at = time.time()
    time.sleep(stage.form.outage_s / 4)
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    stage.place.server.start()
    stage.run.start()
    stage.faults.append(Fault(at, time.time()))


def terminate_the_backends(stage: Stage) -> None:
    """What an administrator or a failing network does to connections."""
    stage.run.start()
    stage.some_reports(0.2)
    for _ in range(stage.form.n_restarts):
        stage.more_reports()
        at = time.time()
        while not stage.place.server.terminate_backends():  # it is just about to connect again
            assert time.time() < at + PATIENCE_S, stage.run.words()
            time.sleep(0.05)
        stage.happened(at)


def lose_the_answer(stage: Stage) -> None:
    """A commit is done and the one who asked for it hears of a broken connection."""
    proxy = stage.place.proxy
    assert proxy is not None
    stage.run.start()
    stage.some_reports(0.2)
    for n in range(stage.form.n_restarts):
        stage.more_reports()
        at = time.time()
        proxy.arm()
        stage.run.wait_for("a lost answer", lambda _, n=n: len(proxy.lost_at) > n)  # type: ignore[misc]
        stage.happened(at)


def lose_the_answer_of_sqlite(stage: Stage) -> None:
    """The same for a quarter of all commits, some of them several times in a row."""
    only = stage.run.start("--fault-lose", str(stage.run.seed))
    assert only.wait() == 0, stage.run.words()
    stage.faults.extend(Fault(entry["at"], entry["at"]) for entry in lost(stage.run.entries))
    assert stage.faults, f"seed {stage.run.seed}: no answer was lost"


def lost(entries: Sequence[Entry]) -> list[Entry]:
    """Answers that the driver lost on purpose."""
    return [entry for entry in entries if (entry["op"], entry["phase"]) == ("fault", "answer lost")]


def lock_the_file(stage: Stage) -> None:
    """Another process sits on SQLite's lock."""
    stage.run.start()
    stage.some_reports(0.5)
    with stage.place.locked():
        at = time.time()
        time.sleep(stage.form.outage_s)
    stage.happened(at)


def fill_the_disk(stage: Stage) -> None:
    """Until it is made free again."""
    stage.run.start()
    stage.some_reports(0.2)
    with ExitStack() as freed:
        with stage.run.holding():
            freed.enter_context(stage.place.full())
        at = time.time()
        time.sleep(stage.form.outage_s)
    stage.happened(at)


# ------------------------------------------------------------------------------------------------ table


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of the matrix on one database."""

    row: int
    fault: str
    database: str
    expected: str
    redone: int  # epochs of one trial, at most
    recovery_s: float
    place: PlaceFactory
    inject: Callable[[Stage], None]
    max_attempts: int = 1
    outage_s: float | None = None  # the longest that is tried; None: as the form says
    in_short: bool = True  # whether it belongs to every test run
    goes_on: bool = False  # training is not to stop while the fault lasts

    def __str__(self) -> str:
        return f"{self.row}-{self.fault.replace(' ', '-')}-{self.database}"


def _on_both(**columns: object) -> tuple[Case, Case]:
    sqlite: PlaceFactory = columns.pop("sqlite", on_sqlite)  # type: ignore[assignment]
    postgresql: PlaceFactory = columns.pop("postgresql", on_postgresql)  # type: ignore[assignment]
    return (
        Case(database="SQLite", place=sqlite, **columns),  # type: ignore[arg-type]
        Case(database="PostgreSQL", place=postgresql, **columns),  # type: ignore[arg-type]
    )


def _on_postgresql(**columns: object) -> Case:
    return Case(**{"database": "PostgreSQL", "place": on_postgresql, **columns})  # type: ignore[arg-type]


MATRIX: tuple[Case, ...] = (
    *_on_both(
        row=9,
        fault="coordinator kill -9",
        expected="the same command adopts or requeues",
        redone=1,
        recovery_s=15,
        inject=kill_the_coordinator,
        max_attempts=2,
    ),
    *_on_both(
        row=12,
        fault="second coordinator",
        expected="refused with exit code 5, by name",
        redone=0,
        recovery_s=2,
        inject=refuse_a_second,
    ),
    *_on_both(
        row=12,
        fault="first one frozen",
        expected="replaced once silent; revived, it ends and writes nothing",
        redone=8,
        recovery_s=15,
        inject=freeze_the_first,
        max_attempts=2,
    ),
    Case(
        row=12,
        fault="frozen in a commit",
        database="SQLite",
        expected="not replaced while it holds the lock; revived, it goes on",
        redone=0,
        recovery_s=5,
        place=on_sqlite,
        inject=freeze_the_first_in_a_commit,
        in_short=False,
    ),
    _on_postgresql(
        row=12,
        fault="frozen in a commit",
        expected="replaced once the server ends its transaction; revived, it ends",
        redone=8,
        recovery_s=60,
        inject=freeze_the_first_in_a_commit_of_postgresql,
        max_attempts=2,
        in_short=False,
    ),
    _on_postgresql(
        row=16,
        fault="restart -m fast",
        expected="training goes on",
        redone=0,
        recovery_s=5,
        inject=restart_postgresql("fast"),
    ),
    _on_postgresql(
        row=16,
        fault="restart -m immediate",
        expected="training goes on",
        redone=0,
        recovery_s=5,
        inject=restart_postgresql("immediate"),
    ),
    _on_postgresql(
        row=17,
        fault="server away",
        expected="training goes on; buffered and replayed",
        redone=0,
        recovery_s=5,
        inject=take_postgresql_away,
        outage_s=60,
        goes_on=True,
    ),
    _on_postgresql(
        row=17,
        fault="away, then kill -9",
        expected="the same command goes on from what was committed",
        redone=1,
        recovery_s=15,
        inject=take_postgresql_away_and_kill,
        max_attempts=2,
    ),
    _on_postgresql(
        row=17,
        fault="backends terminated",
        expected="training goes on; buffered and replayed",
        redone=0,
        recovery_s=5,
        inject=terminate_the_backends,
    ),
    Case(
        row=18,
        fault="commit's answer lost",
        database="SQLite",
        expected="written once",
        redone=0,
        recovery_s=5,
        place=on_sqlite,
        inject=lose_the_answer_of_sqlite,
    ),
    _on_postgresql(
        row=18,
        fault="commit's answer lost",
        expected="written once",
        redone=0,
        recovery_s=5,
        place=behind_a_proxy,
        inject=lose_the_answer,
    ),
    Case(
        row=19,
        fault="file locked",
        database="SQLite",
        expected="waits",
        redone=0,
        recovery_s=5,
        place=on_sqlite,
        inject=lock_the_file,
        outage_s=30,
        goes_on=True,
    ),
    *_on_both(
        row=20,
        fault="disk full",
        expected="pauses, says so, and goes on",
        redone=0,
        recovery_s=10,
        sqlite=sqlite_on_a_small_disk,
        postgresql=postgresql_on_a_small_disk,
        inject=fill_the_disk,
    ),
)
