"""The slot table: which ranks sit where, for gangs of any shape and of several studies in one table.

All seats of a gang are granted together or not at all. Pure: no clock, no sockets; what workers exist is told to it.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace

from hpsearch.errors import GangTooLarge
from hpsearch.events import Seat

# Smaller gangs may pass while a bigger one waits, but no gang is passed by more than this many younger ones.
MAX_OVERTAKEN = 8
DEVICE = 1_000_000  # parts of one GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRequest:
    """What one rank needs, and how many ranks make the gang."""

    ranks: int = 1
    cpus: int = 1
    gpus: float = 0  # whole devices, or a part of one
    memory_bytes: int | None = None
    one_host: bool = False
    avoid: frozenset[str] = frozenset()  # hosts that are not used, as long as there are enough others

    def __str__(self) -> str:
        parts = [f"{self.cpus} CPU{'s' if self.cpus != 1 else ''}"]
        if self.gpus:
            parts.append(f"{self.gpus:g} GPU{'s' if self.gpus > 1 else ''}")
        if self.memory_bytes:
            parts.append(f"{self.memory_bytes / 1e9:.3g} GB of memory")
        ranks = f"{self.ranks} rank{'s' if self.ranks != 1 else ''}"
        return f"{ranks} with {', '.join(parts)} each{' on one host' if self.one_host and self.ranks > 1 else ''}"

    @property
    def parts(self) -> int:
        """Of each device that a rank holds."""
        return DEVICE if self.gpus >= 1 else max(int(self.gpus * DEVICE), 1)

    def fits_in(self, cpus: int, free: Iterable[int], memory_bytes: int | None) -> int:
        """How many ranks so much holds; ``free`` are the free parts of each device."""
        fits = [cpus // self.cpus]
        if self.gpus >= 1:
            fits.append(sum(parts == DEVICE for parts in free) // int(self.gpus))
        elif self.gpus:
            fits.append(sum(parts // self.parts for parts in free))
        if self.memory_bytes and memory_bytes is not None:
            fits.append(memory_bytes // self.memory_bytes)
        return max(min(fits), 0)


@dataclass(slots=True)
class _Worker:
    name: str
    host: str
    cpus: int
    gpus: tuple[str, ...]
    memory_bytes: int | None
    free_cpus: int
    free_memory: int | None
    slots: set[int] = field(default_factory=set)  # taken numbers
    closed: bool = False  # it keeps what sits there, and gets nothing more


@dataclass(slots=True)
class _Lease:
    request: RankRequest
    seats: dict[int, Seat]  # by rank, on workers that are there
    running: set[int]


@dataclass(slots=True)
class _Waiting:
    request: RankRequest
    n_overtaken: int = 0


class SlotTable:
    """Slots of all workers.

    Example:
        >>> table = SlotTable()
        >>> table.join("tcp://a:1", host="a", cpus=2)
        >>> table.ask("trial 0", RankRequest(ranks=2))
        >>> [(holder, [seat.slot for seat in seats]) for holder, seats in table.grants()]
        [('trial 0', [0, 1])]
        >>> table.release("trial 0")
    """

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._used: defaultdict[tuple[str, str], int] = defaultdict(int)  # (host, GPU) -> parts; workers may share one
        self._leases: dict[Hashable, _Lease] = {}
        self._waiting: dict[Hashable, _Waiting] = {}  # oldest first

    # ------------------------------------------------------------------------------------- workers

    def join(
        self, worker: str, *, host: str, cpus: int, gpus: tuple[str, ...] = (), memory_bytes: int | None = None
    ) -> None:
        """Add a worker. One that joins again under the same address keeps its slots."""
        if worker not in self._workers:
            self._workers[worker] = _Worker(worker, host, cpus, tuple(gpus), memory_bytes, cpus, memory_bytes)

    def leave(self, worker: str) -> None:
        """Forget a worker and the seats on it, so that one that returns under its address starts empty."""
        self._workers.pop(worker, None)
        for holder, lease in list(self._leases.items()):
            for rank, seat in list(lease.seats.items()):
                if seat.worker == worker:
                    self._give_up(seat, lease.request)
                    del lease.seats[rank]
                    self.end_rank(holder, rank)

    def close(self, worker: str) -> None:
        """Seat nobody more on a worker, which is about to leave. Twice is once."""
        if (known := self._workers.get(worker)) is not None:
            known.closed = True

    def n_slots_of(self, worker: str, request: RankRequest) -> int:
        """How many ranks one worker holds when idle; 0 for one that is not in the table."""
        known = self._workers.get(worker)
        if known is None or known.closed:
            return 0
        return request.fits_in(known.cpus, [DEVICE] * len(known.gpus), known.memory_bytes)

    def n_slots(self, request: RankRequest) -> int:
        """How many ranks all workers hold when idle."""
        return sum(self._n_slots_by_host(request).values())

    def n_gangs(self, request: RankRequest) -> int:
        """How many gangs all workers hold when idle."""
        return self._n_gangs(self._possible(request))

    def _possible(self, request: RankRequest) -> RankRequest:
        """Hosts are avoided only while the others could hold the gang."""
        return replace(request, avoid=frozenset()) if request.avoid and not self._n_gangs(request) else request

    def _n_gangs(self, request: RankRequest) -> int:
        by_host = self._n_slots_by_host(request)
        if request.one_host:
            return sum(n // request.ranks for n in by_host.values())
        return sum(by_host.values()) // request.ranks

    def _n_slots_by_host(self, request: RankRequest) -> dict[str, int]:
        by_host: defaultdict[str, int] = defaultdict(int)
        devices: defaultdict[str, set[str]] = defaultdict(set)
        for worker in self._workers.values():
            if worker.host not in request.avoid:
                by_host[worker.host] += self.n_slots_of(worker.name, request)
                devices[worker.host].update(worker.gpus)
        for host, gpus in devices.items():  # several workers may offer one device
            by_host[host] = min(by_host[host], request.fits_in(10**9, [DEVICE] * len(gpus), None))
        return by_host

    def check(self, request: RankRequest) -> None:
        """Refuse a request that these workers could not hold even if they were idle.

        Raises:
            GangTooLarge: naming the largest gang that fits.
        """
        if not self.n_gangs(request):
            raise GangTooLarge(str(request), self._largest_that_fits(request))

    def _largest_that_fits(self, request: RankRequest) -> str:
        by_host = self._n_slots_by_host(request).values()
        if n := max(by_host, default=0) if request.one_host else sum(by_host):
            return f"{n} rank{'s' if n != 1 else ''} of that size{' on one host' if request.one_host else ''}"
        if not self._workers:
            return "nothing: it has no worker"
        cpus, n_gpus, memory = max((w.cpus, len(w.gpus), w.memory_bytes or 0) for w in self._workers.values())
        largest = RankRequest(cpus=cpus, gpus=n_gpus, memory_bytes=memory if request.memory_bytes else None)
        return str(largest).removesuffix(" each")

    # ------------------------------------------------------------------------------------- seats

    def ask(self, holder: Hashable, request: RankRequest) -> None:
        """Queue up for a gang's seats. Twice is once; a holder that has its seats keeps them."""
        if holder not in self._leases:
            self._waiting.setdefault(holder, _Waiting(request))

    def grants(self) -> list[tuple[Hashable, tuple[Seat, ...]]]:
        """Seat whoever can be seated, oldest first; each grant is returned once.

        A gang that does not fit is passed by younger ones that do, at most MAX_OVERTAKEN times; then whatever is freed
        is kept for it. Gangs that no longer fit on the workers there are stand in nobody's way.
        """
        granted: list[tuple[Hashable, tuple[Seat, ...]]] = []
        passed: dict[RankRequest, list[_Waiting]] = {}  # what was found not to fit now
        for holder, waiting in list(self._waiting.items()):
            seats = None if waiting.request in passed else self._seat(self._possible(waiting.request))
            if seats is None:
                passed.setdefault(waiting.request, []).append(waiting)
            else:
                for older in passed.values():
                    for one in older:
                        one.n_overtaken += 1
                del self._waiting[holder]
                self._leases[holder] = _Lease(waiting.request, dict(enumerate(seats)), set(range(len(seats))))
                granted.append((holder, seats))
            if any(older[0].n_overtaken >= MAX_OVERTAKEN and self.n_gangs(shape) for shape, older in passed.items()):
                break
        return granted

    def seats_of(self, holder: Hashable) -> tuple[Seat, ...]:
        """What a holder was granted, on workers that are still there; empty for none."""
        lease = self._leases.get(holder)
        return tuple(lease.seats.values()) if lease else ()

    @property
    def holders(self) -> list[Hashable]:
        """Who has seats or waits for them."""
        return [*self._leases, *self._waiting]

    def end_rank(self, holder: Hashable, rank: int) -> None:
        """A rank of the gang is reaped. All seats are given back together with the last one. Twice is once."""
        if (lease := self._leases.get(holder)) is not None:
            lease.running.discard(rank)
            if not lease.running:
                self.release(holder)

    def end_ranks_on(self, holder: Hashable, worker: str) -> None:
        """Nothing of the gang runs on this worker any more."""
        for seat in self.seats_of(holder):
            if seat.worker == worker:
                self.end_rank(holder, seat.rank)

    def release(self, holder: Hashable) -> None:
        """Give the seats back, or leave the queue. Twice is once."""
        self._waiting.pop(holder, None)
        if (lease := self._leases.pop(holder, None)) is not None:
            for seat in lease.seats.values():
                self._give_up(seat, lease.request)

    def _give_up(self, seat: Seat, request: RankRequest) -> None:
        for gpu in seat.gpus:
            self._used[seat.host, gpu] -= request.parts
        if worker := self._workers.get(seat.worker):
            worker.slots.discard(seat.slot)
            worker.free_cpus += request.cpus
            if worker.free_memory is not None:
                worker.free_memory += request.memory_bytes or 0

    def _seat(self, request: RankRequest) -> tuple[Seat, ...] | None:
        """One host is preferred to several, a fuller one to an emptier one, so that wide gaps stay for wide gangs."""
        workers = [worker for worker in self._workers.values() if worker.host not in request.avoid]
        room = {worker.name: self._room(worker, request) for worker in workers}
        on_host: defaultdict[str, int] = defaultdict(int)
        for worker in workers:
            on_host[worker.host] += room[worker.name]

        def order(worker: _Worker) -> tuple[bool, int, str, int, str]:
            n = on_host[worker.host]
            # Hosts that hold the whole gang come first, the tightest of them; else the roomiest, for the fewest hosts.
            fits = n >= request.ranks
            return (not fits, n if fits else -n, worker.host, room[worker.name], worker.name)

        seats: list[Seat] = []
        for worker in sorted((worker for worker in workers if room[worker.name]), key=order):
            if request.one_host and seats and seats[0].host != worker.host:
                self._undo(seats, request)
            while len(seats) < request.ranks and self._room(worker, request):
                seats.append(self._take(worker, request, seats))
            if len(seats) == request.ranks:
                return tuple(seats)
        self._undo(seats, request)
        return None

    def _undo(self, seats: list[Seat], request: RankRequest) -> None:
        while seats:
            self._give_up(seats.pop(), request)

    def _room(self, worker: _Worker, request: RankRequest) -> int:
        if worker.closed:
            return 0
        free = [DEVICE - self._used[worker.host, gpu] for gpu in worker.gpus]
        return request.fits_in(worker.free_cpus, free, worker.free_memory)

    def _take(self, worker: _Worker, request: RankRequest, seats: list[Seat]) -> Seat:
        used = {gpu: self._used[worker.host, gpu] for gpu in worker.gpus}
        if request.gpus >= 1:  # in the worker's order: dask-cuda gives each the whole list and means its first
            gpus = [gpu for gpu in worker.gpus if not used[gpu]][: int(request.gpus)]
        elif request.gpus:  # the fullest that has room, so that whole devices stay free
            gpus = [max((gpu for gpu in worker.gpus if used[gpu] + request.parts <= DEVICE), key=used.__getitem__)]
        else:
            gpus = []
        slot = next(number for number in range(len(worker.slots) + 1) if number not in worker.slots)
        worker.slots.add(slot)
        worker.free_cpus -= request.cpus
        if worker.free_memory is not None:
            worker.free_memory -= request.memory_bytes or 0
        for gpu in gpus:
            self._used[worker.host, gpu] += request.parts
        local_rank = sum(seat.host == worker.host for seat in seats)
        place = Seat(worker=worker.name, host=worker.host, slot=slot, rank=len(seats), local_rank=local_rank)
        return replace(place, gpus=tuple(gpus))
