"""State changes, told to everybody who wants to know: listener, log and the study's own event table."""

import logging
import time
from collections.abc import Callable
from typing import Any

from hpsearch.events import Notice
from hpsearch.storage import StudyStore

Listener = Callable[[Notice], None]

logger = logging.getLogger("hpsearch")

# Too many to keep a second time, or nothing that the study's history needs.
_NOT_KEPT = frozenset({"trial.reported", "study.finished"})


class Announcer:
    """Says each state change once."""

    def __init__(self, store: StudyStore, listener: Listener) -> None:
        self._store = store
        self._listener = listener
        self._away_since = 0.0

    def say(self, kind: str, **fields: Any) -> None:
        """Announce now; ``fields`` are plain data."""
        self._listener(Notice(kind=kind, time=time.time(), fields=fields))
        words = " ".join(f"{name}={value}" for name, value in fields.items() if name != "params")
        logger.debug("%s %s", kind, words)
        if kind not in _NOT_KEPT:
            self._store.put_event(kind, fields.get("trial"), fields.get("attempt"), words, fields)

    def say_database(self, reason: str | None) -> None:
        """It does not answer, for this reason; None: it is back."""
        if reason is not None:
            self._away_since = time.monotonic()
            self.say("storage.waiting", reason=reason)
        else:
            self.say("storage.recovered", waited_s=round(time.monotonic() - self._away_since, 1))
