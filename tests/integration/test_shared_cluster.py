"""Several studies on one Dask cluster, with gangs of different sizes: no slot is held twice, nobody starves."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster
from gangs import of, run_gang

from hpsearch.placement import MAX_OVERTAKEN
from hpsearch.supervisor.leasing import Leasing

pytestmark = pytest.mark.timeout(400)

N_SLOTS = 4
LOAD = {"singles": (1, 140), "pairs": (2, 40), "fours": (4, 20)}  # study -> ranks, trials


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0", memory_limit=None) as cluster:
        yield cluster


class Books:
    """What the slot table in the scheduler (which lives in this process) did, seen from outside."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: list[Any] = []  # oldest first
        self.held: dict[Any, set[tuple[str, int]]] = {}
        self.overtaken: Counter[Any] = Counter()
        self.n_together = 0  # the most seats held at a time
        self.table: Any = None
        books, grant = self, Leasing._grant

        def watch(leasing: Leasing) -> None:
            table = books.table = leasing.table
            for holder in table.holders:
                if holder not in books.waiting and holder not in books.held:
                    books.waiting.append(holder)
            grant(leasing)
            books.look(table)

        monkeypatch.setattr(Leasing, "_grant", watch)

    def look(self, table: Any) -> None:
        for holder in set(self.held) - set(table.holders):
            del self.held[holder]
        for holder in [holder for holder in self.waiting if table.seats_of(holder)]:
            older = self.waiting[: self.waiting.index(holder)]
            self.overtaken.update(one for one in older if not table.seats_of(one))
            self.held[holder] = {(seat.worker, seat.slot) for seat in table.seats_of(holder)}
        self.waiting = [holder for holder in table.holders if not table.seats_of(holder)]
        places = [place for places in self.held.values() for place in places]
        assert len(places) == len(set(places)) <= N_SLOTS
        self.n_together = max(self.n_together, len(places))


def test_gangs_of_1_2_and_4_from_three_studies_share_four_slots(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = Books(monkeypatch)
    said: dict[str, list[dict[str, Any]]] = {}

    def run(name: str) -> None:
        ranks, trials = LOAD[name]
        said[name] = run_gang(
            tmp_path, "short", ranks=ranks, trials=trials, scheduler=cluster.scheduler_address, name=name,
            pruner="none", sampler="random",
        )  # fmt: skip

    threads = [threading.Thread(target=run, args=(name,)) for name in LOAD]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, (_, trials) in LOAD.items():
        assert of(said[name], "outcome")[0]["exit_code"] == 0, said[name][-3:]
        assert len(of(said[name], "trial.completed")) == trials
        assert not of(said[name], "study.warning")
    assert books.n_together == N_SLOTS
    assert max(books.overtaken.values(), default=0) <= MAX_OVERTAKEN
    assert books.table.holders == []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_slots_of_a_killed_coordinator_are_free_once_its_ranks_are_dead(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = Books(monkeypatch)
    program = (
        "import sys; from pathlib import Path; from gangs import run_gang;"
        f"run_gang(Path({str(tmp_path)!r}), 'sleepy', ranks=2, trials=2, name='killed',"
        f" scheduler={cluster.scheduler_address!r}, pruner='none', sampler='random')"
    )
    path = os.pathsep.join(sys.path)
    victim = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path})
    try:
        wait_until(lambda: len(list(tmp_path.glob("killed/trial-*/attempt-1-rank-*.json"))) == 4)
        assert len(books.table.holders) == 2
    finally:
        victim.kill()
        victim.wait()
    said = run_gang(
        tmp_path, "short", ranks=4, trials=3, scheduler=cluster.scheduler_address, name="next", pruner="none",
        sampler="random",
    )  # fmt: skip
    assert len(of(said, "trial.completed")) == 3
    assert books.table.holders == []
