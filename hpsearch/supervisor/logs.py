"""A rank's stdout and stderr in a file that cannot fill the disk: the beginning and the end are kept."""

import asyncio
import contextlib
import fcntl
import logging
import os
from dataclasses import dataclass
from pathlib import Path

TAIL_SHOWN = 4096  # bytes that go with an ending
MARKER_LENGTH = 72
CHUNK = 1 << 18
FLUSH_S = 0.2
FLUSH_FLOOD_S = 1.0
MAX_LAST_READS = 64  # at the end, in case somebody still writes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTarget:
    """Where a rank's output goes and how much of it is kept."""

    path: Path
    head_bytes: int = 1 << 20
    tail_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes to write at an offset of the file."""

    offset: int
    data: bytes


class CappedLog:
    """Takes output of any size in memory of at most ``head_bytes + 3 * tail_bytes``; what to write comes out in pieces.

    ``feed`` and ``take`` touch memory only and belong to one thread; ``write`` touches the disk, on any other.
    While nothing is left out, the file is the output. Afterwards it is the head, a line that says how much is
    missing, and the tail, which is written over in place.
    """

    def __init__(self, target: LogTarget) -> None:
        self._target = target
        self._total = 0  # bytes seen
        self._head = bytearray()  # of the head, what the file does not hold yet
        self._head_written = 0
        self._ring = bytearray()  # the end of what came after the head
        self._ring_written = 0  # of it, while nothing is left out
        self._last = b""
        self.changed = False  # since the last take()

    @property
    def left_out(self) -> int:
        """Bytes that neither head nor tail hold."""
        return max(0, self._total - self._target.head_bytes - self._target.tail_bytes)

    @property
    def tail(self) -> str:
        """The last 4 KiB as text."""
        return self._last.decode(errors="replace")

    def feed(self, data: bytes | memoryview) -> None:
        """More output."""
        to_head = max(0, min(len(data), self._target.head_bytes - self._total))
        self._head += data[:to_head]
        self._ring += data[to_head:]
        if len(self._ring) > 2 * self._target.tail_bytes:
            del self._ring[: -self._target.tail_bytes]
        self._total += len(data)
        self._last = (self._last + bytes(data[-TAIL_SHOWN:]))[-TAIL_SHOWN:]
        self.changed = True

    def take(self) -> list[Piece]:
        """What to write now; empty if nothing has come since."""
        if not self.changed:
            return []
        pieces = []
        if self._head:
            pieces.append(Piece(self._head_written, bytes(self._head)))
            self._head_written += len(self._head)
            self._head.clear()
        if self.left_out:
            note = f"\n----- {self.left_out} bytes are left out here "
            marker = note.encode().ljust(MARKER_LENGTH - 1, b"-") + b"\n"
            tail = bytes(self._ring[len(self._ring) - self._target.tail_bytes :])
            pieces.append(Piece(self._target.head_bytes, marker + tail))
        elif len(self._ring) > self._ring_written:
            offset = self._target.head_bytes + self._ring_written
            pieces.append(Piece(offset, bytes(self._ring[self._ring_written :])))
            self._ring_written = len(self._ring)
        self.changed = False
        return pieces

    def write(self, pieces: list[Piece]) -> None:
        """Write them; OSError if the disk refuses."""
        self._target.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._target.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            for piece in pieces:
                rest, offset = memoryview(piece.data), piece.offset
                while rest:
                    n = os.pwrite(file, rest, offset)
                    rest, offset = rest[n:], offset + n
        finally:
            os.close(file)


class Pump:
    """Moves a rank's output from its pipe to a log, on the running event loop; the disk is written on a thread.

    It reads a bounded chunk each turn of the loop, so a flood takes its share and no more, and slows its writer.
    """

    def __init__(self, pipe: int, log: CappedLog) -> None:
        self._pipe = pipe
        self._log = log
        self._buffer = bytearray(CHUNK)
        self._hurry = asyncio.Event()
        self._complained = False
        log.changed = True  # from nothing to an empty file: who looks for it sees that nothing was printed yet
        self._flushing: asyncio.Task[None] | None = asyncio.create_task(self._flush())
        os.set_blocking(pipe, False)
        with contextlib.suppress(OSError):  # a user's pipes are limited in sum
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CHUNK)
        asyncio.get_running_loop().add_reader(pipe, self._read)

    def _read(self) -> bool:
        """Whether there was anything."""
        try:
            n = os.readv(self._pipe, [self._buffer])
        except BlockingIOError:
            return False
        if n == 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            return False
        self._log.feed(memoryview(self._buffer)[:n])
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return True

    async def _flush(self) -> None:
        while self._log.changed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_FLOOD_S if self._log.left_out else FLUSH_S):
                    await self._hurry.wait()
            try:
                await asyncio.to_thread(self._log.write, self._log.take())
            except OSError as error:
                if not self._complained:
                    logger.warning("the log of a rank cannot be written: %s", error)
                self._complained = True
        self._flushing = None

    async def finish(self) -> None:
        """Take what is there now, whoever holds the other end, write it and close the pipe."""
        for _ in range(MAX_LAST_READS):
            if not self._read():
                break
        self.close()
        self._hurry.set()
        if self._flushing is not None:
            await self._flushing

    def close(self) -> None:
        """Close the pipe. May be called again."""
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
