"""Which processes belong to a rank, whatever they did to get away: /proc, read by hand.

A child of a rank stays in the rank's session unless it calls ``setsid``. One that did is known by the rank's token in
its environment: for a process that was only forked, /proc shows the memory in which the *launcher's* environment was
laid down at its start, so each rank writes its token there, in place.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "HPSEARCH_RANK_TOKEN"
MARK_LENGTH = 16
CLEARING_S = 0.02
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says."""

    dead: bool  # a zombie
    parent: int
    group: int
    session: int


def stat(pid: int) -> Stat | None:
    """None for a process that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Stat(fields[0] in b"ZX", int(fields[1]), int(fields[2]), int(fields[3]))


def token_of(pid: int) -> str:
    """The rank's token that a process carries; empty for none."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""
    for entry in environment.split(b"\0"):
        if entry.startswith(MARK.encode() + b"="):
            return entry.partition(b"=")[2].decode(errors="replace").strip("-")
    return ""


def children(pid: int) -> list[int]:
    """Processes whose parent it is now."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        return [int(child) for t in tasks for child in Path(f"/proc/{pid}/task/{t}/children").read_bytes().split()]
    except OSError:  # the process is gone, or the kernel was built without this file
        return [p for p in everything() if (found := stat(p)) is not None and found.parent == pid]


def descendants(pid: int, *, but: Collection[int] = ()) -> Iterator[int]:
    """Its children and theirs, without the subtrees of ``but``."""
    for child in children(pid):
        if child not in but:
            yield child
            yield from descendants(child, but=but)


def everything() -> list[int]:
    """All processes of this machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def belongs(pid: int, leader: int, token: str) -> bool:
    """Whether a process is alive and of the rank with this session leader and token."""
    found = stat(pid)
    if found is None or found.dead:
        return False
    return leader in (found.session, found.group) or token_of(pid) == token


def kill(pids: Collection[int]) -> None:
    """SIGKILL to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def clear_away(leader: int, token: str, patience_s: float) -> None:
    """SIGKILL to what is left of a rank whose launcher is gone, until nothing is. Reads all of /proc; blocks."""
    deadline = time.monotonic() + patience_s
    while found := [pid for pid in everything() if belongs(pid, leader, token)]:
        if time.monotonic() > deadline:
            return
        kill(found)
        time.sleep(CLEARING_S)


def memory_bytes(leader: int, limit: int) -> int:
    """Memory of a rank's processes, shared pages counted once if that makes a difference to the limit.

    Resident sizes are cheap to read but count what forked processes share once for each; proportional ones do not.
    """
    pids = [leader, *descendants(leader)]
    resident = sum(_resident(pid) for pid in pids)
    return resident if resident <= limit else sum(_proportional(pid) for pid in pids)


def launcher_memory(rank: int) -> int:
    """Resident memory of the process that a rank was forked from: what it had before it did anything."""
    found = stat(rank)
    return _resident(found.parent) if found is not None else 0


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def _proportional(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _resident(pid)


def mark(token: str) -> None:
    """Make this process, forked from a launcher, and all its future children carry the token."""
    os.environ[MARK] = token
    place = f"{MARK}={'-' * MARK_LENGTH}".encode()
    offset = Path("/proc/self/environ").read_bytes().find(place)
    if offset < 0 or len(token) != MARK_LENGTH:
        return
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    env_start = int(fields[47])  # the 50th field of the line
    ctypes.memmove(env_start + offset, f"{MARK}={token}".encode(), len(place))
