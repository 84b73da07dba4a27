"""How many trials are worth asking for, on slots that other studies may use, too."""

from dataclasses import replace

from hpsearch.events import WorkerJoined
from hpsearch.placement import RankRequest, SlotTable


class Demand:
    """What the workers hold, whether others have a share in it, and who waits. Seats are granted elsewhere.

    Args:
        request: the shape of every gang of this study.
        ask_ahead: how many trials may be asked for beyond the free slots, so that a freed slot finds one ready.
    """

    def __init__(self, request: RankRequest, ask_ahead: int = 0) -> None:
        self._table = SlotTable()
        self._request = request
        self._ask_ahead = ask_ahead
        self._n_gangs = 0
        self._contended = False  # whether somebody had to queue at the last request
        self.waiting: dict[int, bool | None] = {}  # trial -> whether it had to queue; None: not asked yet; oldest first

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

    def queued(self, trial: int) -> None:
        """No seats were free for it."""
        self.waiting[trial] = True
        self._contended = True

    def seated(self, trial: int) -> None:
        """It has its seats."""
        if not self.waiting.pop(trial):
            self._contended = False

    def first(self, trial: int) -> None:
        """It waits again, and has waited its turn already."""
        self.waiting = {trial: None, **self.waiting}

    def to_acquire(self, n_running: int, choosy: frozenset[int]) -> list[int]:
        """Ready trials for which seats are to be asked for now.

        However many are ready, one request of a study stands in the queue when no slot is free: among studies seats go
        by age, and who proposes far ahead must not get more of them for it.

        Args:
            choosy: waiting trials that avoid hosts which others take; they are in nobody's way.
        """
        n_open = sum(queued is not None for trial, queued in self.waiting.items() if trial not in choosy)
        n_more = max(max(self._n_free(n_running), 1) - n_open, 0)
        ready = [trial for trial, queued in self.waiting.items() if queued is None]
        found = [trial for trial in ready if trial in choosy]
        found += [trial for trial in ready if trial not in choosy][:n_more]
        self.waiting.update(dict.fromkeys(found, False))
        return found

    def _n_free(self, n_running: int) -> int:
        n_free = self._n_gangs - n_running
        return min(n_free, 1) if self._contended else n_free

    def counts(self, *, n_running: int, n_asked: int, choosy: frozenset[int]) -> tuple[int, int]:
        """How many trials are needed now, and how many are wanted with those asked ahead; either may be negative.

        While others hold what seems free, one trial at a time finds out whether that has changed: a trial that waits
        for long was proposed with less knowledge than it could have been.
        """
        if not self._n_gangs:
            return 0, 0
        n_needed = self._n_free(n_running) - len(self.waiting.keys() - choosy) - n_asked
        return n_needed, n_needed + self._ask_ahead
