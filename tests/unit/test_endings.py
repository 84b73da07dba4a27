"""What a rank's last word, wait status and circumstances amount to."""

import json
import signal
from typing import Any

import pytest

from hpsearch.events import Cause
from hpsearch.supervisor.endings import LAUNCHER_DIED, Facts, Stop, ending, size
from hpsearch.supervisor.words import Malformed, parse

RETURNED = {"op": "returned", "values": [1.5, 2.0]}
FAILED = {"op": "failed", "cause": "error", "reason": "ValueError: no", "traceback": "Traceback"}
DRAIN = Stop(Cause.STOPPED, "drained", 0.0)
CANCEL = Stop(Cause.CANCELLED, "cancelled", 4.0)
KILLED = int(signal.SIGKILL)
CODE_3 = 3 << 8

CASES: list[tuple[dict[str, Any], Cause, str]] = [
    ({"word": RETURNED, "status": 0}, Cause.RETURNED, "returned 1.5, 2"),
    ({"word": RETURNED, "status": None}, Cause.RETURNED, "returned 1.5, 2"),  # the launcher died a moment later
    ({"word": RETURNED, "status": KILLED}, Cause.RETURNED, "returned 1.5, 2"),
    ({"word": RETURNED, "stop": CANCEL, "status": 0}, Cause.RETURNED, "returned 1.5, 2"),  # said before the stop
    ({"word": RETURNED, "stop": DRAIN, "word_after_stop": True, "status": 0}, Cause.RETURNED, "returned 1.5, 2"),
    ({"word": RETURNED, "stop": CANCEL, "word_after_stop": True, "status": 0}, Cause.CANCELLED, "cancelled"),
    ({"word": FAILED, "stop": DRAIN, "word_after_stop": True, "status": 256}, Cause.STOPPED, "drained"),
    ({"word": FAILED, "status": 256}, Cause.ERROR, "ValueError: no"),
    ({"word": {**FAILED, "cause": "oom"}, "status": 256}, Cause.OOM, "ValueError: no"),
    ({"word": {"op": "pruned"}, "status": 0}, Cause.PRUNED, "pruned"),
    ({"word": {"op": "stopped"}, "status": 0}, Cause.STOPPED, "stopped"),
    ({"stop": DRAIN, "status": KILLED, "killed": True}, Cause.STOPPED, "drained"),
    ({"stop": CANCEL, "status": KILLED, "killed": True}, Cause.CANCELLED, "cancelled; SIGKILL after 4 s of grace"),
    ({"stop": CANCEL, "status": 15}, Cause.CANCELLED, "cancelled; ended by SIGTERM"),
    ({"stop": CANCEL, "status": None}, Cause.CANCELLED, "cancelled"),
    ({"status": None}, Cause.LOST, LAUNCHER_DIED),
    ({"status": None, "lost": "no launcher"}, Cause.LOST, "no launcher"),
    ({"status": CODE_3}, Cause.EXIT, "exit code 3: sys.exit(3) or os._exit(3)?"),
    ({"status": 11}, Cause.SIGNAL, "segmentation fault (SIGSEGV)"),
    ({"status": 11 | 0x80}, Cause.SIGNAL, "segmentation fault (SIGSEGV)"),  # with a core dump
    ({"status": 36}, Cause.SIGNAL, "ended by a signal (signal 36)"),
    ({"status": KILLED}, Cause.SIGNAL, "killed from outside (SIGKILL)"),
    ({"status": KILLED, "kernel_oom": True}, Cause.OOM, "killed by the kernel for want of memory (SIGKILL)"),
    (
        {"status": KILLED, "memory_limit": 100, "memory_seen": 95},
        Cause.OOM,
        "killed by the kernel for want of memory (SIGKILL)",
    ),
    ({"status": KILLED, "memory_limit": 100, "memory_seen": 50}, Cause.SIGNAL, "killed from outside (SIGKILL)"),
    (
        {"status": CODE_3, "eof_early": True},
        Cause.ERROR,
        "closed its connection to the supervisor, then left with exit code 3",
    ),
]


@pytest.mark.parametrize(("facts", "cause", "reason"), CASES)
def test_facts_become_words(facts, cause, reason):
    found = ending(Facts(**facts), "tail")
    assert (found.cause, found.reason) == (cause, reason)
    assert found.values == ((1.5, 2.0) if cause is Cause.RETURNED else ())
    assert found.log_tail == "tail"


def test_an_ending_carries_the_traceback_and_the_exit_code():
    assert ending(Facts(word=FAILED, status=256), "").traceback == "Traceback"
    assert ending(Facts(status=11), "").exit_code == -11
    assert ending(Facts(status=None), "").exit_code is None


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(3, "3 bytes"), (2100, "2.1 kB"), (2 * 10**9, "2 GB"), (2_148_000_000, "2.15 GB")]
)
def test_sizes(n_bytes, text):
    assert size(n_bytes) == text


def test_a_message_has_its_fields_and_no_others():
    line = b'{"op": "report", "step": 1, "value": NaN, "metrics": {"a": 1}, "extra": 1}\n'
    assert set(parse(line)) == {"op", "step", "value", "metrics"}
    assert parse(b'{"op": "user_attr", "key": "k", "value": null}\n')["value"] is None


@pytest.mark.parametrize(
    "message",
    [
        {"op": "report", "step": 1, "value": 1.0},
        {"op": "report", "step": -1, "value": 1.0, "metrics": {}},
        {"op": "report", "step": 2**31, "value": 1.0, "metrics": {}},
        {"op": "report", "step": 1, "value": 10**400, "metrics": {}},
        {"op": "report", "step": 1, "value": 1.0, "metrics": {"a" * 513: 1.0}},
        {"op": "user_attr", "key": "a" * 513, "value": 1},
        {"op": "user_attr", "key": "a\udcff", "value": 1},
        {"op": "user_attr", "key": "a", "value": json.loads("[" * 200 + "]" * 200)},
        {"op": "report", "step": 1.5, "value": 1.0, "metrics": {}},
        {"op": "report", "step": 1, "value": "1", "metrics": {}},
        {"op": "report", "step": 1, "value": 1.0, "metrics": {"a": None}},
        {"op": "report", "step": 1, "value": 1.0, "metrics": []},
        {"op": "returned", "values": ["1"]},
        {"op": "failed", "cause": "bored", "reason": "", "traceback": ""},
        {"op": "exited", "status": 0},
        {"op": ["report"]},
        {},
        [],
        None,
    ],
)
def test_what_is_no_message_is_said_to_be_none(message):
    with pytest.raises(Malformed, match=r"^sent (something that is no message|a malformed \w+): b"):
        parse(json.dumps(message).encode() + b"\n")


@pytest.mark.parametrize("line", [b"\n", b"{}", b"\xff\n", b"[" * 100_000 + b"\n", b'{"op": "pruned"}'])
def test_what_is_no_line_is_no_message(line):
    with pytest.raises(Malformed):
        parse(line)
