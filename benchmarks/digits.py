"""The whole search of studies/digits.yaml with hpsearch's storage, and the same one with Optuna's own.

The same coordinator, cluster, objective, sampler and seed; only where ask, report, prune and tell are kept differs.
With Optuna's storage each of them is written before it returns, as in every study that is opened by a URL. In turns;
the clock runs from the first trial's start to the end of the last, so that no import counts.

python benchmarks/digits.py [rounds]
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from figures import ROOT, Figure, median, show

from hpsearch import storage
from hpsearch.api import run_study
from hpsearch.coordinator import session
from hpsearch.coordinator.proposals import Proposals
from hpsearch.events import Notice, Verdict
from hpsearch.spec import load_study


class StockProposals(Proposals):
    """Asks Optuna's own storage and pruner what the mirror would be asked."""

    @property
    def best(self) -> optuna.trial.FrozenTrial | None:
        try:
            return self._study.best_trial
        except ValueError:
            return None

    def judge(self, number: int, step: int) -> Verdict:
        frozen = self._storage.get_trial(self._open[number]._trial_id)
        return Verdict.PRUNE if self._study.pruner.prune(self._study, frozen) else Verdict.CONTINUE


@contextmanager
def stock() -> Iterator[None]:
    """Sessions opened meanwhile keep Optuna's side of the study in a stock RDBStorage."""
    open_study, proposals = storage.open_study, session.Proposals

    def open_stock(url: str, name: str, **arguments: Any) -> storage.StudyStore:
        store = open_study(url, name, **arguments)
        store.study = optuna.load_study(
            study_name=name, storage=url, sampler=arguments["sampler"], pruner=arguments["pruner"]
        )
        row = store.study._study_id
        store._writer.bind(study=(row, row))  # our own tables are written as ever
        store._writer._arrivals = None  # the other side of this very process is no other program
        return store

    storage.open_study, session.Proposals = open_stock, StockProposals
    try:
        yield
    finally:
        storage.open_study, session.Proposals = open_study, proposals


def wall_s() -> float:
    """Seconds of one search; the same number of trials every time."""
    times: list[Notice] = []
    with tempfile.TemporaryDirectory() as directory:
        spec = load_study(
            str(ROOT / "studies/digits.yaml"),
            overrides=[f"directory={directory}", "metric.target=2.0", "seed=1"],
            environ={},
            options={"storage": f"sqlite:///{directory}/studies.db"},
        )
        outcome = run_study(spec, listener=times.append, interrupts=False)
        assert outcome.exit_code == 0, outcome.reason
    started = [notice.time for notice in times if notice.kind == "trial.started"]
    ended = [notice.time for notice in times if notice.kind in ("trial.completed", "trial.pruned")]
    assert len(ended) == spec.budget.trials
    return max(ended) - min(started)


def main(rounds: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(wall_s())
        with stock():
            theirs.append(wall_s())
    show(
        "digits",
        [
            Figure("60 trials of digits, hpsearch's storage", median(ours), "s"),
            Figure("the same search, Optuna's RDBStorage on SQLite", median(theirs), "s"),
            Figure("times as fast", median([b / a for a, b in zip(ours, theirs, strict=True)]), "x"),
        ],
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
