"""The slot table: which ranks sit where.

All slots of a gang are granted together or not at all. Pure: no clock, no sockets; what workers exist is told to it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hpsearch.errors import GangTooLarge
from hpsearch.events import Seat


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRequest:
    """What one rank needs, and how many ranks make the gang."""

    ranks: int = 1
    cpus: int = 1
    gpus: int = 0
    memory_bytes: int | None = None

    def __str__(self) -> str:
        parts = [f"{self.cpus} CPU{'s' if self.cpus != 1 else ''}"]
        if self.gpus:
            parts.append(f"{self.gpus} GPU{'s' if self.gpus != 1 else ''}")
        if self.memory_bytes:
            parts.append(f"{self.memory_bytes / 1e9:.3g} GB of memory")
        ranks = f"{self.ranks} rank{'s' if self.ranks != 1 else ''}"
        return f"{ranks} with {', '.join(parts)} each"


@dataclass(slots=True)
class WorkerSlots:
    """One worker, cut into slots of the request's size."""

    worker: str
    host: str
    n_slots: int
    gpus: tuple[str, ...]
    gpus_per_slot: int
    taken: set[int] = field(default_factory=set)

    @property
    def free(self) -> list[int]:
        """Indices of the free slots, lowest first."""
        return [index for index in range(self.n_slots) if index not in self.taken]

    def gpus_of(self, slot: int) -> tuple[str, ...]:
        """The devices that belong to a slot for good, so that two ranks never share one."""
        first = slot * self.gpus_per_slot
        return self.gpus[first : first + self.gpus_per_slot]


