"""What is asked of a study's trials at each report and each trial, kept as they change: no question reads them all.

Optuna's pruners go through all trials at each decision. A trial that is over never changes again, so what they look
for there can be sorted once.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Sequence
from itertools import chain
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sortedcontainers import SortedList

_RUNG = "completed_rung_"  # system attributes in which SuccessiveHalvingPruner keeps a trial's value at each rung


class StudyIndex:
    """Trials of one study by state, the best that satisfies its constraints, and, once asked for, values in order.

    Args:
        trials: of the study, the mirror's own list; a trial in it is replaced, never changed.
    """

    def __init__(self, directions: Sequence[StudyDirection], trials: list[FrozenTrial]) -> None:
        self._trials = trials
        self._maximize = directions[0] is StudyDirection.MAXIMIZE
        self._numbers: dict[TrialState, SortedList] = {state: SortedList() for state in TrialState}
        self._steps: dict[int, SortedList] | None = None  # what COMPLETE trials reported, without NaN
        self._n_nan: Counter[int] = Counter()  # by step
        self._rungs: dict[tuple[int, str], SortedList] | None = None  # group, attribute -> values
        self._group: Callable[[int], int] | None = None
        self._n_odd_rungs = 0
        self.best_feasible: FrozenTrial | None = None  # of several equal ones the first; with one objective
        self.longest: int | None = None  # the last step of the COMPLETE trial that came furthest
        for trial in trials:
            self.add(trial)

    # ------------------------------------------------------------------------------------------- changes

    def add(self, trial: FrozenTrial) -> None:
        """A trial that is new in the list."""
        self._numbers[trial.state].add(trial.number)
        self._note_rungs(trial.number, {}, trial.system_attrs)
        if trial.state is TrialState.COMPLETE:
            self._completed(trial)

    def change(self, was: FrozenTrial, trial: FrozenTrial) -> None:
        """A trial that stands in the list in place of ``was``."""
        if was.system_attrs is not trial.system_attrs:
            self._note_rungs(trial.number, was.system_attrs, trial.system_attrs)
        if was.state is not trial.state:
            self._numbers[was.state].remove(trial.number)
            self._numbers[trial.state].add(trial.number)
            if trial.state is TrialState.COMPLETE:
                self._completed(trial)

    def remove(self, trial: FrozenTrial) -> None:
        """A trial that is no longer in the list; it reached no rung and no end."""
        self._numbers[trial.state].remove(trial.number)

    def _completed(self, trial: FrozenTrial) -> None:
        if (last := trial.last_step) is not None:
            self.longest = last if self.longest is None else max(last, self.longest)
            if self._steps is not None:
                self._note_steps(self._steps, trial)
        if len(trial.values or ()) == 1 and all(value <= 0.0 for value in trial.constraints.values()):
            best = self.best_feasible
            if best is None or self._rank(trial) < self._rank(best):
                self.best_feasible = trial

    def _rank(self, trial: FrozenTrial) -> tuple[float, int]:
        (value,) = trial.values
        return -value if self._maximize else value, trial.number

    def _note_steps(self, steps: dict[int, SortedList], trial: FrozenTrial) -> None:
        for step, value in trial.intermediate_values.items():
            if value == value:
                steps[step].add(value)
            else:
                self._n_nan[step] += 1

    def _note_rungs(self, number: int, was: dict[str, Any], attrs: dict[str, Any]) -> None:
        if self._rungs is None:
            return
        group = self._group(number) if self._group is not None else 0
        for key, value in attrs.items():
            if key.startswith(_RUNG) and was.get(key, self) is not value:
                if key in was and not self._is_odd(was[key], -1):
                    self._rungs[group, key].remove(was[key])
                if not self._is_odd(value, 1):
                    self._rungs[group, key].add(value)

    def _is_odd(self, value: Any, n: int) -> bool:
        """Whether a rung's value is none of the numbers that can be sorted; those that are not are counted."""
        is_odd = type(value) not in (int, float) or value != value
        self._n_odd_rungs += n * is_odd
        return is_odd

    # ----------------------------------------------------------------------------------------- questions

    def count(self, states: Container[TrialState]) -> int:
        """How many trials are in one of these states."""
        return sum(len(numbers) for state, numbers in self._numbers.items() if state in states)

    def numbers(self, states: Container[TrialState]) -> list[int]:
        """Those of the trials in one of these states, in order."""
        found = [numbers for state, numbers in self._numbers.items() if state in states]
        return list(found[0]) if len(found) == 1 else sorted(chain(*found))

    @property
    def n_complete(self) -> int:
        """Trials in the state COMPLETE."""
        return len(self._numbers[TrialState.COMPLETE])

    def reported(self, step: int) -> tuple[Sequence[float], int]:
        """What COMPLETE trials reported at a step: all but NaN, sorted; how many were NaN."""
        if self._steps is None:
            self._steps = defaultdict(SortedList)
            self._n_nan.clear()
            for number in self._numbers[TrialState.COMPLETE]:
                self._note_steps(self._steps, self._trials[number])
        return self._steps.get(step, ()), self._n_nan[step]

    def at_rung(self, rung: int, number: int, group: Callable[[int], int] | None) -> SortedList | None:
        """What trials had when they reached a rung of SuccessiveHalvingPruner, sorted.

        Args:
            group: puts a trial, by its number, with those that it competes with; None for all together.
            number: of the trial whose competitors count.

        None: somebody wrote rungs by hand, and there are some that are no numbers.
        """
        if self._rungs is None or group != self._group:
            self._rungs, self._group, self._n_odd_rungs = defaultdict(SortedList), group, 0
            for trial in self._trials:
                self._note_rungs(trial.number, {}, trial.system_attrs)
        values = self._rungs[group(number) if group is not None else 0, f"{_RUNG}{rung}"]
        return None if self._n_odd_rungs else values

    def __getstate__(self) -> dict[str, Any]:
        # What was sorted for pruners is sorted again when asked for.
        return {**self.__dict__, "_steps": None, "_rungs": None, "_group": None, "_n_odd_rungs": 0}
