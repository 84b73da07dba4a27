"""The study in memory: reads are Optuna's in-memory storage, every write is also queued for the database.

Nothing here touches SQL. What the database would refuse for good (a name too long, an attribute that is no JSON) is
refused at once, on the calling thread, before memory is changed.
"""

import copy
import json
import math
import uuid
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn, Protocol, TypeVar

import sqlalchemy as sa
from optuna._typing import JSONSerializable
from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import InMemoryStorage
from optuna.storages._base import DEFAULT_STUDY_NAME_PREFIX
from optuna.storages._in_memory import _StudyInfo
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError

from hpsearch.errors import StorageFailed
from hpsearch.events import MAX_STEP, NAME_RULE, is_name
from hpsearch.storage import schema
from hpsearch.storage.index import StudyIndex
from hpsearch.storage.reading import LoadedStudy
from hpsearch.storage.rows import (
    NewTrial,
    Operation,
    Row,
    TrialChanged,
    TrialWithdrawn,
    Upsert,
    intermediate_row,
    value_row,
)
from hpsearch.storage.studies import delete_study, insert_study

T = TypeVar("T")
_SNAPSHOT = "this study is a snapshot: open it again to write to it"


class Sink(Protocol):
    """Where writes go: the writer thread."""

    def put(self, operations: Sequence[Operation], *, urgent: bool = True) -> None:
        """Queue them, together; ``urgent`` ones are committed at once."""

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Do rare work in a transaction of its own, after all that is queued, and wait for it."""

    def bind(self, *, study: tuple[int, int] | None = None, trials: dict[int, int] | None = None) -> None:
        """Say which row a mirror's id stands for."""

    def together(self) -> AbstractContextManager[None]:
        """Commit all that is queued inside the block in one transaction."""


class _Detached:
    """The sink of a mirror that came out of a pickle: a snapshot, without a database or its password."""

    def put(self, *_: object, **__: object) -> NoReturn:
        raise StorageFailed(_SNAPSHOT)

    run = bind = put

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()


