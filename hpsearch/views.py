"""Read-only questions to the storage, while a search runs or after: what ``status``, ``trials``, ``best`` show.

Nothing here creates or changes anything; each answer takes a handful of statements, however many trials there are.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hpsearch.errors import NoSuchStudy, StorageUnreachable
from hpsearch.storage import AttemptRow, schema
from hpsearch.storage.attempts import load_attempts
from hpsearch.storage.connect import Location, locate, reaching, reading_engine
from hpsearch.storage.holder import read_holders
from hpsearch.storage.reading import METRIC_NAMES, parse_distribution

_STATES = ("complete", "pruned", "fail", "running", "waiting")  # Optuna's, the way we write them


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """One study at a glance."""

    name: str
    directions: tuple[str, ...]  # "minimize", "maximize"
    metric_names: tuple[str, ...]  # empty: the study was made by Optuna's tools
    counts: Mapping[str, int]  # "complete", "pruned", "fail", "running", "waiting" -> how many; all five, in this order
    best: int | None  # number of the best trial; None: no success yet, or several objectives
    best_values: tuple[float, ...]
    running: bool  # a coordinator is alive
    holder: str  # "process 12 on host a since ..."; "" when none is alive
    started: float | None  # unix seconds: the running coordinator's start; when none runs, the last one's
    created: float | None  # unix seconds
    command: str  # that continues the study; "" when hpsearch never ran it
    directory: str  # of its logs and checkpoints

    @property
    def n_trials(self) -> int:
        """Trials of any state."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialView:
    """One trial in a line."""

    number: int
    state: str  # as in StudySummary.counts
    values: tuple[float, ...]
    params: Mapping[str, Any]  # as Optuna has them: labels, no constants
    attempts: Sequence[AttemptRow] = ()
    steps: int = 0  # how many were reported
    last_step: int | None = None
    last_value: float | None = None
    started: float | None = None  # unix seconds
    ended: float | None = None

    @property
    def reason(self) -> str:
        """Why the last attempt ended; "" while it runs, and for trials that hpsearch did not run."""
        return (self.attempts[-1].reason or "") if self.attempts else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """One line of a study's history."""

    id: int  # grows
    time: float  # unix seconds
    kind: str  # "trial.pruned"
    trial: int | None
    attempt: int | None
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def open_views(url: str) -> "Views":
    """Open a storage to look at it. StorageUnreachable, also when there is no such SQLite file yet."""
    location = locate(url)
    if location.is_missing:
        raise StorageUnreachable(f"{location.label}: there is no database yet: `hpsearch run` makes it")
    views = Views(location, reading_engine(location))
    try:
        views.check()
    except BaseException:
        views.close()
        raise
    return views


class Views:
    """The questions. Every one raises StorageUnreachable when the database is out of reach."""

    def __init__(self, location: Location, engine: sa.Engine) -> None:
        self._location = location
        self._engine = engine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; closing twice is closing once."""
        self._engine.dispose()

    def check(self) -> None:
        """StorageUnreachable if this is no database, or one that a newer hpsearch wrote."""
        with reaching(self._location), self._engine.connect() as connection:
            if schema.is_prepared(connection):
                schema.check_version(self._location, connection)

    def studies(self) -> list[StudySummary]:
        """All studies, in the order they were made."""
        with reaching(self._location), self._engine.connect() as connection:
            return _summaries(connection)

    def study(self, name: str) -> StudySummary:
        """One study; NoSuchStudy."""
        with reaching(self._location), self._engine.connect() as connection:
            return _summaries(connection, _row(connection, name))[0]

    def trials(self, name: str) -> list[TrialView]:
        """All trials of a study by number; NoSuchStudy."""
        with reaching(self._location), self._engine.connect() as connection:
            return _trials(connection, _row(connection, name))

    def trial(self, name: str, number: int) -> TrialView | None:
        """One trial, or None; NoSuchStudy."""
        with reaching(self._location), self._engine.connect() as connection:
            found = _trials(connection, _row(connection, name), [number])
            return found[0] if found else None

    def best(self, name: str) -> TrialView | list[TrialView] | None:
        """The best trial that keeps its constraints, or None; with several objectives the Pareto front. NoSuchStudy."""
        with reaching(self._location), self._engine.connect() as connection:
            row = _row(connection, name)
            directions = _directions(connection, row)[row]
            feasible = _feasible(connection, row).get(row, {})
            if len(directions) == 1:
                best = _best(directions[0], feasible)
                return None if best is None else _trials(connection, row, [best])[0]
            return _trials(connection, row, _pareto_front(directions, feasible))

    def resumptions(self, name: str, number: int) -> dict[int, tuple[int, str]]:
        """Attempt -> step it began with and checkpoint it loaded, "" for none; of those that asked. NoSuchStudy."""
        with reaching(self._location), self._engine.connect() as connection:
            row = _row(connection, name)
            if not schema.is_prepared(connection):
                return {}
            c = schema.EVENTS.c
            query = sa.select(c.attempt, c.fields).where(c.study_id == row, c.trial == number)
            found = {n: json.loads(text) for n, text in connection.execute(query.where(c.kind == "trial.resumed"))}
            return {attempt: (fields["step"], fields["checkpoint"]) for attempt, fields in found.items()}

    def events(self, name: str, after_id: int = 0, limit: int = 1000) -> list[EventView]:
        """The study's history past an event, oldest first, ``limit`` at most; NoSuchStudy."""
        with reaching(self._location), self._engine.connect() as connection:
            row = _row(connection, name)
            if not schema.is_prepared(connection):
                return []
            c = schema.EVENTS.c
            query = sa.select(c.event_id, c.time, c.kind, c.trial, c.attempt, c.text, c.fields)
            query = query.where(c.study_id == row, c.event_id > after_id).order_by(c.event_id).limit(limit)
            return [
                EventView(id=i, time=t, kind=kind, trial=n, attempt=a, text=text, fields=json.loads(fields))
                for i, t, kind, n, a, text, fields in connection.execute(query)
            ]


