"""One rank's keeper: starts it, listens to it, holds it to its limits, ends it, and says in words how it ended.

Runs on an event loop that others use too (a Dask worker's), so nothing here blocks: files and /proc are read on
threads. It never runs user code and never imports Dask.
"""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpsearch.events import Cause, Ending
from hpsearch.launcher import members
from hpsearch.supervisor import endings
from hpsearch.supervisor.endings import Facts, Stop
from hpsearch.supervisor.logs import CappedLog, LogTarget, Pump
from hpsearch.supervisor.words import FINAL, Malformed, parse

__all__ = ["Keeper", "Limits", "LogTarget"]

MAX_LINE = 1 << 20  # bytes of one message from the rank
MEMORY_CHECK_S = 0.5
IDLE_CHECK_S = 60.0
START_S = 600.0  # for the launcher's imports and the fork
PATIENCE_S = 10.0  # with a launcher that does not answer
CLOSED_EARLY_S = 0.5  # after the end of the channel, a process that still lives has closed it itself
LAST_WORDS_S = 1.0
NOBODY = -1

logger = logging.getLogger(__name__)

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one attempt of one rank may take; None for no limit."""

    time_s: float | None = None  # from the fork on
    no_progress_s: float | None = None  # between two reports, checkpoints or answers
    memory_bytes: int | None = None  # resident, beyond what the launcher's pages take
    grace_s: float = 10.0  # from being asked to stop to SIGKILL


class Keeper:
    """One rank from fork to burial.

    Args:
        launcher_path: the launcher's unix socket.
        assignment: what the rank gets to know; JSON.
        limits: time, progress, memory, grace.
        log: file for its output.
        on_message: called on the event loop with each message of the rank but its final word.
    """

    def __init__(
        self,
        launcher_path: str,
        assignment: Mapping[str, Any],
        limits: Limits,
        log: LogTarget,
        on_message: Callable[[Message], None],
    ) -> None:
        self.pid: int | None = None  # known once the launcher has forked
        self._launcher_path = launcher_path
        self._assignment = assignment
        self._limits = limits
        self._log = CappedLog(log)
        self._on_message = on_message
        self._facts = Facts(memory_limit=limits.memory_bytes)
        self._token = secrets.token_hex(members.MARK_LENGTH // 2)
        self._to_launcher: asyncio.StreamWriter | None = None
        self._to_rank: asyncio.StreamWriter | None = None
        self._unanswered = 0  # questions of the rank
        self._started = asyncio.Event()
        self._listening = asyncio.Event()
        self._listening.set()
        self._moved_at = 0.0  # when it last made progress, on the loop's clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []

    # --------------------------------------------------------------------------------- for the supervisor

    async def run(self) -> Ending:
        """From fork to the moment when every process of the rank is gone.

        A fault of the rank is an Ending, never an exception. When cancelled, the rank is killed by the launcher.
        """
        if self._facts.stop is not None:  # before it began
            return self._ending()
        oom_kills = await asyncio.to_thread(_kernel_oom_kills)
        try:
            pump, from_launcher, from_rank = await self._connect()
        except OSError as error:
            self._facts.lost = f"no launcher at {self._launcher_path}: {error.strerror or error}"
            return self._ending()
        hearing = self._spawn(self._hear(from_rank))
        self._spawn(self._watch())
        try:
            self._facts.status = await self._follow(from_launcher)
            if self._facts.status is None:
                await self._clear_away()
            self._listening.set()
            await asyncio.wait([hearing], timeout=LAST_WORDS_S)
            await pump.finish()
            if self._facts.status == signal.SIGKILL:
                self._facts.kernel_oom = await asyncio.to_thread(_kernel_oom_kills) > oom_kills
        finally:
            for timer in self._timers:
                timer.cancel()
            for task in self._tasks:
                task.cancel()
            for writer in (self._to_launcher, self._to_rank):
                assert writer is not None
                writer.close()
            pump.close()
        return self._ending()

    def deliver(self, message: Message) -> None:
        """Pass a message on to the rank; lost if it has left."""
        if message["op"] in {"suggested", "refused"}:
            self._unanswered = max(0, self._unanswered - 1)
        self._moved_at = asyncio.get_running_loop().time()
        if self._to_rank is not None and not self._to_rank.is_closing():
            self._to_rank.write(json.dumps(message).encode() + b"\n")

    def listen(self, on: bool) -> None:
        """Whether more of the rank's words can be taken; if not, it waits in a report once its socket is full."""
        if on or self._facts.status is not None:  # what a dead rank said last is little
            self._listening.set()
        else:
            self._listening.clear()

    def stop(self, reason: str, grace_s: float | None, cause: Cause, after_step: int | None = None) -> None:
        """Ask the rank to end, with SIGTERM at half the grace and SIGKILL at its end. The first reason stays.

        Args:
            reason: in words, for the Ending.
            grace_s: None for that of the limits; a second call may be less patient than the first.
            cause: of the Ending, unless the rank has said its final word already.
            after_step: until then the rank goes on, if the grace is long enough.
        """
        grace_s = self._limits.grace_s if grace_s is None else grace_s
        if self._facts.stop is None:
            self._facts.stop = Stop(cause, reason, grace_s)
            if self._to_rank is None:
                return
            self.deliver({"op": "stop", "reason": reason, "after_step": after_step})
        if grace_s > 0:
            self._later(grace_s / 2, lambda: self._signal(signal.SIGTERM))
        self._kill_in(grace_s)

    # -------------------------------------------------------------------------------------------- the way

    async def _connect(self) -> tuple[Pump, asyncio.StreamReader, asyncio.StreamReader]:
        """Ask for a fork, with the rank's ends of a socket pair and a pipe."""
        loop = asyncio.get_running_loop()
        launcher = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        ours, theirs = socket.socketpair()
        pipe, output = os.pipe()
        try:
            launcher.setblocking(False)
            await loop.sock_connect(launcher, self._launcher_path)
            request = json.dumps({"op": "fork", "token": self._token}).encode() + b"\n"
            socket.send_fds(launcher, [request], [theirs.fileno(), output])
        except BaseException:
            launcher.close()
            ours.close()
            os.close(pipe)
            raise
        finally:
            theirs.close()
            os.close(output)
        pump = Pump(pipe, self._log)
        from_launcher, self._to_launcher = await asyncio.open_unix_connection(sock=launcher)
        from_rank, self._to_rank = await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE)
        self._to_rank.write(json.dumps(self._assignment).encode() + b"\n")
        return pump, from_launcher, from_rank

    async def _follow(self, launcher: asyncio.StreamReader) -> int | None:
        """What the launcher says, up to the wait status; None if it went away first."""
        with contextlib.suppress(ConnectionError):
            while line := await launcher.readline():
                message = json.loads(line)
                match message["op"]:
                    case "started":
                        self.pid = message["pid"]
                        self._started.set()
                    case "refused":
                        self._facts.lost = f"the launcher cannot start a process: {message['reason']}"
                    case "exited":
                        return int(message["status"])
        return None

    async def _clear_away(self) -> None:
        """The launcher is gone, and its ranks with it; what they started may not be."""
        if self.pid is None and self._facts.lost == endings.LAUNCHER_DIED:
            self._facts.lost += await asyncio.to_thread(_last_line, Path(self._launcher_path).parent / "log")
        await asyncio.to_thread(members.clear_away, self.pid or NOBODY, self._token, PATIENCE_S)

    async def _hear(self, rank: asyncio.StreamReader) -> None:
        """What the rank says."""
        try:
            while line := await rank.readline():
                self._take(parse(line))
                await self._listening.wait()
        except ConnectionError:
            pass
        except Malformed as error:
            self.stop(str(error), 0.0, Cause.ERROR)
        except ValueError:  # asyncio's word for an over-long line
            self.stop(f"sent a message of more than {endings.size(MAX_LINE)}", 0.0, Cause.ERROR)
        if self._facts.word is None:
            self._spawn(self._outlived())

    async def _outlived(self) -> None:
        """The channel has ended; has the process?"""
        await asyncio.sleep(CLOSED_EARLY_S)
        self._facts.eof_early = True
        await asyncio.sleep(max(0.0, self._limits.grace_s - CLOSED_EARLY_S))
        self.stop("closed its connection to the supervisor", 0.0, Cause.ERROR)

    def _take(self, message: Message) -> None:
        if message["op"] in FINAL:
            if self._facts.word is None:
                self._facts.word = message
                self._facts.word_after_stop = self._facts.stop is not None
                self._kill_in(self._limits.grace_s)  # it has nothing more to do than to leave
            return
        self._moved_at = asyncio.get_running_loop().time()
        if message["op"] == "suggest":
            self._unanswered += 1
        try:
            self._on_message(message)
        except Exception:
            logger.exception("a message of a rank could not be passed on")
            self.stop("the supervisor failed (see the worker's log)", 0.0, Cause.LOST)

    # ----------------------------------------------------------------------------------------- the limits

    async def _watch(self) -> None:
        """Hold the rank to its limits until one is broken or it is stopped otherwise."""
        late = asyncio.get_running_loop().call_later(START_S, self._give_up, f"no process within {START_S:g} s")
        self._timers.append(late)
        await self._started.wait()
        late.cancel()
        now = asyncio.get_running_loop().time
        limits, started = self._limits, now()
        self._moved_at = started
        watches_memory = limits.memory_bytes is not None
        baseline = await asyncio.to_thread(members.launcher_memory, self.pid or 0) if watches_memory else 0
        while self._facts.stop is None and self._facts.word is None:
            waits = [MEMORY_CHECK_S if watches_memory else IDLE_CHECK_S]
            if watches_memory:
                await self._check_memory(baseline)
            if self._unanswered > 0 or not self._listening.is_set():  # it is not the rank that does not move
                self._moved_at = now()
            if limits.time_s is not None:
                waits.append(started + limits.time_s - now())
                if waits[-1] <= 0:
                    self.stop(f"ran past its limit of {limits.time_s:g} s", None, Cause.TIMEOUT)
            if limits.no_progress_s is not None:
                waits.append(self._moved_at + limits.no_progress_s - now())
                if waits[-1] <= 0:
                    self.stop(f"no report for {limits.no_progress_s:g} s", None, Cause.STALLED)
            await asyncio.sleep(max(0.0, min(waits)))

    async def _check_memory(self, baseline: int) -> None:
        limit = self._limits.memory_bytes
        assert limit is not None
        used = await asyncio.to_thread(members.memory_bytes, self.pid or 0, limit + baseline) - baseline
        self._facts.memory_seen = used
        if used > limit:
            self.stop(f"used {endings.size(used)} of {endings.size(limit)}", 0.0, Cause.OOM)

    # ---------------------------------------------------------------------------------------- the means

    def _kill_in(self, delay_s: float) -> None:
        self._later(delay_s, lambda: self._signal(signal.SIGKILL))
        self._later(delay_s + PATIENCE_S, lambda: self._give_up("it does not bury its dead"))

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        if delay_s <= 0:
            action()
        else:
            self._timers.append(asyncio.get_running_loop().call_later(delay_s, action))

    def _signal(self, number: signal.Signals) -> None:
        self._facts.killed = self._facts.killed or number == signal.SIGKILL
        if self._to_launcher is not None and not self._to_launcher.is_closing():
            self._to_launcher.write(json.dumps({"op": "signal", "signal": int(number)}).encode() + b"\n")

    def _give_up(self, reason: str) -> None:
        """Treat the launcher as gone, which ends _follow()."""
        self._facts.lost = f"the launcher does not answer: {reason}"
        if self._to_launcher is not None:
            self._to_launcher.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    def _ending(self) -> Ending:
        return endings.ending(self._facts, self._log.tail)


def _kernel_oom_kills() -> int:
    """How many processes the kernel has killed for memory since it booted."""
    try:
        counters = Path("/proc/vmstat").read_text().split()
        return int(counters[counters.index("oom_kill") + 1])
    except (OSError, ValueError):
        return 0


def _last_line(log: Path) -> str:
    """``: what it said last``; nothing if it said nothing."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((f": {line.strip()[:200]}" for line in reversed(lines) if line.strip()), "")
