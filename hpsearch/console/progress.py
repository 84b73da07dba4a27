"""What the notices of a run add up to: the state that the live view and the final summary show."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hpsearch.events import Notice

SPARK_VALUES = 60  # reports of one trial that are kept for its sparkline
Fields = Mapping[str, object]


def integer(fields: Fields, key: str, default: int = 0) -> int:
    """``fields[key]`` where it is an int, else ``default``."""
    value = fields.get(key)
    return value if isinstance(value, int) else default


def real(fields: Fields, key: str) -> float | None:
    """``fields[key]`` where it is a number, else None."""
    value = fields.get(key)
    return float(value) if isinstance(value, int | float) else None


def text(fields: Fields, key: str) -> str:
    """``fields[key]`` as text; "" where it is missing or None."""
    value = fields.get(key)
    return "" if value is None else str(value)


def mapping(fields: Fields, key: str) -> Fields:
    """``fields[key]`` where it is a mapping, else an empty one."""
    value = fields.get(key)
    return value if isinstance(value, Mapping) else {}


def sequence(fields: Fields, key: str) -> Sequence[object]:
    """``fields[key]`` where it is a list or tuple, else an empty one."""
    value = fields.get(key)
    return value if isinstance(value, list | tuple) else ()


@dataclass(slots=True, kw_only=True)
class Running:
    """One running attempt, on the slot that it holds."""

    trial: int
    attempt: int
    worker: str
    slot: int
    params: Fields
    since: float  # unix seconds
    step: int | None = None
    value: float | None = None
    values: deque[float] = field(default_factory=lambda: deque(maxlen=SPARK_VALUES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    trial: int
    values: tuple[object, ...]
    params: Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    trial: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A step at which trials were pruned: how many got there, and how many ended there."""

    step: int
    n_reached: int
    n_pruned: int


