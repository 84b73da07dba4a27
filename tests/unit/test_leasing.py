"""Coordinators and the slot table in the scheduler: what is lost is made good, and nothing outlives its owner."""

from typing import Any

from hpsearch.coordinator.leases import CLAIM_S, Leases
from hpsearch.placement import RankRequest
from hpsearch.supervisor.leasing import Leasing

FACTS = {"host": "h", "cpus": 2, "gpus": [], "memory_bytes": None}


class Scheduler:
    """A slot table, what it said to each client, and a line that can be cut."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, int, int]] = []  # client, what, trial, attempt
        self.absent: set[str] = set()
        self.leasing = Leasing(self.hear)
        self.leasing.joined("w", FACTS)
        self.now = 0.0

    def hear(self, client: str, body: dict[str, Any]) -> bool:
        if client in self.absent:
            return False
        self.said.append((client, body["op"], body["trial"], body["attempt"]))
        return True

    def told(self) -> list[tuple[str, str, int, int]]:
        said, self.said = self.said, []
        return said


class Line:
    """From one coordinator to the table."""

    def __init__(self, scheduler: Scheduler, client: str) -> None:
        self.scheduler, self.client, self.cut = scheduler, client, False

    def order(self, body: dict[str, Any]) -> None:
        if not self.cut:
            self.scheduler.leasing.order(self.client, {**body, "run": "r"})


def coordinator(scheduler: Scheduler, client: str, ranks: int = 1) -> tuple[Leases, Line]:
    line = Line(scheduler, client)
    return Leases(line, lambda: scheduler.now, RankRequest(ranks=ranks)), line  # type: ignore[arg-type]


def test_two_studies_never_hold_one_slot_and_a_freed_one_is_granted_at_once() -> None:
    scheduler = Scheduler()
    a, _ = coordinator(scheduler, "a")
    b, _ = coordinator(scheduler, "b", ranks=2)
    a.acquire(0, 1)
    b.acquire(0, 1)
    a.acquire(1, 1)
    assert scheduler.told() == [("a", "seated", 0, 1), ("b", "queued", 0, 1), ("a", "seated", 1, 1)]
    scheduler.leasing.ended("a", "w", ["r", 0, 1, 0])
    assert scheduler.told() == []
    scheduler.leasing.ended("a", "w", ["r", 1, 1, 0])
    assert scheduler.told() == [("b", "seated", 0, 1)]


def test_lost_orders_and_answers_are_made_good_by_the_next_claim() -> None:
    scheduler = Scheduler()
    a, line = coordinator(scheduler, "a")
    a.acquire(0, 1)
    a.seated(0, 1)
    line.cut = True
    a.acquire(1, 1)  # lost
    line.cut = False
    a.repeat()
    assert scheduler.told() == [("a", "seated", 0, 1)]  # not yet
    scheduler.now = CLAIM_S
    a.repeat()
    assert scheduler.told() == [("a", "seated", 1, 1)]
    a.seated(1, 1)
    a.acquire(2, 1)
    a.release(0, 1)  # its rank has ended, and the word of it was lost
    assert scheduler.told() == [("a", "queued", 2, 1)]
    a.repeat()
    assert scheduler.told() == [("a", "seated", 2, 1)]
    a.release(1, 1)
    a.seated(2, 1)
    a.acquire(3, 1)
    a.repeat()
    assert scheduler.told() == [("a", "queued", 3, 1), ("a", "seated", 3, 1)]
    assert len(scheduler.leasing.table.holders) == 2
    scheduler.now = 2 * CLAIM_S
    a.repeat()  # the answer was lost
    assert scheduler.told() == [("a", "seated", 3, 1)]


def test_a_gang_that_lost_a_worker_before_it_began_is_seated_anew() -> None:
    scheduler = Scheduler()
    scheduler.leasing.joined("v", {**FACTS, "cpus": 1})
    a, _ = coordinator(scheduler, "a", ranks=3)
    a.acquire(0, 1)
    scheduler.leasing.left("v")
    scheduler.leasing.joined("u", {**FACTS, "cpus": 1})
    scheduler.told()
    scheduler.now = CLAIM_S
    a.repeat()
    assert scheduler.told() == [("a", "seated", 0, 1)]
    assert {seat.worker for seat in scheduler.leasing.table.seats_of(("a", "r", 0, 1))} == {"w", "u"}


def test_a_coordinator_that_is_gone_waits_no_more_and_holds_until_its_ranks_are_dead() -> None:
    scheduler = Scheduler()
    a, _ = coordinator(scheduler, "a")
    b, _ = coordinator(scheduler, "b")
    for trial in range(3):
        a.acquire(trial, 1)
    b.acquire(0, 1)
    scheduler.absent.add("a")
    scheduler.told()
    scheduler.leasing.forget("a")
    assert scheduler.told() == []
    scheduler.leasing.ended("a", "other", ["r"])
    assert scheduler.told() == []
    scheduler.leasing.ended("a", "w", ["r"])
    assert scheduler.told() == [("b", "seated", 0, 1)]
    assert scheduler.leasing.table.holders == [("b", "r", 0, 1)]


def test_what_is_granted_to_nobody_is_free() -> None:
    scheduler = Scheduler()
    a, line = coordinator(scheduler, "a")
    scheduler.absent.add("a")
    a.acquire(0, 1)
    assert scheduler.leasing.table.holders == []
    scheduler.absent.clear()
    a.acquire(1, 1)
    line.order({"op": "leave"})  # it holds what it has
    assert scheduler.leasing.table.holders == [("a", "r", 1, 1)]
    line.order({"op": "claim", "wanted": [], "held": []})
    assert scheduler.leasing.table.holders == []
