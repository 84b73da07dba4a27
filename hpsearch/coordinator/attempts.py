"""Attempts on record, and what is announced about them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from hpsearch.budget import Standing
from hpsearch.coordinator.announcer import Announcer
from hpsearch.events import Cause, EndAttempt, Launch, Record, Seat, Tell
from hpsearch.storage import AttemptRow, StudyStore

_CHARGED = frozenset(
    cause.value
    for cause in (
        Cause.ERROR,
        Cause.BAD_RESULT,
        Cause.EXIT,
        Cause.SIGNAL,
        Cause.TIMEOUT,
        Cause.STALLED,
        Cause.OOM,
    )
)


COORDINATOR_DIED = "the coordinator died"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Earlier attempts of one trial, over all runs."""

    n_attempts: int = 0
    n_charged: int = 0


class Attempts:
    """The running attempts of one study and the chain of those before them."""

    def __init__(self, store: StudyStore, announcer: Announcer, standing: Standing) -> None:
        self._store = store
        self._announcer = announcer
        self._standing = standing
        self._rows: dict[int, AttemptRow] = {}  # trial -> its running attempt
        self._last: dict[int, tuple[int, float]] = {}  # trial -> step, value
        self._saved: dict[int, int] = {}  # trial -> step of its last checkpoint, in this run
        self._chains = {trial: list(rows) for trial, rows in store.attempts.items()}

    def close_orphans(self, leftovers: Iterable[int]) -> None:
        """What a killed coordinator left as running has ended with it; ``leftovers`` are the trials it had at hand.

        An attempt is launched before its row is committed. So a leftover without a running attempt may have had one all
        the same, and its number is not given out again: two executions must never be taken for one.
        """
        unknown = set(leftovers)
        for trial, rows in self._chains.items():
            for index, row in enumerate(rows):
                if row.state == "running":
                    unknown.discard(trial)
                    rows[index] = _lost(row)
                    self._store.put_attempt(rows[index])
        for trial in unknown:
            rows = self._chains.setdefault(trial, [])
            started = time.time()
            rows.append(_lost(AttemptRow(trial=trial, attempt=len(rows) + 1, state="", started=started, log_path="")))
            self._store.put_attempt(rows[-1])

    def history(self, trial: int) -> History:
        """What the earlier attempts of a trial came to."""
        rows = self._chains.get(trial, ())
        return History(
            n_attempts=max((row.attempt for row in rows), default=0),
            n_charged=sum(row.cause in _CHARGED for row in rows),
        )

    def launched(self, launch: Launch, seat: Seat, log_path: str) -> None:
        """A rank was ordered; the attempt's row says where its first rank runs."""
        if seat.rank != 0:
            return
        row = AttemptRow(
            trial=launch.trial,
            attempt=launch.attempt,
            state="running",
            cause=None,
            reason=None,
            worker=seat.worker,
            host=seat.host,
            slot=seat.slot,
            pid=None,
            started=time.time(),
            ended=None,
            exit_code=None,
            log_path=log_path,
            log_tail="",
            traceback="",
        )
        self._rows[launch.trial] = row
        self._store.put_attempt(row)

    def started(self, trial: int, attempt: int, rank: int, pid: int, params: dict[str, object]) -> None:
        """User code is about to run on a rank."""
        if rank == 0:
            row = self._rows[trial] = replace(self._rows[trial], pid=pid)
            self._announcer.say(
                "trial.started", trial=trial, attempt=attempt, worker=row.worker, slot=row.slot, params=params
            )

    def saved(self, trial: int, step: int) -> None:
        """The trial has a checkpoint of this step."""
        self._saved[trial] = step

    def resumed(self, trial: int, attempt: int, step: int, path: str) -> None:
        """A job has asked for its checkpoint and goes on with this step; of a first attempt it is no news."""
        if attempt > 1:
            self._announcer.say("trial.resumed", trial=trial, attempt=attempt, step=step, checkpoint=path)

    def reported(self, record: Record) -> None:
        """Keep all metrics of a report."""
        self._last[record.trial] = (record.step, record.value)
        if record.metrics:
            self._store.put_metrics(record.trial, record.attempt, record.step, record.metrics)
        self._announcer.say(
            "trial.reported",
            trial=record.trial,
            attempt=record.attempt,
            step=record.step,
            value=record.value,
            metrics=dict(record.metrics),
        )

    def ended(self, command: EndAttempt) -> None:
        """Put the end on record; a retry or a stop is announced here, the end of a trial when it is told."""
        ending = command.ending
        row = replace(
            self._rows.pop(command.trial),
            state="ended",
            cause=ending.cause.value,
            reason=ending.reason,
            ended=time.time(),
            exit_code=ending.exit_code,
            log_tail=ending.log_tail,
            traceback=ending.traceback,
        )
        self._chains.setdefault(command.trial, []).append(row)
        self._store.put_attempt(row)
        saved = self._saved.get(command.trial)
        if command.retry:
            self._announcer.say(
                "trial.retried",
                trial=command.trial,
                attempt=command.attempt + 1,
                cause=ending.cause.value,
                reason=ending.reason,
                goes_on="from the start: it saved no checkpoint" if saved is None else f"from step {saved + 1}",
            )
        elif ending.cause is Cause.STOPPED:
            self._announcer.say("trial.stopped", trial=command.trial, attempt=command.attempt, reason=ending.reason)

    def told(self, command: Tell, params: dict[str, object]) -> Callable[[], None]:
        """What to announce about the end of a trial, once it is committed."""
        ending, trial = command.ending, command.trial
        step, value = self._last.pop(trial, (None, None))
        rows = self._chains.get(trial, ())
        duration_s = sum((row.ended or row.started) - row.started for row in rows)
        best = len(ending.values) == 1 and ending.values[0] == self._standing.best
        common = {"trial": trial, "attempt": command.attempt}

        def announce() -> None:
            match ending.cause:
                case Cause.RETURNED:
                    self._announcer.say(
                        "trial.completed",
                        **common,
                        values=list(ending.values),
                        best=best,
                        duration_s=duration_s,
                        params=params,
                    )
                case Cause.PRUNED:
                    self._announcer.say("trial.pruned", **common, step=step, value=value, reason=ending.reason)
                case _:
                    self._announcer.say(
                        "trial.failed",
                        **common,
                        cause=ending.cause.value,
                        reason=ending.reason,
                        log=rows[-1].log_path if rows else "",
                    )

        return announce


def _lost(row: AttemptRow) -> AttemptRow:
    return replace(row, state="ended", cause=Cause.LOST.value, reason=COORDINATOR_DIED, ended=time.time())
