"""A rank's end of the channel to its supervisor."""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

MAX_LINE = 1 << 20  # bytes of one message
CHUNK = 1 << 16


class TrialStopped(BaseException):
    """The supervisor asks this attempt to end; raised by the next call that talks to it.

    Not an ``Exception``, so that ``except Exception`` in a training loop lets it pass.
    """


class Line:
    """A rank's end of the channel to its supervisor: JSON objects, one a line, both ways. Threads may share it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._heard = b""
        self._sending = threading.Lock()
        self._receiving = threading.Lock()

    def fileno(self) -> int:
        """For a selector."""
        return self._channel.fileno()

    def assignment(self) -> dict[str, Any]:
        """The first line, which says what to do; of any length, since an objective may travel in it."""
        while b"\n" not in self._heard:
            data = self._channel.recv(CHUNK)
            if not data:
                raise EOFError("the supervisor left before it said what to do")
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return dict(json.loads(line))

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; ValueError for one that is too long."""
        line = json.dumps(message).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise ValueError(f"{message['op']}: {len(line)} bytes are too long, the limit is {MAX_LINE}")
        with self._sending:
            self._channel.sendall(line)

    def receive(self, take: Callable[[dict[str, Any]], None], until: Callable[[], bool] | None = None) -> None:
        """Hand what has come to ``take``; given ``until``, wait for more as long as that is false.

        Raises:
            TrialStopped: nobody is at the other end any more.
        """
        if not self._receiving.acquire(blocking=until is not None):
            return  # another thread is at it
        try:
            self._pull(take, socket.MSG_DONTWAIT)
            while until is not None and not until():
                self._pull(take, 0)
        finally:
            self._receiving.release()

    def _pull(self, take: Callable[[dict[str, Any]], None], flags: int) -> None:
        data: bytes | None
        try:
            data = self._channel.recv(CHUNK, flags)
        except BlockingIOError:
            data = None
        except ConnectionError:
            data = b""
        if data == b"":
            raise TrialStopped("the supervisor is gone")
        *lines, self._heard = (self._heard + (data or b"")).split(b"\n")  # some may have come with the assignment
        for line in lines:
            take(json.loads(line))
