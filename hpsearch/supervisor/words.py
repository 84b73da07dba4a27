"""What a rank may say, checked at the edge: user code can write into the socket, too."""

import contextlib
import json
from typing import Any

from hpsearch.events import MAX_STEP, is_name, is_shallow

FINAL = frozenset({"returned", "pruned", "stopped", "failed"})
CAUSES = frozenset({"error", "import", "oom", "bad_result", "rendezvous"})

Number = (int, float)
SHAPES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "ready": {"pid": int},
    "report": {"step": int, "value": Number, "metrics": dict},
    "suggest": {"name": str, "distribution": str},
    "user_attr": {"key": str, "value": object},
    "constraint": {"key": str, "value": Number},
    "saved": {"step": int, "path": str},
    "resumed": {"step": int, "path": str},
    "returned": {"values": list},
    "pruned": {},
    "stopped": {},
    "failed": {"cause": str, "reason": str, "traceback": str},
}


class Malformed(Exception):
    """A line that no rank of ours would send; the message is a reason in words."""


def parse(line: bytes) -> dict[str, Any]:
    """One message of a rank, with the fields of its kind and no others.

    Raises:
        Malformed: it is none.
    """
    shown = repr(line if len(line) <= 60 else line[:60] + b"...")
    message: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        message = json.loads(line) if line.endswith(b"\n") else None
    shape = SHAPES.get(message["op"]) if isinstance(message, dict) and isinstance(message.get("op"), str) else None
    if shape is None:
        raise Malformed(f"sent something that is no message: {shown}")
    for key, kind in shape.items():
        if key not in message or not isinstance(message[key], kind):
            raise Malformed(f"sent a malformed {message['op']}: {shown}")
    metrics = message.get("metrics", {})
    sound = (
        all(_is_number(number) for number in [*metrics.values(), *message.get("values", [])])
        and (message["op"] not in {"report", "constraint"} or _is_number(message["value"]))
        and 0 <= message.get("step", 0) <= MAX_STEP
        and all(is_name(name) for name in [*metrics, message.get("key", "")])
        and is_shallow(message.get("value"))
        and message.get("cause", "error") in CAUSES
    )
    if not sound:
        raise Malformed(f"sent a malformed {message['op']}: {shown}")
    return {key: message[key] for key in ("op", *shape)}


def _is_number(value: object) -> bool:
    """Whether a float can hold it, as every database column does."""
    if not isinstance(value, Number):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True
