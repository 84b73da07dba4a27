"""Pruners are answered from an index: the same decisions, the same notes, as Optuna's own code over its own memory."""

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
)
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.search import _percentile, judge
from hpsearch.storage import Mirror

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class _Nowhere:
    """A sink that forgets."""

    def put(self, operations: Sequence[Any], *, urgent: bool = True) -> None: ...

    def run(self, work: Callable[[Any], Any]) -> Any:
        return 1

    def bind(self, **_: Any) -> None: ...

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()


class Pair:
    """One history in two studies: Optuna's, and one over the mirror."""

    def __init__(self, direction: str, make: Callable[[], BasePruner]) -> None:
        self.mirror = Mirror(_Nowhere())
        self.mirror.create_new_study([StudyDirection[direction.upper()]], "pair")
        self.studies = [
            optuna.create_study(study_name="pair", storage=InMemoryStorage(), direction=direction, pruner=make()),
            optuna.Study("pair", self.mirror, pruner=make()),
        ]
        for study in self.studies:
            study.sampler = optuna.samplers.RandomSampler(seed=1)
        self.n_pruned = 0

    def do(self, name: str, *arguments: Any) -> None:
        getattr(self, f"_{name}")(*arguments)

    def _unfinished(self, which: int) -> int | None:
        states = (TrialState.RUNNING,)
        ids = [t._trial_id for t in self.studies[0].get_trials(deepcopy=False, states=states)]
        return ids[which % len(ids)] if ids else None

    def _ask(self) -> None:
        for study in self.studies:
            study.ask()

    def _enqueue(self) -> None:
        for study in self.studies:
            study.enqueue_trial({"x": 1.0})

    def _report(self, which: int, step: int, value: float, judged: bool) -> None:
        if (trial := self._unfinished(which)) is None:
            return
        for study in self.studies:
            study._storage.set_trial_intermediate_value(trial, step, value)
        if judged:
            self._judge(trial)

    def _judge(self, trial: int) -> None:
        theirs, ours = self.studies
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about NaN and infinities
            expected = _outcome(lambda: bool(theirs.pruner.prune(theirs, theirs._storage.get_trial(trial))))
            with self.mirror.indexed(ours._study_id) as index:
                found = _outcome(lambda: judge(ours.pruner, ours, self.mirror.get_trial(trial), index))
        assert found == expected
        self.n_pruned += expected is True

    def _tell(self, which: int, value: float | None) -> None:
        if (trial := self._unfinished(which)) is None:
            return
        for study in self.studies:
            if value is None:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, value)

    def _fail(self, which: int) -> None:
        if (trial := self._unfinished(which)) is not None:
            for study in self.studies:
                study.tell(trial, state=TrialState.FAIL)

    def _requeue(self, which: int) -> None:
        if (trial := self._unfinished(which)) is not None:
            for study in self.studies:
                study._storage.set_trial_state_values(trial, TrialState.WAITING)
            # Optuna's memory looks for waiting trials only from the last one that it found on; its databases do not.
            self.studies[0]._storage._prev_waiting_trial_number[0] = 0

    def _write_rung(self, which: int, rung: int, value: Any) -> None:
        if (trial := self._unfinished(which)) is not None:
            for study in self.studies:
                study._storage.set_trial_system_attr(trial, f"completed_rung_{rung}", value)

    def _constrain(self, which: int, value: float) -> None:
        if (trial := self._unfinished(which)) is not None:
            for study in self.studies:
                study._storage.set_trial_system_attr(trial, "constraints:c", value)

    def _add(self, state: TrialState, value: float, steps: dict[int, float], rungs: dict[int, float]) -> None:
        for study in self.studies:
            study.add_trial(
                create_trial(
                    state=state,
                    value=value if state is TrialState.COMPLETE else None,
                    intermediate_values=steps,
                    system_attrs={f"completed_rung_{rung}": noted for rung, noted in rungs.items()},
                )
            )

    def compare(self) -> None:
        theirs, ours = self.studies
        assert [_facts(trial) for trial in ours.trials] == [_facts(trial) for trial in theirs.trials]
        for states in ((state,) for state in TrialState):
            found = [trial.number for trial in ours.get_trials(deepcopy=False, states=states)]
            assert found == [trial.number for trial in theirs.get_trials(deepcopy=False, states=states)]
            assert self.mirror.get_n_trials(ours._study_id, states) == len(found)
        unfinished = (TrialState.WAITING, TrialState.RUNNING)
        assert ours.get_trials(states=unfinished) == [t for t in ours.trials if t.state in unfinished]
        best = self.mirror.get_best_feasible_trial(ours._study_id)
        number = _outcome(lambda: theirs.best_trial.number)
        assert (number if isinstance(number, int) else None) == (None if best is None else best.number)


