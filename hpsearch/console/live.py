"""The live view on a terminal: one frame, redrawn in place, that never wraps and never scrolls.

rich is imported when the first frame is drawn, on the console's own thread: the cluster does not wait for it.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from hpsearch.console.frame import frame
from hpsearch.console.progress import Progress
from hpsearch.console.summary import Hints, summary
from hpsearch.console.words import one_line
from hpsearch.events import Notice

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

CLEAR_LINE = "\r\x1b[K"


class LiveView:
    """Shows a :class:`Progress` at 5 Hz; warnings stay on the screen above it, the summary below."""

    refresh_s: float | None = 0.2

    def __init__(
        self,
        stream: TextIO,
        hints: Hints,
        *,
        clock: Callable[[], float] = time.time,
        console: "Console | None" = None,
    ) -> None:
        self._stream = stream
        self._hints = hints
        self._clock = clock
        self._console = console
        self._progress = Progress()
        self._live: Live | None = None
        self._warnings: list[str] = []

    def open(self) -> None:
        """Write a first sign of life at once: libraries and cluster take a second or two."""
        self._stream.write(f"{one_line(self._hints.study)}: starting")
        self._stream.flush()

    def show(self, notice: Notice) -> None:
        self._progress.apply(notice)
        if notice.kind == "study.warning":
            self._warnings.append(self._progress.last_warning)

    def refresh(self) -> None:
        if not self._progress.study:
            return
        if self._live is None:
            self._live = self._begin()
        self._say_warnings(self._live.console)
        self._live.update(self._frame(self._live.console), refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._say_warnings(self._live.console)
            self._live.stop()
        else:
            self._stream.write(CLEAR_LINE)
        for line in summary(self._progress, self._hints):
            self._stream.write(line + "\n")
        self._stream.flush()

    def _begin(self) -> "Live":
        from rich.console import Console
        from rich.live import Live

        console = self._console or Console(file=self._stream, highlight=False, markup=False, emoji=False)
        live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._stream.write(CLEAR_LINE)
        live.start()
        return live

    def _frame(self, console: "Console") -> "RenderableType":
        from rich.console import Group

        width, height = console.size
        ascii_only = console.options.ascii_only
        # The last row stays free: a frame as high as the terminal makes it scroll by one line.
        return Group(*frame(self._progress, self._hints, width, height - 1, self._clock(), ascii_only=ascii_only))

    def _say_warnings(self, console: "Console") -> None:
        for warning in self._warnings:
            console.print(f"warning: {one_line(warning)}", style="yellow", soft_wrap=True)
        self._warnings.clear()
