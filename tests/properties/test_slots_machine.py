"""Slot accounting for gangs of any shape under any order of joins, losses, requests and ends; and nobody starves."""

import random
from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hpsearch.events import Seat
from hpsearch.placement import DEVICE, MAX_OVERTAKEN, RankRequest, SlotTable

WORKERS = [f"w{index}" for index in range(4)]
HOLDERS = [f"h{index}" for index in range(8)]
SHAPES = st.builds(
    RankRequest,
    ranks=st.integers(1, 4),
    cpus=st.integers(1, 2),
    gpus=st.sampled_from([0, 0, 0.25, 0.5, 1, 2]),
    memory_bytes=st.sampled_from([None, 3]),
    one_host=st.booleans(),
    avoid=st.sampled_from([frozenset(), frozenset({"a"})]),
)


class SlotMachine(RuleBasedStateMachine):
    """The table against a plain model: who holds which seats, and who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable()
        self.size: dict[str, tuple[str, int]] = {}  # worker -> host, CPUs (as many GPUs, 4 bytes of memory for each)
        self.waiting: dict[str, RankRequest] = {}  # oldest first
        self.arrivals: dict[str, int] = {}
        self.n_arrived = 0
        self.overtaken: Counter[str] = Counter()
        self.held: dict[str, tuple[RankRequest, list[Seat]]] = {}
        self.running: dict[str, set[int]] = {}

    @rule(worker=st.sampled_from(WORKERS), cpus=st.integers(0, 4), host=st.sampled_from("ab"))
    def join(self, worker: str, cpus: int, host: str) -> None:
        # Workers of one host share its devices, each with the list in an order of its own, as dask-cuda has it.
        gpus = [f"{host}{index}" for index in range(cpus)]
        turn = WORKERS.index(worker) % max(cpus, 1)
        self.table.join(worker, host=host, cpus=cpus, gpus=tuple(gpus[turn:] + gpus[:turn]), memory_bytes=4 * cpus)
        self.size.setdefault(worker, (host, cpus))
        self.grant()

    @rule(worker=st.sampled_from(WORKERS))
    def leave(self, worker: str) -> None:
        self.table.leave(worker)
        self.size.pop(worker, None)
        for holder, (request, seats) in list(self.held.items()):
            self.running[holder] -= {seat.rank for seat in seats if seat.worker == worker}
            self.held[holder] = (request, [seat for seat in seats if seat.worker != worker])
            self.settle(holder)
        self.grant()

    @rule(holder=st.sampled_from(HOLDERS), request=SHAPES)
    def ask(self, holder: str, request: RankRequest) -> None:
        self.table.ask(holder, request)
        if holder not in self.held and holder not in self.waiting:
            self.waiting[holder] = request
            self.n_arrived += 1
            self.arrivals[holder] = self.n_arrived
        self.grant()

    @rule(holder=st.sampled_from(HOLDERS), rank=st.integers(0, 3))
    def end_rank(self, holder: str, rank: int) -> None:
        self.table.end_rank(holder, rank)
        if holder in self.held:
            self.running[holder].discard(rank)
            self.settle(holder)
        self.grant()

    @rule(holder=st.sampled_from(HOLDERS))
    def release(self, holder: str) -> None:
        self.table.release(holder)
        self.waiting.pop(holder, None)
        self.overtaken.pop(holder, None)
        self.held.pop(holder, None)
        self.grant()

    def settle(self, holder: str) -> None:
        if not self.running[holder]:
            del self.held[holder]

    def grant(self) -> None:
        for holder, seats in self.table.grants():
            request = self.waiting.pop(str(holder))
            self.overtaken.pop(str(holder), None)
            assert [seat.rank for seat in seats] == list(range(request.ranks))
            assert len({seat.host for seat in seats}) == 1 or not request.one_host
            expected = int(request.gpus) if request.gpus >= 1 else int(request.gpus > 0)
            assert all(len(seat.gpus) == expected for seat in seats)
            self.held[str(holder)] = (request, list(seats))
            self.running[str(holder)] = set(range(request.ranks))
            for older in self.older_than(str(holder)):
                self.overtaken[older] += 1
                assert self.overtaken[older] <= MAX_OVERTAKEN

    def older_than(self, holder: str) -> list[str]:
        """Who still waits, came before, and could be seated here at all."""
        position = self.arrivals[holder]
        return [one for one, r in self.waiting.items() if self.arrivals[one] < position and self.table.n_gangs(r)]

    @invariant()
    def books_agree(self) -> None:
        cpus: Counter[str] = Counter()
        memory: Counter[str] = Counter()
        parts: Counter[tuple[str, str]] = Counter()
        places: list[tuple[str, int]] = []
        for request, seats in self.held.values():
            for seat in seats:
                cpus[seat.worker] += request.cpus
                memory[seat.worker] += request.memory_bytes or 0
                parts.update({(seat.host, gpu): request.parts for gpu in seat.gpus})
                places.append((seat.worker, seat.slot))
        assert len(places) == len(set(places))
        assert all(used <= self.size[worker][1] for worker, used in cpus.items())
        assert all(used <= 4 * self.size[worker][1] for worker, used in memory.items())
        assert all(used <= DEVICE for used in parts.values())
        assert set(self.table.holders) == {*self.held, *self.waiting}
        assert all(list(self.table.seats_of(holder)) == seats for holder, (_, seats) in self.held.items())

    @invariant()
    def nobody_waits_for_an_idle_cluster(self) -> None:
        if not self.held:
            assert not [holder for holder, request in self.waiting.items() if self.table.n_gangs(request)]


TestSlots = SlotMachine.TestCase
TestSlots.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_mixed_load_is_served_without_deadlock_or_starvation(seed: int) -> None:
    """200 gangs of 1, 2 and 4 ranks from two studies on 4 slots; ends come in any order."""
    chance = random.Random(seed)
    table = SlotTable()
    for worker in ("w0", "w1"):
        table.join(worker, host="h", cpus=2)
    load = [((study, trial), RankRequest(ranks=chance.choice([1, 2, 4]))) for study in "ab" for trial in range(100)]
    chance.shuffle(load)
    waiting: dict[object, RankRequest] = {}
    overtaken: defaultdict[object, int] = defaultdict(int)
    running: list[object] = []
    n_done = 0
    while load or waiting or running:
        for _ in range(chance.randint(0, 3)):
            if load:
                holder, request = load.pop()
                waiting[holder] = request
                table.ask(holder, request)
        for holder, _ in table.grants():
            ahead = list(waiting)[: list(waiting).index(holder)]
            del waiting[holder]
            running.append(holder)
            for older in ahead:
                overtaken[older] += 1
                assert overtaken[older] <= MAX_OVERTAKEN
        assert running or not waiting, "deadlock"
        if running:
            holder = running.pop(chance.randrange(len(running)))
            table.release(holder)
            n_done += 1
    assert n_done == 200
    assert table.holders == []
    table.ask("whole", RankRequest(ranks=4))
    assert [holder for holder, _ in table.grants()] == ["whole"]  # every slot is there again
