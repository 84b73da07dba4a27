"""Opens studies for tests, hears what the writer thread says, and closes what is left open."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hpsearch.errors import HpsearchError
from hpsearch.storage import AttemptRow, Request, StudyRecord, StudyStore, open_study

RECORD = StudyRecord(spec_text="name: digits", space_json="{}", command="hpsearch run", directory="/runs", version="0")
PATIENCE_S = 30.0


def attempt(trial: int, number: int = 1, **changes: Any) -> AttemptRow:
    """A running attempt, or what ``changes`` make of it."""
    common = {"state": "running", "worker": "tcp://a:1", "host": "a", "slot": 0, "started": 100.0, "log_path": "/log"}
    return AttemptRow(**{"trial": trial, "attempt": number, **common, **changes})


@dataclass
class Desk:
    """All stores of one test, over one database."""

    url: str
    durable: int = 0  # the last ticket that is committed
    errors: list[HpsearchError] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    waiting: list[str | None] = field(default_factory=list)  # what the database said, None: it is back
    adopted: list[FrozenTrial] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)  # on which the callbacks ran
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stores: list[StudyStore] = field(default_factory=list)

    def open(self, name: str = "digits", **changes: Any) -> StudyStore:
        self.durable = 0
        arguments: dict[str, Any] = {
            "directions": ["maximize"],
            "metric_names": ["accuracy"],
            "record": RECORD,
            "sampler": optuna.samplers.RandomSampler(seed=1),
            "pruner": optuna.pruners.NopPruner(),
            "fresh": False,
            "on_commit": self._committed,
            "on_error": lambda error: self._heard(self.errors, error),
            "on_request": lambda request: self._heard(self.requests, request),
            "on_waiting": lambda reason: self._heard(self.waiting, reason),
            "on_adopted": lambda trial: self._heard(self.adopted, trial),
        }
        store = open_study(self.url, name, **{**arguments, **changes})
        self._stores.append(store)
        return store

    def close(self) -> None:
        for store in self._stores:
            store.abandon()

    def wait_durable(self, store: StudyStore) -> None:
        """Until all that was written so far is committed."""
        ticket = store.ticket()
        self.wait(lambda: self.durable >= ticket)

    def wait(self, condition: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S)

    def _committed(self, ticket: int) -> None:
        with self._changed:
            assert ticket > self.durable
            self.durable = ticket
            self.threads.add(threading.get_ident())
            self._changed.notify_all()

    def _heard(self, where: list[Any], what: object) -> None:
        with self._changed:
            where.append(what)
            self.threads.add(threading.get_ident())
            self._changed.notify_all()