# ----------------------------------------------------------------------------------------------- studies


def _row(connection: sa.Connection, name: str) -> int:
    c = schema.STUDIES.c
    names: dict[str, int] = {}
    if sa.inspect(connection).has_table(schema.STUDIES.name):
        query = sa.select(c.study_id, c.study_name).order_by(c.study_id)
        names = {known: row for row, known in connection.execute(query)}
    if name not in names:
        raise NoSuchStudy(name, tuple(names))
    return names[name]


def _summaries(connection: sa.Connection, only: int | None = None) -> list[StudySummary]:
    if not sa.inspect(connection).has_table(schema.STUDIES.name):
        return []
    directions, counts = _directions(connection, only), _counts(connection, only)
    feasible, metric_names = _feasible(connection, only), _metric_names(connection, only)
    ours = schema.is_prepared(connection)
    records = _records(connection) if ours else {}
    holders = read_holders(connection) if ours else {}
    c = schema.STUDIES.c
    summaries = []
    for study, name in connection.execute(_of(sa.select(c.study_id, c.study_name), c, only).order_by(c.study_id)):
        values = feasible.get(study, {})
        best = _best(directions[study][0], values) if len(directions[study]) == 1 else None
        # Another study may have been given the number of one that Optuna's tools deleted: the name has to fit, too.
        record = records.get((study, name))
        holder = holders.get(study) if record else None
        running = holder is not None and holder.is_alive()
        summaries.append(
            StudySummary(
                name=name,
                directions=tuple(direction.name.lower() for direction in directions[study]),
                metric_names=metric_names.get(study, ()),
                counts={**dict.fromkeys(_STATES, 0), **counts.get(study, {})},
                best=best,
                best_values=() if best is None else values[best],
                running=running,
                holder=holder.words if holder and running else "",
                started=holder.started if holder else None,
                created=record.created if record else None,
                command=record.command if record else "",
                directory=record.directory if record else "",
            )
        )
    return summaries


def _of(query: sa.Select[Any], columns: Any, only: int | None) -> sa.Select[Any]:
    return query if only is None else query.where(columns.study_id == only)


def _directions(connection: sa.Connection, only: int | None) -> dict[int, list[StudyDirection]]:
    c = schema.DIRECTIONS.c
    directions: dict[int, list[StudyDirection]] = defaultdict(list)
    for study, direction in connection.execute(
        _of(sa.select(c.study_id, c.direction), c, only).order_by(c.study_id, c.objective)
    ):
        directions[study].append(direction)
    return directions


def _counts(connection: sa.Connection, only: int | None) -> dict[int, dict[str, int]]:
    c = schema.TRIALS.c
    counts: dict[int, dict[str, int]] = defaultdict(dict)
    query = _of(sa.select(c.study_id, c.state, sa.func.count()), c, only).group_by(c.study_id, c.state)
    for study, state, n in connection.execute(query):
        counts[study][state.name.lower()] = n
    return counts


def _metric_names(connection: sa.Connection, only: int | None) -> dict[int, tuple[str, ...]]:
    c = schema.STUDY_SYSTEM_ATTRS.c
    query = _of(sa.select(c.study_id, c.value_json).where(c.key == METRIC_NAMES), c, only)
    return {study: tuple(json.loads(text)) for study, text in connection.execute(query)}


def _records(connection: sa.Connection) -> dict[tuple[int, str], Any]:
    c = schema.RECORDS.c
    query = sa.select(c.study_id, c.name, c.created, c.command, c.directory)
    return {(row.study_id, row.name): row for row in connection.execute(query)}


# -------------------------------------------------------------------------------------------------- best


def _feasible(connection: sa.Connection, only: int | None) -> dict[int, dict[int, tuple[float, ...]]]:
    """Study -> trial number -> values, of the trials that are complete and keep their constraints."""
    trials, c = schema.TRIALS.c, schema.VALUES.c
    broken = _infeasible(connection, only)
    found: dict[int, dict[int, tuple[float, ...]]] = defaultdict(dict)
    query = sa.select(trials.study_id, trials.number, trials.trial_id, c.value, c.value_type)
    query = query.join(schema.VALUES, c.trial_id == trials.trial_id).where(trials.state == TrialState.COMPLETE)
    for study, number, row, value, kind in connection.execute(
        _of(query, trials, only).order_by(trials.study_id, trials.number, c.objective)
    ):
        if row not in broken:
            value = models.TrialValueModel.stored_repr_to_value(value, kind)
            found[study][number] = (*found[study].get(number, ()), value)
    return found


