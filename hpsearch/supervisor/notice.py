"""A worker that is told to go (SIGTERM, SIGUSR1: preemption, maintenance) says so and lets its ranks save first."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # the second one is a notice only: somebody else ends the worker
LEAVE_S = 60.0  # from SIGTERM to the end of the worker, whatever still runs
LAST_WORDS_S = 0.5  # for the streams to flush
POLL_S = 0.1


class Notice:
    """The two signals of one worker process, for as long as a study uses the worker.

    Args:
        told: hears the reason.
        busy: whether ranks still run here.
    """

    def __init__(self, told: Callable[[str], None], busy: Callable[[], bool]) -> None:
        self._told = told
        self._busy = busy
        self._before: dict[signal.Signals, Any] = {}
        self._leaving: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """On the running event loop. Nothing happens where that is not the main thread's: signals end there."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            self._before[number] = signal.getsignal(number)
            asyncio.get_running_loop().add_signal_handler(number, self._hear, number)

    def close(self) -> None:
        """Give the signals back. Twice is once."""
        for number, handler in self._before.items():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, handler)
        self._before.clear()

    def _hear(self, number: signal.Signals) -> None:
        self._told(f"its worker was told to go ({number.name})")
        if number is signal.SIGTERM and self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._leave())

    async def _leave(self) -> None:
        for _ in range(round(LEAVE_S / POLL_S)):
            if not self._busy():
                break
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(LAST_WORDS_S)
        self.close()
        os.kill(os.getpid(), signal.SIGTERM)
