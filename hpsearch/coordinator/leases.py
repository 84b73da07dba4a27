"""The coordinator's end of the slot table in the scheduler: what it holds and wants, said again until it is heard."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from hpsearch.coordinator.link import Link
from hpsearch.placement import RankRequest

CLAIM_S = 5.0

AttemptKey = tuple[int, int]  # trial, attempt


class Leases:
    """Seats of one study's attempts.

    Args:
        link: carries, and may lose.
        clock: seconds, only ever growing.
        request: the shape of every gang.
    """

    def __init__(self, link: Link, clock: Callable[[], float], request: RankRequest) -> None:
        self._link = link
        self._clock = clock
        self._request = request
        self._wanted: dict[AttemptKey, dict[str, Any]] = {}
        self._held: set[AttemptKey] = set()
        self._claim_by = clock() + CLAIM_S

    def acquire(self, trial: int, attempt: int, avoid: frozenset[str] = frozenset()) -> None:
        """Ask for a gang's seats, on other hosts than those to avoid if there are enough."""
        request = {**asdict(self._request), "avoid": sorted(self._request.avoid | avoid)}
        self._wanted[trial, attempt] = request
        self._link.order({"op": "acquire", "trial": trial, "attempt": attempt, "request": request})

    def seated(self, trial: int, attempt: int) -> None:
        """The seats are there."""
        if self._wanted.pop((trial, attempt), None) is not None:
            self._held.add((trial, attempt))

    def release(self, trial: int, attempt: int) -> None:
        """Give them back, or want them no more. Twice is once."""
        if (trial, attempt) in self._held:
            # The slot table has heard of every end by itself, most likely; the next claim makes sure of it.
            self._held.discard((trial, attempt))
            self._claim_by = self._clock()
        else:
            self._wanted.pop((trial, attempt), None)
            self._link.order({"op": "release", "trial": trial, "attempt": attempt})

    def repeat(self) -> None:
        """Say everything again now and then: an order, its answer or the end of a rank may be lost without a word."""
        if self._clock() < self._claim_by:
            return
        self._claim_by = self._clock() + CLAIM_S
        wanted = [[*key, request] for key, request in self._wanted.items()]
        self._link.order({"op": "claim", "wanted": wanted, "held": sorted(self._held)})
