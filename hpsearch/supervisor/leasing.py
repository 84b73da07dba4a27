"""One slot table for all coordinators of a scheduler, so that no two studies hold one slot.

It lives inside the scheduler, where every message passes: a slot is granted anew in the handling of the very message
that frees it. A lease ends when every rank of its gang is reaped. All orders may be repeated.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from hpsearch.placement import RankRequest, SlotTable

Holder = tuple[str, str, int, int]  # client, its run, trial, attempt


class Leasing:
    """Answers orders of coordinators and facts from workers.

    Args:
        send: to a client, as JSON data; false if it is not there.
    """

    def __init__(self, send: Callable[[str, dict[str, Any]], bool]) -> None:
        self.table = SlotTable()
        self._send = send

    def joined(self, worker: str, facts: dict[str, Any]) -> None:
        """A worker introduced itself to one of the coordinators."""
        self.table.join(worker, **{**facts, "gpus": tuple(facts["gpus"])})
        self._grant()

    def left(self, worker: str) -> None:
        """A worker is gone, and what ran there with it."""
        self.table.leave(worker)
        self._grant()

    def closing(self, worker: str) -> None:
        """A worker was told to go: nothing more is placed there."""
        self.table.close(worker)

    def order(self, client: str, body: dict[str, Any]) -> None:
        """What a coordinator wants."""
        run = body["run"]
        match body["op"]:
            case "acquire":
                self._acquire((client, run, body["trial"], body["attempt"]), body["request"])
            case "release":
                self.table.release((client, run, body["trial"], body["attempt"]))
            case "claim":  # everything it holds and wants: whatever was lost on the way is made good
                held = {(client, run, trial, attempt) for trial, attempt in body["held"]}
                wanted = {(client, run, trial, attempt): request for trial, attempt, request in body["wanted"]}
                for holder in self._of(client, run):
                    if holder not in held and holder not in wanted:
                        self.table.release(holder)
                for holder, request in wanted.items():
                    self._acquire(holder, request)
            case "leave":
                self.forget(client, run)
        self._grant()

    def _acquire(self, holder: Holder, request: dict[str, Any]) -> None:
        seats = self.table.seats_of(holder)
        if seats and len(seats) < request["ranks"]:  # a worker left before the gang began
            self.table.release(holder)
        elif seats:  # it was told, and did not hear
            self._tell(holder, "seated", seats=[asdict(seat) for seat in seats])
            return
        self.table.ask(holder, RankRequest(**{**request, "avoid": frozenset(request["avoid"])}))
        self._grant()
        if not self.table.seats_of(holder):
            self._tell(holder, "queued")

    def forget(self, client: str, run: str | None = None) -> None:
        """A coordinator is gone: it waits for nothing more. What it holds is free once its ranks are dead."""
        for holder in self._of(client, run):
            if not self.table.seats_of(holder):
                self.table.release(holder)
        self._grant()

    def ended(self, client: str, worker: str, what: list[Any]) -> None:
        """A rank is reaped: its run, trial, attempt and rank. With the run alone, nothing of it is left on a worker."""
        run, *rest = what
        if rest:
            self.table.end_rank((client, run, *rest[:2]), rest[2])
        else:
            for holder in self._of(client, run):
                self.table.end_ranks_on(holder, worker)
        self._grant()

    def _of(self, client: str, run: str | None) -> list[Holder]:
        return [holder for holder in self.table.holders if holder[0] == client and run in (None, holder[1])]  # type: ignore[index, misc]

    def _grant(self) -> None:
        while grants := self.table.grants():
            for holder, seats in grants:
                if not self._tell(holder, "seated", seats=[asdict(seat) for seat in seats]):  # type: ignore[arg-type]
                    self.table.release(holder)

    def _tell(self, holder: Holder, op: str, **fields: Any) -> bool:
        client, run, trial, attempt = holder
        return self._send(client, {"op": op, "run": run, "trial": trial, "attempt": attempt, **fields})