def _outcome(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (TypeError, ValueError) as error:
        return type(error)


def _facts(trial: FrozenTrial) -> str:
    kept = (trial.number, trial.state, trial.values, trial.intermediate_values, sorted(trial.system_attrs.items()))
    return repr(kept)


PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "median": lambda: MedianPruner(n_startup_trials=1),
    "median of startups": lambda: MedianPruner(n_startup_trials=0, n_warmup_steps=1, interval_steps=2, n_min_trials=2),
    "percentile": lambda: PercentilePruner(25.0, n_startup_trials=1),
    "percentile of bounds": lambda: PercentilePruner(0.0, n_startup_trials=0, interval_steps=3),
    "percentile of all": lambda: PercentilePruner(100, n_startup_trials=0),
    "odd percentile": lambda: PercentilePruner(33.3, n_startup_trials=1, n_min_trials=3),
    "asha": lambda: SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    "asha, auto": lambda: SuccessiveHalvingPruner(reduction_factor=3),
    "asha, late": lambda: SuccessiveHalvingPruner(min_resource=1, reduction_factor=2, min_early_stopping_rate=1),
    "asha, bootstrapped": lambda: SuccessiveHalvingPruner(min_resource=1, reduction_factor=2, bootstrap_count=2),
    "hyperband": lambda: HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=2),
    "hyperband, auto": lambda: HyperbandPruner(min_resource=1, reduction_factor=3),
    "hyperband, bootstrapped": lambda: HyperbandPruner(max_resource=9, reduction_factor=3, bootstrap_count=1),
    "hyperband without a bracket": lambda: HyperbandPruner(min_resource=9, max_resource=2, reduction_factor=3),
    "patient median": lambda: PatientPruner(MedianPruner(n_startup_trials=1), patience=1),
    "patient asha": lambda: PatientPruner(SuccessiveHalvingPruner(min_resource=1, reduction_factor=2), patience=0),
    "patient alone": lambda: PatientPruner(None, patience=1),
    "threshold": lambda: ThresholdPruner(upper=1.0),
    "nop": lambda: NopPruner(),
}
VALUES = st.sampled_from([0.0, -0.0, 1.0, 1.0, 2.0, 0.1, 0.3, -3.0, math.nan, math.inf, -math.inf]) | st.floats(
    width=64
)
RESULTS = st.sampled_from([0.0, 1.0, -1.0, 2.0, math.inf, -math.inf])
STEPS = st.integers(-1, 9)
WHICH = st.integers(0, 7)
COMMON = [
    st.tuples(st.just("ask")),
    st.tuples(st.just("report"), WHICH, STEPS, VALUES, st.booleans()),
    st.tuples(st.just("report"), WHICH, STEPS, VALUES, st.just(True)),
    st.tuples(st.just("report"), WHICH, st.integers(0, 3), VALUES, st.just(True)),
    st.tuples(st.just("tell"), WHICH, st.none() | RESULTS),
    st.tuples(st.just("fail"), WHICH),
    st.tuples(st.just("requeue"), WHICH),
    st.tuples(st.just("constrain"), WHICH, st.sampled_from([-1.0, 0.0, 1.0])),
    st.tuples(
        st.just("add"),
        st.sampled_from([TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.WAITING]),
        RESULTS,
        st.dictionaries(STEPS, VALUES, max_size=4),
        st.dictionaries(st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0, math.inf]), max_size=2),
    ),
]
ODD = st.tuples(st.just("write_rung"), WHICH, st.integers(0, 2), st.sampled_from([math.nan, "1", None, 3, 0.5, True]))
HISTORIES = st.lists(st.one_of(COMMON), max_size=90)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("pruner", PRUNERS)
@settings(max_examples=12, deadline=None)
@given(history=HISTORIES)
def test_every_decision_and_every_note_is_the_one_that_optuna_makes(pruner, direction, history):
    pair = Pair(direction, PRUNERS[pruner])
    for operation in history:
        pair.do(*operation)
    pair.compare()


@settings(max_examples=30, deadline=None)
@given(history=st.lists(st.one_of(ODD, *COMMON[:6]), max_size=60))
def test_rungs_that_somebody_wrote_by_hand_count_as_optuna_counts_them(history):
    pair = Pair("maximize", PRUNERS["asha"])
    for operation in history:
        pair.do(*operation)
    pair.compare()


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("pruner", [name for name in PRUNERS if name not in ("nop", "hyperband without a bracket")])
def test_long_histories_are_pruned_alike(pruner, direction):
    """A hundred trials that improve by chance: many prunes, many that are none, many ties, and some NaN."""
    chance = np.random.default_rng(len(pruner))
    pair = Pair(direction, PRUNERS[pruner])
    sign = 1 if direction == "maximize" else -1
    n_judged = 0
    for _ in range(100):
        pair.do("ask")
        for step in range(10):
            value = sign * float(np.round(chance.normal(0.1 * step), 1)) if chance.random() > 0.02 else math.nan
            before = pair.n_pruned
            pair.do("report", 0, step, value, True)
            n_judged += 1
            if pair.n_pruned > before:
                pair.do("tell", 0, None)
                break
        else:
            pair.do("tell", 0, sign * chance.random())
    pair.compare()
    assert 0 < pair.n_pruned < n_judged


def test_a_pruner_that_looks_like_one_of_optunas_is_asked_itself():
    class Hasty(MedianPruner):
        def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
            return True

    pair = Pair("minimize", Hasty)
    pair.do("ask")
    pair.do("report", 0, 0, 1.0, True)
    assert pair.n_pruned == 1


@settings(max_examples=500)
@example(values=[math.inf], percent=50.0)
@example(values=[1.0, math.inf], percent=100)
@given(
    values=st.lists(st.floats(allow_nan=False), min_size=1, max_size=30),
    percent=st.floats(0, 100) | st.integers(0, 100),
)
def test_the_percentile_is_numpys_to_the_last_bit(values, percent):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about infinities
        expected = float(np.nanpercentile(np.array(values), percent))
    assert repr(_percentile(sorted(values), percent) + 0.0) == repr(expected + 0.0)