class Mirror(InMemoryStorage):
    """An Optuna storage that reads from memory and queues writes.

    Ids of studies and trials are the mirror's own; trial *numbers* are those of the database.
    A pickled mirror is a read-only snapshot.
    """

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink: Sink = sink
        self._distributions: dict[int, dict[str, BaseDistribution]] = {}  # study -> parameter -> its first
        self._indexes: dict[int, StudyIndex] = {}
        self._proposed: set[int] = set()  # trials that were made here, and by nobody's template

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "_sink": _Detached()}

    def together(self) -> AbstractContextManager[None]:
        """All writes made inside the block are committed in one transaction, after its end."""
        return self._sink.together()

    def restore(self, loaded: LoadedStudy) -> int:
        """Take over a study as the database has it; returns its id here."""
        with self._lock:
            study_id = self._create(loaded.directions, loaded.name)
            for key, value in loaded.user_attrs.items():
                super().set_study_user_attr(study_id, key, value)
            for key, value in loaded.system_attrs.items():
                super().set_study_system_attr(study_id, key, value)
            first = self._distributions[study_id]
            rows: dict[int, int] = {}
            for trial in loaded.trials:
                # A copy: what was loaded keeps its rows, by which others know what is theirs.
                rows[self._append(study_id, copy.copy(trial))] = trial._trial_id
                for name, distribution in trial.distributions.items():
                    first.setdefault(name, distribution)
            self._sink.bind(study=(study_id, loaded.row), trials=rows)
            return study_id

    # ------------------------------------------------------------------------------------------ studies

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Rare, so done in the database before it returns."""
        with self._lock:
            name = DEFAULT_STUDY_NAME_PREFIX + str(uuid.uuid4()) if study_name is None else study_name
            _check_name(name)
            if name in self._study_name_to_id:
                raise DuplicatedStudyError
            try:
                row = self._sink.run(lambda connection: insert_study(connection, name, directions))
            except IntegrityError:
                raise DuplicatedStudyError from None
            study_id = self._create(directions, name)
            self._sink.bind(study=(study_id, row))
            return study_id

    @contextmanager
    def indexed(self, study_id: int) -> Iterator[StudyIndex]:
        """What is kept in order of a study's trials; it stays as it is, but for changes made inside the block."""
        with self._lock:
            yield self._indexes[study_id]

    def _create(self, directions: Sequence[StudyDirection], name: str) -> int:
        # Optuna's own would tell the user that the study was created in memory, which is the one thing it is not.
        self._max_study_id = study_id = self._max_study_id + 1
        self._studies[study_id] = study = _StudyInfo(name, list(directions))
        self._study_name_to_id[name], self._prev_waiting_trial_number[study_id] = study_id, 0
        self._distributions[study_id], self._indexes[study_id] = {}, StudyIndex(directions, study.trials)
        return study_id

    def delete_study(self, study_id: int) -> None:
        """Rare, so done in the database before it returns."""
        with self._lock:
            name = self.get_study_name_from_id(study_id)
            self._sink.run(lambda connection: delete_study(connection, name))
            super().delete_study(study_id)
            del self._distributions[study_id], self._indexes[study_id]

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        text, value = _as_json(key, value)
        with self._lock:
            super().set_study_user_attr(study_id, key, value)
            self._sink.put([_attr(schema.STUDY_USER_ATTRS, study_id, key, text)])

    def set_study_system_attr(self, study_id: int, key: str, value: JSONSerializable) -> None:
        text, value = _as_json(key, value)
        with self._lock:
            super().set_study_system_attr(study_id, key, value)
            self._sink.put([_attr(schema.STUDY_SYSTEM_ATTRS, study_id, key, text)])

    # ------------------------------------------------------------------------------------------- trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        rows = [] if template_trial is None else _rows_of(template_trial)
        with self._lock:
            self._check_study_id(study_id)
            trial = self._create_running_trial() if template_trial is None else copy.deepcopy(template_trial)
            trial_id = self._append(study_id, trial)
            if template_trial is None:
                self._proposed.add(trial_id)
            new = NewTrial(trial_id, study_id, trial.number, trial.state, trial.datetime_start, trial.datetime_complete)
            self._sink.put([new, *(Upsert(table, trial_id, row) for table, row in rows)])
            return trial_id

    def withdraw_trial(self, trial_id: int) -> bool:
        """Delete a trial as if it had never been made.

        False if it is not the last one of its study, or if somebody put it in: then it is not ours to delete.
        """
        with self._lock:
            study_id, number = self._trial_id_to_study_id_and_number[trial_id]
            trials = self._studies[study_id].trials
            if number != len(trials) - 1 or trial_id not in self._proposed:
                return False
            self._indexes[study_id].remove(trials.pop())
            self._proposed.discard(trial_id)
            del self._trial_id_to_study_id_and_number[trial_id]
            self._sink.put([TrialWithdrawn(trial_id)])
            return True

    def adopt(self, study_id: int, trial: FrozenTrial) -> FrozenTrial:
        """Take over a trial that another program put into the database, under the next number.

        Writes nothing. Returns the trial as it stands here; its row is the caller's to bind. KeyError: no such study.
        """
        adopted = copy.deepcopy(trial)
        with self._lock:
            self._check_study_id(study_id)
            self._append(study_id, adopted)
            for name, distribution in adopted.distributions.items():
                self._distributions[study_id].setdefault(name, distribution)
            return adopted

    def _append(self, study_id: int, trial: FrozenTrial) -> int:
        """Take the trial itself, under the next number and id."""
        trials = self._studies[study_id].trials
        self._max_trial_id += 1
        trial.number, trial._trial_id = len(trials), self._max_trial_id
        self._trial_id_to_study_id_and_number[trial._trial_id] = (study_id, trial.number)
        trials.append(trial)
        self._indexes[study_id].add(trial)
        self._update_cache(trial._trial_id, study_id)
        return trial._trial_id

    def _set_trial(self, trial_id: int, trial: FrozenTrial) -> None:
        """Every change of a trial comes through here: Optuna's memory never changes a trial, it replaces it."""
        study_id, number = self._trial_id_to_study_id_and_number[trial_id]
        trials = self._studies[study_id].trials
        was, trials[number] = trials[number], trial
        self._indexes[study_id].change(was, trial)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        with self._lock:
            self._check_study_id(study_id)
            trials = self._studies[study_id].trials
            found = trials.copy() if states is None else [trials[n] for n in self._indexes[study_id].numbers(states)]
        return copy.deepcopy(found) if deepcopy else found

    def get_n_trials(self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None) -> int:
        states = tuple(TrialState) if state is None else (state,) if isinstance(state, TrialState) else state
        with self._lock:
            self._check_study_id(study_id)
            return self._indexes[study_id].count(states)

    def get_best_feasible_trial(self, study_id: int) -> FrozenTrial | None:
        """The one that ``Study.best_trial`` copies; None where that raises because there is none."""
        with self._lock:
            if self._studies[study_id].best_trial_id is None:
                return None
            best = self.get_best_trial(study_id)
            is_feasible = all(value <= 0.0 for value in best.constraints.values())
            return best if is_feasible else self._indexes[study_id].best_feasible

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        _check_name(param_name)
        param_value_internal = float(param_value_internal)
        with self._lock:
            trial = self.get_trial(trial_id)
            self.check_trial_is_updatable(trial_id, trial.state)
            first = self._distributions[self._trial_id_to_study_id_and_number[trial_id][0]]
            if param_name in first:  # also those of an earlier run, which the memory does not check
                check_distribution_compatibility(first[param_name], distribution)
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
            first.setdefault(param_name, distribution)
            row = _param_row(param_name, param_value_internal, distribution)
            self._sink.put([Upsert(schema.PARAMS, trial_id, row)])

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if values is not None:
            values = [float(value) for value in values]
            if any(math.isnan(value) for value in values):
                raise ValueError("a trial's value cannot be NaN")
        with self._lock:
            if not super().set_trial_state_values(trial_id, state, values):
                return False
            trial = self.get_trial(trial_id)
            operations: list[Operation] = [
                Upsert(schema.VALUES, trial_id, value_row(objective, value))
                for objective, value in enumerate(values or ())
            ]
            operations.append(TrialChanged(trial_id, state, trial.datetime_start, trial.datetime_complete))
            self._sink.put(operations)
            return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        step, intermediate_value = int(step), float(intermediate_value)
        if not -MAX_STEP <= step <= MAX_STEP:
            raise ValueError(f"step {step} is out of range")
        operation = Upsert(schema.INTERMEDIATE, trial_id, intermediate_row(step, intermediate_value))
        with self._lock:
            was = self._get_trial(trial_id)
            self.check_trial_is_updatable(trial_id, was.state)
            # As Optuna's memory does it, only quicker: it uses copy.copy, and there is nothing more frequent than this.
            trial = object.__new__(FrozenTrial)
            values = was.intermediate_values | {step: intermediate_value}
            trial.__dict__.update(was.__dict__, intermediate_values=values)
            self._set_trial(trial_id, trial)
            self._sink.put([operation], urgent=False)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        text, value = _as_json(key, value)
        with self._lock:
            super().set_trial_user_attr(trial_id, key, value)
            self._sink.put([_attr(schema.TRIAL_USER_ATTRS, trial_id, key, text)], urgent=False)

    def set_trial_system_attr(self, trial_id: int, key: str, value: JSONSerializable) -> None:
        text, value = _as_json(key, value)
        with self._lock:
            super().set_trial_system_attr(trial_id, key, value)
            self._sink.put([_attr(schema.TRIAL_SYSTEM_ATTRS, trial_id, key, text)], urgent=False)


