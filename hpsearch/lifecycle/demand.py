"""How many trials are worth asking for, on slots that other studies may use, too."""

from dataclasses import replace

from hpsearch.events import WorkerJoined
from hpsearch.placement import RankRequest, SlotTable


class Demand:
    """What the workers hold, and whether others have a share in it. Seats are granted elsewhere.

    Args:
        request: the shape of every gang of this study.
        ask_ahead: how many trials may be asked for beyond the free slots, so that a freed slot finds one ready.
    """

    def __init__(self, request: RankRequest, ask_ahead: int = 0) -> None:
        self._table = SlotTable()
        self._request = request
        self._ask_ahead = ask_ahead
        self._n_gangs = 0
        self._contended = False

    def join(self, event: WorkerJoined) -> None:
        """More room."""
        self._table.join(
            event.worker, host=event.host, cpus=event.cpus, gpus=event.gpus, memory_bytes=event.memory_bytes
        )
        self._n_gangs = self._table.n_gangs(self._request)
        self._contended = False

    def leave(self, worker: str) -> None:
        """Less room."""
        self._table.leave(worker)
        self._n_gangs = self._table.n_gangs(self._request)

    def avoid(self, hosts: frozenset[str]) -> None:
        """Count on these hosts only where there are no others."""
        if hosts != self._request.avoid:
            self._request = replace(self._request, avoid=hosts)
            self._n_gangs = self._table.n_gangs(self._request)

    def n_slots_of(self, worker: str) -> int:
        """Ranks that one worker holds."""
        return self._table.n_slots_of(worker, self._request)

    @property
    def holds_a_gang(self) -> bool:
        """Whether these workers could hold a gang if they were idle."""
        return self._n_gangs > 0

    def answered(self, *, at_once: bool) -> None:
        """An attempt got its seats at once, or had to queue."""
        self._contended = not at_once

    def counts(self, *, n_running: int, n_waiting: int, n_asked: int) -> tuple[int, int]:
        """How many trials are needed now, and how many are wanted with those asked ahead; either may be negative.

        While others hold what seems free, one trial at a time finds out whether that has changed: a trial that waits
        for long was proposed with less knowledge than it could have been.
        """
        if not self._n_gangs:
            return 0, 0
        n_free = self._n_gangs - n_running
        n_needed = (min(n_free, 1) if self._contended else n_free) - n_waiting - n_asked
        return n_needed, n_needed + self._ask_ahead
