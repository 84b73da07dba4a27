"""What a run looks like from outside: a live view, plain lines or JSON lines, fed by notices alone.

The coordinator hands each notice over and goes on: drawing and writing happen on a thread of this room, so that a
slow terminal, a full pipe or a pager holds nobody up but itself.
"""

import queue
import sys
import threading
import time
from types import TracebackType
from typing import Literal, Protocol, Self, TextIO

from hpsearch.console.summary import Hints
from hpsearch.events import Notice

__all__ = ["Console", "Hints", "Mode", "choose_mode", "open_console"]

Mode = Literal["live", "plain", "json"]


class View(Protocol):
    """How notices are shown; used by one thread only, but for :meth:`open`."""

    refresh_s: float | None  # how often to redraw; None: only when something is shown

    def open(self) -> None:
        """Say that something is going on, before anything has."""

    def show(self, notice: Notice) -> None:
        """Take in one notice."""

    def refresh(self) -> None:
        """Draw again."""

    def close(self) -> None:
        """Draw for the last time and say the summary."""


class Console:
    """The listener of a run; a context manager. Calling it costs one put to a queue and never raises.

    A reader that went away (``| head``) or a fault of a view silences it and leaves the search alone; ``fault`` tells.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._inbox: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="hpsearch-console", daemon=True)
        self.fault: Exception | None = None
        self.begun = False  # study.started was seen
        self.finished = False  # study.finished was seen

    def __call__(self, notice: Notice) -> None:
        self.begun = self.begun or notice.kind == "study.started"
        self.finished = self.finished or notice.kind == "study.finished"
        self._inbox.put(notice)

    def __enter__(self) -> Self:
        self._view.open()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._inbox.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            while self._wait_and_show():
                pass
        except Exception as fault:
            self.fault = fault
            while self._inbox.get() is not None:  # the run goes on without a view, and ends as it would have
                pass
        try:
            self._view.close()
        except Exception as fault:
            self.fault = self.fault or fault

    def _wait_and_show(self) -> bool:
        """Show what comes until it is time to redraw; False once the run is over."""
        if self._view.refresh_s is None:
            notice = self._inbox.get()
            if notice is not None:
                self._view.show(notice)
            return notice is not None
        due = time.monotonic() + self._view.refresh_s
        while (left := due - time.monotonic()) > 0:
            try:
                notice = self._inbox.get(timeout=left)
            except queue.Empty:
                break
            if notice is None:
                return False
            self._view.show(notice)
        self._view.refresh()
        return True


def choose_mode(*, plain: bool, json: bool, stream: TextIO, term: str) -> Mode:
    """JSON where asked for; live on a terminal that can move its cursor; else plain."""
    if json:
        return "json"
    return "live" if not plain and stream.isatty() and term not in ("", "dumb") else "plain"


def open_console(mode: Mode, hints: Hints, *, out: TextIO | None = None, errors: TextIO | None = None) -> Console:
    """A console of this kind on the standard streams, or on those given."""
    out, errors = out or sys.stdout, errors or sys.stderr
    match mode:
        case "json":
            from hpsearch.console.plain import JsonView

            return Console(JsonView(out, errors, hints))
        case "plain":
            from hpsearch.console.plain import PlainView

            return Console(PlainView(out, hints))
        case "live":
            from hpsearch.console.live import LiveView

            return Console(LiveView(out, hints))