def _infeasible(connection: sa.Connection, only: int | None) -> set[int]:
    """The rows of trials with a constraint above zero, in Optuna's old form (a list) and its new one (a key each)."""
    trials, c = schema.TRIALS.c, schema.TRIAL_SYSTEM_ATTRS.c
    query = sa.select(c.trial_id, c.value_json).join(schema.TRIALS, c.trial_id == trials.trial_id)
    query = query.where(sa.or_(c.key == "constraints", c.key.startswith("constraints:")))
    broken = set()
    for row, text in connection.execute(_of(query, trials, only)):
        value = json.loads(text)
        if any(bound > 0.0 for bound in (value if isinstance(value, list) else [value]) if bound is not None):
            broken.add(row)
    return broken


def _best(direction: StudyDirection, values: Mapping[int, tuple[float, ...]]) -> int | None:
    choose = max if direction == StudyDirection.MAXIMIZE else min
    return choose(values, key=lambda number: values[number], default=None)  # the first of equals


def _pareto_front(directions: Sequence[StudyDirection], values: Mapping[int, tuple[float, ...]]) -> list[int]:
    signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
    losses = {n: tuple(s * v for s, v in zip(signs, vs, strict=True)) for n, vs in values.items()}
    front: list[int] = []
    for number in sorted(losses, key=lambda n: losses[n]):  # so that only an earlier one can dominate
        mine = losses[number]
        if not any(_dominates(losses[other], mine) for other in front):
            front.append(number)
    return sorted(front)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------------------------------------------ trials


def _trials(connection: sa.Connection, study: int, numbers: Sequence[int] | None = None) -> list[TrialView]:
    c = schema.TRIALS.c
    which = [c.study_id == study]
    if numbers is not None:
        which.append(c.number.in_(numbers))
    values, params = _values(connection, which), _params(connection, which)
    reports = _last_reports(connection, which)
    attempts = load_attempts(connection, study, numbers) if schema.is_prepared(connection) else {}
    query = sa.select(c.trial_id, c.number, c.state, c.datetime_start, c.datetime_complete).where(*which)
    found = []
    for row, number, state, started, completed in connection.execute(query.order_by(c.number, c.trial_id)):
        steps, last_step, last_value = reports.get(row, (0, None, None))
        found.append(
            TrialView(
                number=number,
                state=state.name.lower(),
                values=tuple(values.get(row, ())),
                params=params.get(row, {}),
                attempts=attempts.get(number, ()),
                steps=steps,
                last_step=last_step,
                last_value=last_value,
                started=_unix(started),
                ended=_unix(completed),
            )
        )
    return found


def _values(connection: sa.Connection, which: Iterable[sa.ColumnElement[bool]]) -> dict[int, list[float]]:
    c = schema.VALUES.c
    query = sa.select(c.trial_id, c.value, c.value_type).join(schema.TRIALS, schema.TRIALS.c.trial_id == c.trial_id)
    values: dict[int, list[float]] = defaultdict(list)
    for row, value, kind in connection.execute(query.where(*which).order_by(c.trial_id, c.objective)):
        values[row].append(models.TrialValueModel.stored_repr_to_value(value, kind))
    return values


def _params(connection: sa.Connection, which: Iterable[sa.ColumnElement[bool]]) -> dict[int, dict[str, Any]]:
    c = schema.PARAMS.c
    query = sa.select(c.trial_id, c.param_name, c.param_value, c.distribution_json)
    query = query.join(schema.TRIALS, schema.TRIALS.c.trial_id == c.trial_id).where(*which).order_by(c.param_id)
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    for row, name, value, text in connection.execute(query):
        params[row][name] = parse_distribution(text).to_external_repr(value)
    return params


def _last_reports(
    connection: sa.Connection, which: Iterable[sa.ColumnElement[bool]]
) -> dict[int, tuple[int, int, float]]:
    """Trial's row -> how many steps, the last of them, its value."""
    c = schema.INTERMEDIATE.c
    last = sa.select(c.trial_id, sa.func.count().label("n"), sa.func.max(c.step).label("step"))
    last = last.join(schema.TRIALS, schema.TRIALS.c.trial_id == c.trial_id).where(*which)
    grouped = last.group_by(c.trial_id).subquery()
    query = sa.select(
        grouped.c.trial_id, grouped.c.n, grouped.c.step, c.intermediate_value, c.intermediate_value_type
    ).join(schema.INTERMEDIATE, sa.and_(c.trial_id == grouped.c.trial_id, c.step == grouped.c.step))
    read = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    return {row: (n, step, read(value, kind)) for row, n, step, value, kind in connection.execute(query)}


def _unix(utc: datetime | None) -> float | None:
    return None if utc is None else utc.replace(tzinfo=UTC).timestamp()
