"""The launcher: one thread, one loop; imports first, then forks a rank for each connection.

A connection carries one rank. In: ``{"op": "fork", "token": ...}`` with two file descriptors (the rank's channel, its
output), later ``{"op": "signal", "signal": n}``. Out: ``started`` with the pid, and ``exited`` with the wait status,
once every process of the rank is gone. The end of a connection kills its rank, the end of stdin kills all of them.
"""

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpsearch.launcher import members, pages, preload

PR_SET_CHILD_SUBREAPER = 36
SWEEP_S = 0.01  # between two looks for what a dead rank left behind
ORPHAN_CHECK_S = 5.0


@dataclass(slots=True)
class Forked:
    """One connection and its rank."""

    connection: socket.socket
    token: str = ""
    pid: int = 0  # 0: not forked yet
    status: int | None = None  # the leader's wait status; other processes may be left
    heard: bytearray = field(default_factory=bytearray)
    fds: list[int] = field(default_factory=list)


class Launcher:
    """The loop. It never runs a line of the user's own code."""

    def __init__(self, listener: socket.socket) -> None:
        self._parent = os.getppid()
        self._listener = listener
        self._ranks: dict[int, Forked] = {}  # by the connection's file descriptor
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._wakeup, waker = socket.socketpair()
        self._inherited: list[socket.socket] = [listener, self._wakeup, waker]
        for end in self._inherited:
            end.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, or the wakeup would not come
        self._watch(self._wakeup, lambda: self._wakeup.recv(4096))
        self._watch(listener, self._accept)
        self._watch(sys.stdin.buffer, self._lifeline)

    def _watch(self, source: Any, on_readable: Callable[[], object]) -> None:
        self._selector.register(source, selectors.EVENT_READ, on_readable)

    def serve(self) -> None:
        """Until the lifeline ends and all ranks are gone."""
        spare_time_work = pages.collapse()
        has_work = True
        while not self._closing or self._ranks:
            sweeping = any(rank.status is not None for rank in self._ranks.values())
            ready = self._selector.select(0 if has_work else SWEEP_S if sweeping else ORPHAN_CHECK_S)
            for key, _ in ready:
                with contextlib.suppress(BlockingIOError):
                    key.data()
            self._bury()
            if has_work and not ready:
                has_work = next(spare_time_work, 0) > 0
            if os.getppid() != self._parent:  # the lifeline can be held open by a stray copy of it
                self._close()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        rank = Forked(connection)
        self._ranks[connection.fileno()] = rank
        self._watch(connection, lambda: self._hear(rank))

    def _lifeline(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            self._selector.unregister(sys.stdin.buffer)
            self._close()

    def _close(self) -> None:
        self._closing = True
        for rank in list(self._ranks.values()):
            self._hang_up(rank)

    def _hear(self, rank: Forked) -> None:
        if rank.connection.fileno() < 0:  # dropped since the selector saw it
            return
        try:
            data, fds, _, _ = socket.recv_fds(rank.connection, 65536, 2, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            data, fds = b"", []
        rank.fds += fds
        if not data:
            self._hang_up(rank)
            return
        rank.heard += data
        while b"\n" in rank.heard:
            line, _, rest = rank.heard.partition(b"\n")
            rank.heard = bytearray(rest)
            self._obey(rank, json.loads(line))

    def _obey(self, rank: Forked, message: dict[str, Any]) -> None:
        match message["op"]:
            case "fork" if not rank.pid and len(rank.fds) == 2:
                rank.token = message["token"]
                self._fork(rank)
            case "signal":
                _signal(rank, message["signal"])

    def _fork(self, rank: Forked) -> None:
        parent = os.getpid()
        try:
            rank.pid = os.fork()
        except OSError as error:
            self._say(rank, {"op": "refused", "reason": f"fork: {error.strerror}"})
            self._hang_up(rank)
            return
        if not rank.pid:
            channel, output = rank.fds
            rank.fds = []
            self._forget()
            preload.run_rank(channel, output, rank.token, parent)  # never returns
        self._say(rank, {"op": "started", "pid": rank.pid})
        _close_fds(rank)

    def _forget(self) -> None:
        """In the child: nothing of the launcher may stay open."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for end in self._inherited:
            end.close()
        for other in self._ranks.values():
            other.connection.close()
            _close_fds(other)

    def _hang_up(self, rank: Forked) -> None:
        """Nobody listens any more: kill the rank; it is forgotten once it is buried."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(rank.connection)
        _close_fds(rank)
        if rank.pid:
            _signal(rank, signal.SIGKILL)
        else:
            self._drop(rank)

    def _drop(self, rank: Forked) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(rank.connection)
        del self._ranks[rank.connection.fileno()]
        rank.connection.close()

    def _say(self, rank: Forked, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            rank.connection.send(json.dumps(message).encode() + b"\n")

    def _bury(self) -> None:
        """Reap what died; a rank is over when nothing of it is left."""
        by_pid = {rank.pid: rank for rank in self._ranks.values()}
        with contextlib.suppress(ChildProcessError):
            while info := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                rank = by_pid.get(info.si_pid)
                if rank is not None:  # while it is a zombie its number cannot become somebody else's
                    _signal(rank, signal.SIGKILL)
                _, status = os.waitpid(info.si_pid, 0)
                if rank is not None:
                    rank.status = status
        for rank in [rank for rank in self._ranks.values() if rank.status is not None]:
            if not self._sweep(rank):
                self._say(rank, {"op": "exited", "status": rank.status})
                self._drop(rank)

    def _sweep(self, rank: Forked) -> bool:
        """Kill what the dead rank left behind: orphans come to us. Whether anything was found, dying ones included."""
        alive = {other.pid for other in self._ranks.values() if other.pid and other.status is None}
        left = []
        for pid in members.descendants(os.getpid(), but=alive):
            found = members.stat(pid)
            # Whose an orphan without a mark is cannot be known while other ranks live.
            if found and (not alive or members.belongs(pid, rank.pid, rank.token)):
                left.append(pid)
        members.kill(left)
        return bool(left)


def _signal(rank: Forked, number: int) -> None:
    if not rank.pid or rank.status is not None:
        return
    try:
        os.killpg(rank.pid, number)
    except ProcessLookupError:  # it was forked this moment and leads no group yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank.pid, number)


def _close_fds(rank: Forked) -> None:
    while rank.fds:
        os.close(rank.fds.pop())


def main() -> None:
    """Import, then serve."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    listener = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(listener.fileno(), False)
    home = Path(listener.getsockname()).parent
    preload.preload(json.loads(sys.argv[2]))
    Launcher(listener).serve()
    shutil.rmtree(home, ignore_errors=True)  # whoever started us may not live to do it


if __name__ == "__main__":
    main()
