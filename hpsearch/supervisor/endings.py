"""What a rank's last word, wait status and circumstances amount to, in words."""

import os
import signal
from dataclasses import dataclass
from typing import Any

from hpsearch.events import Cause, Ending

SIGNAL_WORDS = {
    signal.SIGSEGV: "segmentation fault",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "arithmetic fault in native code",
    signal.SIGILL: "illegal instruction",
    signal.SIGABRT: "aborted by native code",
    signal.SIGKILL: "killed from outside",
    signal.SIGTERM: "terminated from outside",
}
FAILED = {"oom": Cause.OOM, "bad_result": Cause.BAD_RESULT, "rendezvous": Cause.LOST}
FAILED |= dict.fromkeys(("error", "import"), Cause.ERROR)
NEAR_LIMIT = 0.9
LAUNCHER_DIED = "the launcher died"


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the supervisor ended the rank, and how far it had to go."""

    cause: Cause
    reason: str
    grace_s: float


@dataclass(slots=True)
class Facts:
    """All that is known of a rank at its end."""

    word: dict[str, Any] | None = None  # the rank's final message
    word_after_stop: bool = False
    stop: Stop | None = None
    killed: bool = False  # we sent SIGKILL
    status: int | None = None  # wait status; None: the launcher died
    lost: str = LAUNCHER_DIED
    eof_early: bool = False  # the channel was closed while the process lived
    memory_limit: int | None = None
    memory_seen: int = 0  # at the last look
    kernel_oom: bool = False  # the kernel killed something for memory meanwhile


def ending(facts: Facts, log_tail: str) -> Ending:
    """One rank's end.

    A final word that came before any stop counts, and a result counts even when the study was draining. After that,
    whoever stopped the rank says why it ended.
    """
    code = None if facts.status is None else os.waitstatus_to_exitcode(facts.status)
    word, stop = facts.word, facts.stop
    if word is not None and (stop is None or not facts.word_after_stop or _worth_keeping(word, stop)):
        cause, reason = _said(word)
    elif stop is not None and not _died_before(facts, stop, code):
        cause, reason = stop.cause, stop.reason + _how_it_went(facts, code)
    elif code is None:
        cause, reason = Cause.LOST, facts.lost
    else:
        cause, reason = _unsaid(facts, code)
    return Ending(
        cause=cause,
        reason=reason,
        values=tuple(word["values"]) if word is not None and cause is Cause.RETURNED else (),
        exit_code=code,
        traceback=word.get("traceback", "") if word is not None else "",
        log_tail=log_tail,
    )


def _died_before(facts: Facts, stop: Stop, code: int | None) -> bool:
    """Whether a signal that was not ours ended it while it was being stopped for what that did to its peers."""
    for_a_peer = stop.reason.startswith("rank ")
    return for_a_peer and code is not None and code < 0 and not facts.killed and code != -signal.SIGTERM


def _worth_keeping(word: dict[str, Any], stop: Stop) -> bool:
    return stop.cause in (Cause.STOPPED, Cause.PREEMPTED) and word["op"] in {"returned", "pruned"}


def _said(word: dict[str, Any]) -> tuple[Cause, str]:
    match word["op"]:
        case "returned":
            return Cause.RETURNED, "returned " + ", ".join(f"{value:g}" for value in word["values"])
        case "pruned":
            return Cause.PRUNED, "pruned"
        case "stopped":
            return Cause.STOPPED, "stopped"
        case _:
            return FAILED[word["cause"]], word["reason"]


def _how_it_went(facts: Facts, code: int | None) -> str:
    """What it took to end a rank that was asked to."""
    assert facts.stop is not None
    if facts.stop.grace_s <= 0 or code is None or facts.word is not None:
        return ""
    if facts.killed and code == -signal.SIGKILL:
        return f"; SIGKILL after {facts.stop.grace_s:g} s of grace"
    return "; ended by SIGTERM" if code == -signal.SIGTERM else ""


def _unsaid(facts: Facts, code: int) -> tuple[Cause, str]:
    """It left without a word."""
    if code < 0:
        number = -code
        if number == signal.SIGKILL and (facts.kernel_oom or _was_near_limit(facts)):
            return Cause.OOM, "killed by the kernel for want of memory (SIGKILL)"
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return Cause.SIGNAL, f"{SIGNAL_WORDS.get(number, 'ended by a signal')} ({name})"  # type: ignore[call-overload]
    if code == os.EX_IOERR:
        return Cause.ERROR, "closed its connection to the supervisor, so that its last word was lost"
    if facts.eof_early:
        return Cause.ERROR, f"closed its connection to the supervisor, then left with exit code {code}"
    if code == 0:
        return Cause.EXIT, "exit code 0 without a result: sys.exit() or os._exit() in the objective?"
    return Cause.EXIT, f"exit code {code}: sys.exit({code}) or os._exit({code})?"


def _was_near_limit(facts: Facts) -> bool:
    return facts.memory_limit is not None and facts.memory_seen >= NEAR_LIMIT * facts.memory_limit


def size(n_bytes: int) -> str:
    """``2.1 GB``, in powers of ten."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes} bytes"