class Progress:
    """Folds notices. Not thread-safe: it belongs to the thread that shows it."""

    def __init__(self) -> None:
        self.study: Fields = {}
        self.started = 0.0  # unix seconds
        self.ended: Notice | None = None
        self.counts: Counter[str] = Counter()  # complete, pruned, failed: of this run
        self.running: dict[int, Running] = {}  # by trial
        self.workers: dict[str, Fields] = {}  # address -> the fields of worker.joined
        self.worker_numbers: dict[str, int] = {}  # address -> in the order of joining, for good
        self.best: Best | None = None
        self.last_failure: Failure | None = None
        self.last_warning = ""
        self.draining = ""
        self.storage_waiting = ""  # why the database does not answer; "" while it does
        self._params: dict[int, Fields] = {}  # of running trials, and of those that wait for a retry
        self._last_step: dict[int, int] = {}  # trial -> last step reported
        self._pruned_at: Counter[int] = Counter()
        self._rungs_seen: set[int] = set()
        self._handlers: dict[str, Callable[[Notice], None]] = {
            "study.started": self._study_started,
            "study.warning": self._study_warning,
            "study.draining": self._study_draining,
            "storage.waiting": self._storage_waiting,
            "storage.recovered": self._storage_recovered,
            "study.finished": self._study_finished,
            "worker.joined": self._worker_joined,
            "worker.lost": self._worker_lost,
            "trial.started": self._trial_started,
            "trial.reported": self._trial_reported,
            "trial.completed": self._trial_completed,
            "trial.pruned": self._trial_pruned,
            "trial.failed": self._trial_failed,
            "trial.retried": self._trial_retried,
            "trial.stopped": self._trial_stopped,
        }

    def apply(self, notice: Notice) -> None:
        """Take one more notice in; a kind that is not known here changes nothing."""
        handler = self._handlers.get(notice.kind)
        if handler is not None:
            handler(notice)

    # ------------------------------------------------------------------------------------- questions

    @property
    def name(self) -> str:
        return text(self.study, "study")

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(str(name) for name in sequence(self.study, "metric_names")) or ("value",)

    @property
    def total(self) -> int | None:
        value = self.study.get("total")
        return value if isinstance(value, int) else None

    @property
    def n_new(self) -> int:
        """Trials that ended in this run."""
        return self.counts.total()

    @property
    def n_done(self) -> int:
        """Trials that ended, those of earlier runs included."""
        return integer(self.study, "done") + self.n_new

    @property
    def n_slots(self) -> int:
        joined = sum(integer(fields, "slots") for fields in self.workers.values())
        return joined or integer(self.study, "slots")

    def elapsed_s(self, now: float) -> float:
        return max(now - self.started, 0.0) if self.started else 0.0

    def fraction(self, now: float) -> float | None:
        """How much of the budget is used, 0 to 1, by whichever of trials and time is nearer to its end."""
        shares = []
        if self.total:
            shares.append(self.n_done / self.total)
        time_s = real(self.study, "time_s")
        if time_s:
            shares.append(self.elapsed_s(now) / time_s)
        return min(max(shares), 1.0) if shares else None

    def eta_s(self, now: float) -> float | None:
        """Seconds until the budget is reached at the pace of this run so far; None before there is a pace."""
        guesses = []
        if self.total is not None and self.n_new:
            guesses.append((self.total - self.n_done) * self.elapsed_s(now) / self.n_new)
        time_s = real(self.study, "time_s")
        if time_s:
            guesses.append(time_s - self.elapsed_s(now))
        return max(min(guesses), 0.0) if guesses else None

    def rungs(self) -> list[Rung]:
        """Steps at which trials were pruned or judged, lowest first."""
        steps = sorted(self._rungs_seen | set(self._pruned_at))
        last = sorted(self._last_step.values())
        return [
            Rung(step=step, n_reached=len(last) - bisect_left(last, step), n_pruned=self._pruned_at[step])
            for step in steps
        ]

    # -------------------------------------------------------------------------------------- handlers

    def _study_started(self, notice: Notice) -> None:
        self.study = notice.fields
        self.started = notice.time
        self._take_best(mapping(notice.fields, "best"))

    def _study_warning(self, notice: Notice) -> None:
        self.last_warning = text(notice.fields, "message")

    def _storage_waiting(self, notice: Notice) -> None:
        self.storage_waiting = text(notice.fields, "reason") or "it does not answer"

    def _storage_recovered(self, notice: Notice) -> None:
        self.storage_waiting = ""

    def _study_draining(self, notice: Notice) -> None:
        self.draining = text(notice.fields, "reason") or "draining"

    def _study_finished(self, notice: Notice) -> None:
        self.ended = notice
        self.running.clear()
        self._take_best(mapping(notice.fields, "best"))

    def _take_best(self, fields: Fields) -> None:
        if "trial" in fields:
            values = tuple(sequence(fields, "values"))
            self.best = Best(trial=integer(fields, "trial"), values=values, params=mapping(fields, "params"))

    def _worker_joined(self, notice: Notice) -> None:
        worker = text(notice.fields, "worker")
        self.workers[worker] = notice.fields
        self.worker_numbers.setdefault(worker, len(self.worker_numbers))

    def _worker_lost(self, notice: Notice) -> None:
        self.workers.pop(text(notice.fields, "worker"), None)

    def _trial_started(self, notice: Notice) -> None:
        fields = notice.fields
        trial = integer(fields, "trial")
        params = mapping(fields, "params")
        self._params[trial] = params
        self.running[trial] = Running(
            trial=trial,
            attempt=integer(fields, "attempt", 1),
            worker=text(fields, "worker"),
            slot=integer(fields, "slot"),
            params=params,
            since=notice.time,
        )

    def _trial_reported(self, notice: Notice) -> None:
        fields = notice.fields
        trial, step = integer(fields, "trial"), integer(fields, "step")
        self._last_step[trial] = max(step, self._last_step.get(trial, step))
        if fields.get("rung") is not None:
            self._rungs_seen.add(step)
        running = self.running.get(trial)
        value = real(fields, "value")
        if running is not None and value is not None:
            running.step, running.value = step, value
            running.values.append(value)

    def _trial_completed(self, notice: Notice) -> None:
        fields = notice.fields
        self.counts["complete"] += 1
        params = mapping(fields, "params") or self._params.get(integer(fields, "trial"), {})
        self._leave(fields)
        if fields.get("best") is True:
            self.best = Best(trial=integer(fields, "trial"), values=tuple(sequence(fields, "values")), params=params)

    def _trial_pruned(self, notice: Notice) -> None:
        self.counts["pruned"] += 1
        if isinstance(step := notice.fields.get("step"), int):
            self._pruned_at[step] += 1
        self._leave(notice.fields)

    def _trial_failed(self, notice: Notice) -> None:
        self.counts["failed"] += 1
        self._leave(notice.fields)
        reason = text(notice.fields, "reason") or text(notice.fields, "cause")
        self.last_failure = Failure(trial=integer(notice.fields, "trial"), reason=reason)

    def _trial_retried(self, notice: Notice) -> None:
        self.running.pop(integer(notice.fields, "trial"), None)

    def _trial_stopped(self, notice: Notice) -> None:
        self._leave(notice.fields)

    def _leave(self, fields: Fields) -> None:
        trial = integer(fields, "trial")
        self.running.pop(trial, None)
        self._params.pop(trial, None)
