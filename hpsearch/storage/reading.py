"""A study read whole: one statement a table, however many trials it has."""

import gc
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from hpsearch.errors import StorageUnreachable
from hpsearch.storage import schema
from hpsearch.storage.rows import from_utc

METRIC_NAMES = "study:metric_names"  # the system attribute where Optuna keeps them


@dataclass(frozen=True, slots=True)
class LoadedStudy:
    """A study as the database has it; ``FrozenTrial._trial_id`` is the trial's row."""

    row: int
    name: str
    directions: list[StudyDirection]
    user_attrs: dict[str, Any]
    system_attrs: dict[str, Any]
    trials: list[FrozenTrial]


Which = Sequence[sa.ColumnElement[bool]]  # conditions on a trial
_NOT_FINITE = {"INF_NEG": -math.inf, "INF_POS": math.inf, "NAN": math.nan}

# A study has a handful of distributions and ten thousand copies of each.
parse_distribution = lru_cache(maxsize=4096)(json_to_distribution)


def load_study(connection: sa.Connection, row: int) -> LoadedStudy:
    """Read all of a study, its trials in the order of their numbers."""
    study = schema.STUDIES.c
    directions = schema.DIRECTIONS.c
    name = connection.scalar(sa.select(study.study_name).where(study.study_id == row))
    query = sa.select(directions.direction).where(directions.study_id == row).order_by(directions.objective)
    # The collector would go through what is read over and over, and find nothing: a third of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        trials = load_trials(connection, row)
    finally:
        if was_enabled:
            gc.enable()
    return LoadedStudy(
        row,
        str(name),
        list(connection.scalars(query)),
        _study_attrs(connection, schema.STUDY_USER_ATTRS, row),
        _study_attrs(connection, schema.STUDY_SYSTEM_ATTRS, row),
        trials,
    )


def load_trials(connection: sa.Connection, study: int, rows: Sequence[int] | None = None) -> list[FrozenTrial]:
    """The trials of the study's row, equal to what stock Optuna reads; of these rows only, if they are given."""
    which = [schema.TRIALS.c.study_id == study]
    if rows is not None:
        which.append(schema.TRIALS.c.trial_id.in_(rows))
    values: dict[int, list[float]] = defaultdict(list)
    for trial, value, kind in _select(connection, which, schema.VALUES, "value", "value_type", order="objective"):
        values[trial].append(value if kind == "FINITE" else _NOT_FINITE[kind])
    steps: dict[int, dict[int, float]] = defaultdict(dict)
    columns = ("step", "intermediate_value", "intermediate_value_type")
    for trial, step, value, kind in _select(connection, which, schema.INTERMEDIATE, *columns, order=columns[0]):
        steps[trial][step] = value if kind == "FINITE" else _NOT_FINITE[kind]
    params, distributions = _params(connection, which)
    user_attrs = _trial_attrs(connection, which, schema.TRIAL_USER_ATTRS)
    system_attrs = _trial_attrs(connection, which, schema.TRIAL_SYSTEM_ATTRS)
    trials: list[FrozenTrial] = []
    c = schema.TRIALS.c
    query = sa.select(c.trial_id, c.number, c.state, c.datetime_start, c.datetime_complete)
    for row, number, state, start, complete in connection.execute(query.where(*which).order_by(c.number, c.trial_id)):
        if rows is None and number != len(trials):
            raise StorageUnreachable(f"the study's trials are not numbered 0, 1, 2, ...: expected {len(trials)}")
        trials.append(
            FrozenTrial(
                trial_id=row,
                number=number,
                state=state,
                value=None,
                values=values.get(row),
                datetime_start=from_utc(start),
                datetime_complete=from_utc(complete),
                params=params.get(row, {}),
                distributions=distributions.get(row, {}),
                user_attrs=user_attrs.get(row, {}),
                system_attrs=system_attrs.get(row, {}),
                intermediate_values=steps.get(row, {}),
            )
        )
    return trials


def _params(
    connection: sa.Connection, which: Which
) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, BaseDistribution]]]:
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    distributions: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
    columns = ("param_name", "param_value", "distribution_json")
    for trial, name, value, text in _select(connection, which, schema.PARAMS, *columns, order="param_id"):
        distribution = parse_distribution(text)
        params[trial][name] = distribution.to_external_repr(value)
        distributions[trial][name] = distribution
    return params, distributions


def _study_attrs(connection: sa.Connection, table: sa.Table, study: int) -> dict[str, Any]:
    query = sa.select(table.c.key, table.c.value_json).where(table.c.study_id == study)
    return {key: json.loads(text) for key, text in connection.execute(query)}


def _trial_attrs(connection: sa.Connection, which: Which, table: sa.Table) -> dict[int, dict[str, Any]]:
    attrs: dict[int, dict[str, Any]] = defaultdict(dict)
    for trial, key, text in _select(
        connection, which, table, "key", "value_json", order=table.primary_key.columns.keys()[0]
    ):
        attrs[trial][key] = json.loads(text)
    return attrs


def _select(connection: sa.Connection, which: Which, table: sa.Table, *columns: str, order: str) -> Iterable[Any]:
    # An enum's name is enough, and quicker by the hundred thousand.
    owned = [table.c[name] for name in ("trial_id", *columns)]
    wanted = [sa.type_coerce(column, sa.String) if isinstance(column.type, sa.Enum) else column for column in owned]
    query = sa.select(*wanted).join(schema.TRIALS, schema.TRIALS.c.trial_id == table.c.trial_id).where(*which)
    return connection.execute(query.order_by(table.c.trial_id, table.c[order])).all()
