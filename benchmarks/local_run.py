"""Run one of jobs.py in this process, on a local cluster of its own, and read what the storage keeps of it."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from dask.system import CPU_COUNT
from figures import ROOT

from hpsearch.api import run_study
from hpsearch.spec import load_study
from hpsearch.storage import AttemptRow
from hpsearch.views import open_views


@dataclass(frozen=True)
class Ran:
    """One finished trial: its user attributes and its only attempt."""

    user_attrs: Mapping[str, Any]
    attempt: AttemptRow


def run_job(function: str, file: str = "jobs.py", *, trials: int, slots: int, **overrides: object) -> Sequence[Ran]:
    """All trials of a study over ``benchmarks/<file>:function``, in order; the CPUs are dealt to the slots."""
    with tempfile.TemporaryDirectory() as directory:
        storage = f"sqlite:///{directory}/studies.db"
        spec = load_study(
            f"{ROOT / 'benchmarks' / file}:{function}",
            overrides=[
                f"directory={directory}",
                f"resources.cpus={max(CPU_COUNT // slots, 1)}",
                *(f"{key}={value}" for key, value in overrides.items()),
            ],
            environ={},
            options={
                "name": "benchmark",
                "storage": storage,
                "metric.goal": "minimize",
                "budget.trials": trials,
                "cluster.workers": 1,
            },
        )
        outcome = run_study(spec, listener=lambda notice: None, interrupts=False)
        assert outcome.exit_code == 0, outcome.reason
        attributes = [trial.user_attrs for trial in optuna.load_study(study_name="benchmark", storage=storage).trials]
        attempts = [trial.attempts for trial in open_views(storage).trials("benchmark")]
        assert len(attempts) == len(attributes) == trials
        assert all(len(of_trial) == 1 for of_trial in attempts), attempts
        return [Ran(attrs, of_trial[0]) for attrs, of_trial in zip(attributes, attempts, strict=True)]
