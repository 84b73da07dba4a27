"""Slot accounting under any order of joins, losses, acquisitions and releases."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hpsearch.errors import GangTooLarge
from hpsearch.events import Seat
from hpsearch.placement import RankRequest, SlotTable

WORKERS = [f"w{index}" for index in range(4)]
HOLDERS = [f"h{index}" for index in range(6)]


class SlotMachine(RuleBasedStateMachine):
    """The table against a plain model: which (worker, slot) is held by whom."""

    @initialize(ranks=st.integers(1, 4), gpus=st.integers(0, 1))
    def begin(self, ranks: int, gpus: int) -> None:
        self.ranks, self.gpus = ranks, gpus
        self.table = SlotTable(RankRequest(ranks=ranks, gpus=gpus))
        self.size: dict[str, int] = {}
        self.held: dict[str, list[Seat]] = {}

    @rule(worker=st.sampled_from(WORKERS), cpus=st.integers(0, 4), host=st.sampled_from("ab"))
    def join(self, worker: str, cpus: int, host: str) -> None:
        n_slots = self.table.join(worker, host=host, cpus=cpus, gpus=tuple(f"{worker}-{i}" for i in range(cpus)))
        self.size.setdefault(worker, cpus)
        assert n_slots == self.size[worker]

    @rule(worker=st.sampled_from(WORKERS))
    def leave(self, worker: str) -> None:
        self.table.leave(worker)
        self.size.pop(worker, None)
        for holder, seats in self.held.items():
            self.held[holder] = [seat for seat in seats if seat.worker != worker]

    @rule(holder=st.sampled_from(HOLDERS))
    def acquire(self, holder: str) -> None:
        if holder in self.held:
            return
        free = sum(self.size.values()) - self.n_held
        try:
            seats = self.table.acquire(holder)
        except GangTooLarge:
            assert sum(self.size.values()) < self.ranks
            return
        if seats is None:
            assert free < self.ranks
            return
        assert [seat.rank for seat in seats] == list(range(self.ranks))
        assert all(len(seat.gpus) == self.gpus for seat in seats)
        self.held[holder] = list(seats)

    @rule(holder=st.sampled_from(HOLDERS))
    def release(self, holder: str) -> None:
        self.table.release(holder)
        self.held.pop(holder, None)

    @property
    def n_held(self) -> int:
        return sum(len(seats) for seats in self.held.values())

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "table"):
            return
        assert self.table.n_slots == sum(self.size.values())
        assert self.table.n_free == sum(self.size.values()) - self.n_held

    @invariant()
    def nothing_is_held_twice(self) -> None:
        if not hasattr(self, "table"):
            return
        places = [(seat.worker, seat.slot) for seats in self.held.values() for seat in seats]
        assert len(places) == len(set(places))
        gpus = [gpu for seats in self.held.values() for seat in seats for gpu in seat.gpus]
        assert len(gpus) == len(set(gpus))


TestSlots = SlotMachine.TestCase
TestSlots.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