def _attr(table: sa.Table, owner: int, key: str, text: str) -> Upsert:
    return Upsert(table, owner, {"key": key, "value_json": text})


def _param_row(name: str, internal: float, distribution: BaseDistribution) -> Row:
    return {"param_name": name, "param_value": internal, "distribution_json": distribution_to_json(distribution)}


def _rows_of(trial: FrozenTrial) -> list[tuple[sa.Table, Row]]:
    rows: list[tuple[sa.Table, Row]] = []
    for name, distribution in trial.distributions.items():
        _check_name(name)
        rows.append(
            (schema.PARAMS, _param_row(name, float(distribution.to_internal_repr(trial.params[name])), distribution))
        )
    for objective, value in enumerate(trial.values or ()):
        rows.append((schema.VALUES, value_row(objective, float(value))))
    for step, value in trial.intermediate_values.items():
        rows.append((schema.INTERMEDIATE, intermediate_row(int(step), float(value))))
    for table, attrs in ((schema.TRIAL_USER_ATTRS, trial.user_attrs), (schema.TRIAL_SYSTEM_ATTRS, trial.system_attrs)):
        rows += [(table, {"key": key, "value_json": _as_json(key, attr)[0]}) for key, attr in attrs.items()]
    return rows


def _as_json(key: str, value: Any) -> tuple[str, Any]:
    """The text for the database, and what a reader of it would get: no list shared with the caller, no tuple."""
    _check_name(key)
    text = json.dumps(value)
    return text, json.loads(text) if isinstance(value, dict | list | tuple) else value


def _check_name(name: str) -> None:
    if not is_name(name):
        raise ValueError(f"{name[:40]!r}: {NAME_RULE}")
