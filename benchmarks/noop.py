"""How many trials that do nothing are through in a second, each in a process of its own, on two slots.

Beside it Optuna alone, which isolates nothing, and Optuna's DaskStorage where optuna-integration is installed.
Five parameters a trial, random sampler. Every system is up when its clock starts: for hpsearch, whose launcher is
still importing while the first trials wait for it, that is the end of the first trial of each slot.

python benchmarks/noop.py [trials]
"""

import sys
import time

import optuna
from figures import Figure, show
from jobs import nothing
from local_run import run_job

SLOTS = 2
DECLARED = {f"parameters.{name}": "{min: 0.0, max: 1.0}" for name in "abcde"}


def hpsearch_rate(trials: int, function: str, **parameters: str) -> float:
    ran = run_job(function, trials=trials, slots=SLOTS, sampler="random", **parameters)
    ended = sorted(trial.attempt.ended for trial in ran if trial.attempt.ended is not None)
    return (trials - SLOTS) / (ended[-1] - ended[SLOTS - 1])


def optuna_rate(trials: int, storage: str | None) -> float:
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler())
    began = time.perf_counter()
    study.optimize(nothing, n_trials=trials)
    return trials / (time.perf_counter() - began)


def dask_storage_rate(trials: int) -> float:
    """Two workers of one thread that take trials in turns, the study in the scheduler's memory."""
    from distributed import Client, LocalCluster
    from optuna_integration import DaskStorage

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.run(optuna.logging.set_verbosity, optuna.logging.WARNING)
        study = optuna.create_study(storage=DaskStorage(client=client), sampler=optuna.samplers.RandomSampler())
        began = time.perf_counter()
        futures = [client.submit(study.optimize, nothing, n_trials=1, pure=False) for _ in range(trials)]
        client.gather(futures)
        return trials / (time.perf_counter() - began)


def main(trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    figures = [
        Figure("hpsearch, a process for each trial, SQLite", hpsearch_rate(trials, "nothing"), "trials/s"),
        Figure("the same, parameters declared", hpsearch_rate(trials, "declared", **DECLARED), "trials/s"),
        Figure("Optuna alone, in memory, one process for all", optuna_rate(trials, None), "trials/s"),
    ]
    try:
        figures.append(Figure("Optuna's DaskStorage, in memory", dask_storage_rate(trials), "trials/s"))
    except ImportError:
        print("DaskStorage: not measured, optuna-integration is not installed")
    show("noop", figures)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