class SlotTable:
    """Slots of all workers for gangs of one shape.

    Example:
        >>> table = SlotTable(RankRequest(ranks=1, cpus=1))
        >>> table.join("tcp://a:1", host="a", cpus=2)
        2
        >>> seats = table.acquire("trial 0")
        >>> [seat.slot for seat in seats]
        [0]
        >>> table.release("trial 0")
    """

    def __init__(self, request: RankRequest) -> None:
        self.request = request
        self._workers: dict[str, WorkerSlots] = {}
        self._leases: dict[str, tuple[Seat, ...]] = {}
        self._largest = (0, 0, 0)  # cpus, gpus, bytes of memory of the largest worker seen

    def join(
        self, worker: str, *, host: str, cpus: int, gpus: tuple[str, ...] = (), memory_bytes: int | None = None
    ) -> int:
        """Add a worker; returns its number of slots, which may be 0 if it is too small for one rank.

        A worker that joins again under the same address keeps its slots.
        """
        if worker not in self._workers:
            n_slots = self._n_slots(cpus, len(gpus), memory_bytes)
            self._largest = max(self._largest, (cpus, len(gpus), memory_bytes or 0))
            self._workers[worker] = WorkerSlots(worker, host, n_slots, gpus, self.request.gpus)
        return self._workers[worker].n_slots

    def _n_slots(self, cpus: int, n_gpus: int, memory_bytes: int | None) -> int:
        fits = [cpus // self.request.cpus]
        if self.request.gpus:
            fits.append(n_gpus // self.request.gpus)
        if self.request.memory_bytes and memory_bytes:
            fits.append(memory_bytes // self.request.memory_bytes)
        return min(fits)

    def leave(self, worker: str) -> None:
        """Forget a worker and the seats on it, so that one that returns under its address starts empty."""
        self._workers.pop(worker, None)
        for holder, seats in self._leases.items():
            self._leases[holder] = tuple(seat for seat in seats if seat.worker != worker)

    def n_slots_of(self, worker: str) -> int:
        """Slots of one worker, free or taken; 0 for one that is not in the table."""
        known = self._workers.get(worker)
        return known.n_slots if known else 0

    @property
    def n_slots(self) -> int:
        """Slots of all workers, free or taken."""
        return sum(worker.n_slots for worker in self._workers.values())

    @property
    def holds_a_gang(self) -> bool:
        """Whether these workers could hold a gang if they were idle."""
        return self.n_slots >= self.request.ranks

    @property
    def n_free(self) -> int:
        """Free slots of all workers."""
        return sum(len(worker.free) for worker in self._workers.values())

    @property
    def n_free_gangs(self) -> int:
        """How many more gangs could be placed now."""
        return self.n_free // self.request.ranks

    def n_free_gangs_off(self, avoid: frozenset[str]) -> int:
        """How many more gangs could be placed now by whoever avoids these hosts."""
        return sum(len(worker.free) for worker in self._apart_from(avoid)) // self.request.ranks

    def _apart_from(self, avoid: frozenset[str]) -> list[WorkerSlots]:
        """Workers on other hosts if those could hold a gang, else all: somewhere it has to run."""
        left = [worker for worker in self._workers.values() if worker.host not in avoid]
        return left if sum(worker.n_slots for worker in left) >= self.request.ranks else list(self._workers.values())

    def check(self) -> None:
        """Refuse a request that these workers could not hold even if they were idle.

        Raises:
            GangTooLarge: naming the largest gang that fits.
        """
        if self.holds_a_gang:
            return
        raise GangTooLarge(str(self.request), self._largest_that_fits())

    def _largest_that_fits(self) -> str:
        if self.n_slots:
            return f"{self.n_slots} rank{'s' if self.n_slots != 1 else ''} of that size"
        if not self._workers:
            return "nothing: it has no worker"
        cpus, n_gpus, memory_bytes = self._largest
        memory = memory_bytes if self.request.memory_bytes else None
        return str(RankRequest(cpus=cpus, gpus=n_gpus, memory_bytes=memory)).removesuffix(" each")

    def acquire(self, holder: str, *, avoid: frozenset[str] = frozenset()) -> tuple[Seat, ...] | None:
        """Seat a whole gang, or ``None`` while too few slots are free.

        One host is preferred to several, a fuller worker to an emptier one, so that wide gaps stay for wide gangs.
        Hosts in ``avoid`` are used only where the others could not hold the gang even if they were idle.

        Raises:
            GangTooLarge: if it could never be seated here.
        """
        if holder in self._leases:
            raise ValueError(f"{holder!r} holds seats already")
        self.check()
        picked = self._pick(self._apart_from(avoid))
        if len(picked) < self.request.ranks:
            return None
        seats = tuple(self._seats(picked))
        for seat in seats:
            self._workers[seat.worker].taken.add(seat.slot)
        self._leases[holder] = seats
        return seats

    def _pick(self, workers: list[WorkerSlots]) -> list[tuple[WorkerSlots, int]]:
        """Free slots for a gang, best first; fewer than it needs while too few are free."""
        free_on: Counter[str] = Counter()
        for worker in workers:
            free_on[worker.host] += len(worker.free)
        ranks = self.request.ranks

        def order(worker: WorkerSlots) -> tuple[bool, int, str, int, str]:
            room = free_on[worker.host]
            # Hosts that hold the whole gang come first, the tightest of them; else the roomiest, for the fewest hosts.
            fits = room >= ranks
            return (not fits, room if fits else -room, worker.host, len(worker.free), worker.worker)

        picked = [(worker, slot) for worker in sorted(workers, key=order) for slot in worker.free]
        return picked[:ranks]

    def _seats(self, picked: Iterable[tuple[WorkerSlots, int]]) -> Iterable[Seat]:
        local: Counter[str] = Counter()
        for rank, (worker, slot) in enumerate(picked):
            yield Seat(
                worker=worker.worker,
                host=worker.host,
                slot=slot,
                rank=rank,
                local_rank=local[worker.host],
                gpus=worker.gpus_of(slot),
            )
            local[worker.host] += 1

    def release(self, holder: str) -> None:
        """Give the seats back. Twice is once."""
        for seat in self._leases.pop(holder, ()):
            if worker := self._workers.get(seat.worker):
                worker.taken.discard(seat.slot)
