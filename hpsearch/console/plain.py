"""Plain lines for logs and pipes, and JSON lines for programs."""

import json
import math
import time
from collections.abc import Mapping
from enum import Enum
from typing import TextIO

from hpsearch.console.progress import Progress, integer, real, sequence
from hpsearch.console.summary import Hints, summary
from hpsearch.console.words import duration, many, pairs, quoted
from hpsearch.events import Notice

REPORT_EVERY_S = 30.0  # one trial's reports: at most a line in this time
ANY_REPORT_EVERY_S = 5.0  # and all of them together
_QUIET = frozenset({"trial.started", "worker.joined", "study.finished"})  # the summary says the last one


class PlainView:
    """One structured line a state change: ``12:03:44 trial.pruned trial=7 attempt=1 step=9``.

    Starts say nothing and reports little, so that the lines grow with the trials and not with their steps.
    """

    refresh_s: float | None = None

    def __init__(self, stream: TextIO, hints: Hints) -> None:
        self._stream = stream
        self._hints = hints
        self._progress = Progress()
        self._last_line: dict[int, float] = {}  # trial -> time of its start or last report line
        self._last_report = 0.0

    def open(self) -> None:
        """The first line is study.started."""

    def show(self, notice: Notice) -> None:
        self._progress.apply(notice)
        trial = integer(notice.fields, "trial", -1)
        if notice.kind == "trial.started":
            self._last_line[trial] = notice.time
        elif notice.kind == "trial.reported" and not self._report_is_due(trial, notice.time):
            return
        elif notice.kind.startswith("trial.") and notice.kind != "trial.reported":
            self._last_line.pop(trial, None)
        if notice.kind not in _QUIET:
            clock = time.strftime("%H:%M:%S", time.localtime(notice.time))
            self._write(f"{clock} {notice.kind} {structured(notice)}".rstrip())

    def refresh(self) -> None:
        """Nothing moves here."""

    def close(self) -> None:
        for line in summary(self._progress, self._hints):
            self._write(line)

    def _report_is_due(self, trial: int, now: float) -> bool:
        recent = now - self._last_line.setdefault(trial, now) < REPORT_EVERY_S
        if recent or now - self._last_report < ANY_REPORT_EVERY_S:
            return False
        self._last_line[trial] = self._last_report = now
        return True

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class JsonView:
    """One JSON object a notice on ``stream``; the summary goes to ``errors``."""

    refresh_s: float | None = None

    def __init__(self, stream: TextIO, errors: TextIO, hints: Hints) -> None:
        self._stream = stream
        self._errors = errors
        self._hints = hints
        self._progress = Progress()

    def open(self) -> None:
        """The first line is study.started."""

    def show(self, notice: Notice) -> None:
        self._progress.apply(notice)
        self._stream.write(json_line(notice) + "\n")
        self._stream.flush()

    def refresh(self) -> None:
        """Nothing moves here."""

    def close(self) -> None:
        for line in summary(self._progress, self._hints):
            self._errors.write(line + "\n")
        self._errors.flush()


def structured(notice: Notice) -> str:
    """The fields of a notice as ``key=value``, in their order, without those that say nothing."""
    parts = []
    for key, value in _plain_fields(notice).items():
        if value is None or value == "" or value == {} or value == ():
            continue
        if isinstance(value, Mapping):
            value = pairs(value)
        elif isinstance(value, list | tuple):
            value = ",".join(str(item) for item in value)
        elif isinstance(value, bool):
            value = str(value).lower()
        parts.append(f"{key}={quoted(value)}")
    return " ".join(parts)


def _plain_fields(notice: Notice) -> dict[str, object]:
    fields = dict(notice.fields)
    match notice.kind:
        case "study.started":
            fields.pop("best", None)
            fields["resumed"] = integer(fields, "resumed") or None
            fields["time"] = _duration_or_none(fields.pop("time_s", None))
        case "trial.completed":
            values = sequence(fields, "values")
            head: dict[str, object] = {key: fields[key] for key in ("trial", "attempt") if key in fields}
            best = True if fields.get("best") is True else None
            took = _duration_or_none(fields.get("duration_s"))
            return {**head, "value": many(values).replace(", ", ","), "best": best, "duration": took}
        case "trial.pruned" if str(fields.get("reason", "")).endswith(f"at step {fields.get('step')}"):
            del fields["step"]  # the reason says it
    return fields


def _duration_or_none(value: object) -> str | None:
    seconds = real({"value": value}, "value")
    return None if seconds is None else duration(seconds)


def json_line(notice: Notice) -> str:
    """``{"event": "trial.pruned", "time": 1700000000.0, ...}``: strict JSON, NaN and infinities as null."""
    fields = {str(key): jsonable(value) for key, value in notice.fields.items()}
    return json.dumps({"event": notice.kind, "time": notice.time, **fields}, allow_nan=False)


def jsonable(value: object) -> object:
    """As strict JSON can express it: NaN and infinities as None, what it does not know as text."""
    match value:
        case Enum():
            return jsonable(value.value)
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case Mapping():
            return {str(key): jsonable(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [jsonable(item) for item in value]
        case _:
            return str(value)
