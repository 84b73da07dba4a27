"""Holds all checkpoints of a study to their quota, on a thread of its own: a file system may be slow."""

import logging
import threading
from collections.abc import Callable

from hpsearch.checkpoint import enforce, open_place

logger = logging.getLogger(__name__)


class Housekeeper:
    """Looks again at a trial's checkpoints whenever it saved or ended, and removes what is too much.

    Places that this machine cannot reach look empty, and nothing is removed there.

    Args:
        place_of: trial -> path or URL of its checkpoints.
        quota_bytes: of all of them together.
        say: hears, from the thread, what people should know.
    """

    def __init__(self, place_of: Callable[[int], str], quota_bytes: int, say: Callable[[str], None]) -> None:
        self._place_of = place_of
        self._quota_bytes = quota_bytes
        self._say = say
        self._sizes: dict[int, list[tuple[str, int]]] = {}
        self._dirty: set[int] = set()
        self._over: frozenset[int] = frozenset()
        self._best: int | None = None
        self._said = False
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._keep_house, name="hpsearch-housekeeper", daemon=True)
        self._thread.start()

    def look(self, trials: set[int], over: frozenset[int], best: int | None) -> None:
        """These trials have saved or ended; so stands the study now. Never waits."""
        with self._changed:
            self._dirty |= trials
            self._over, self._best = over, best
            self._changed.notify()

    def close(self) -> None:
        """Finish what is noted, then end. Twice is once."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _keep_house(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._closing)
                if not self._dirty:
                    return
                trials, self._dirty = self._dirty, set()
                over, best = self._over, self._best
            try:
                self._tidy(trials, over, best)
            except Exception as error:  # those of object stores are not all OSErrors: no credentials, say
                self._tell(f"the checkpoints cannot be held to their quota: {str(error) or type(error).__name__}")

    def _tidy(self, trials: set[int], over: frozenset[int], best: int | None) -> None:
        for trial in trials:
            self._sizes[trial] = open_place(self._place_of(trial)).sizes()
        left = enforce(lambda trial: open_place(self._place_of(trial)), self._sizes, self._quota_bytes, over, best)
        if left > self._quota_bytes:
            self._tell(
                f"the checkpoints take {left / 1e6:,.1f} MB of a quota of {self._quota_bytes / 1e6:,.1f} MB, "
                "and all of them may still be needed: raise checkpoints.quota"
            )

    def _tell(self, message: str) -> None:
        logger.warning("%s", message)
        if not self._said:
            self._said = True
            self._say(message)
