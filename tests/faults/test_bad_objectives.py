"""One study whose objective goes wrong in every way that its parameter can name: each trial ends as itself.

The others complete, the Dask workers are the same at the end, and nothing is left running.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from distributed import Client, LocalCluster
from optuna.trial import TrialState

import hpsearch
from hpsearch.events import Notice
from hpsearch.spec import Resources

pytestmark = pytest.mark.timeout(240)

MEMORY_BYTES = 300_000_000
FLOOD_BYTES = 200_000_000

# how the objective goes wrong -> cause, a part of its reason
ENDS = {
    "segfault": ("signal", "segmentation fault"),
    "sys_exit": ("exit", "exit code 3"),
    "raise": ("error", "ValueError: no good"),
    "hang_in_c": ("timeout", "ran past its limit of 6 s"),
    "allocate": ("oom", "MemoryError"),
    "string": ("bad_result", "'not a number'"),
    "none": ("bad_result", "None"),
    "nan": ("bad_result", "NaN"),
    "unpicklable": ("bad_result", "lock"),
    "kill_itself": ("signal", "SIGKILL"),
    "close_socket": ("error", "closed its connection"),
}
FINE = ("fine", "flood", "grandchild", "escaping_grandchild", "nan_report", "repeated_step", "step_back")


def objective(trial: hpsearch.Trial) -> object:
    import ctypes
    import os
    import signal
    import subprocess
    import sys
    import threading
    import time

    how = trial.suggest_categorical("how", [*ENDS, *FINE])
    sleeper = [sys.executable, "-c", "import time; time.sleep(1000)"]
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "sys_exit":
            sys.exit(3)
        case "raise":
            raise ValueError("no good")
        case "hang_in_c":
            ctypes.PyDLL(None).sleep(1000)  # holds the GIL: no Python thread or handler runs any more
        case "allocate":
            _ = bytearray(10 * MEMORY_BYTES)
        case "string":
            return "not a number"
        case "none":
            return None
        case "nan":
            return float("nan")
        case "unpicklable":
            return threading.Lock()
        case "kill_itself":
            os.kill(os.getpid(), signal.SIGKILL)
        case "close_socket":
            for fd in range(3, 256):
                try:
                    os.close(fd)
                except OSError:
                    continue
            time.sleep(1000)
        case "flood":
            chunk = "x" * 99 + "\n"
            for _ in range(FLOOD_BYTES // 10_000):
                sys.stdout.write(chunk * 100)
        case "grandchild":
            subprocess.Popen(sleeper)
        case "escaping_grandchild":
            subprocess.Popen(sleeper, start_new_session=True)
        case "nan_report":
            trial.report(float("nan"), 0)
        case "repeated_step":
            trial.report(1.0, 0)
            trial.report(2.0, 0)
        case "step_back":
            trial.report(1.0, 5)
            trial.report(2.0, 3)
    return 1.0


@pytest.fixture
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_every_trial_ends_as_itself(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = client.run(os.getpid)
    notices: list[Notice] = []
    ways = [*ENDS, *FINE]
    study = hpsearch.optimize(
        objective,
        n_trials=len(ways),
        client=client,
        storage=f"sqlite:///{tmp_path}/study.db",
        study_name="faulty",
        sampler=optuna.samplers.GridSampler({"how": ways}, seed=1),
        pruner=optuna.pruners.NopPruner(),
        resources=Resources(time_s=6, memory_bytes=MEMORY_BYTES, grace_s=1),
        listener=notices.append,
    )
    by_way = {trial.params["how"]: trial for trial in study.trials}
    assert set(by_way) == set(ways)
    failed = {notice.fields["trial"]: notice.fields for notice in notices if notice.kind == "trial.failed"}
    for way, (cause, words) in ENDS.items():
        trial = by_way[way]
        assert trial.state is TrialState.FAIL, way
        assert failed[trial.number]["cause"] == cause, (way, failed[trial.number])
        assert words in str(failed[trial.number]["reason"]), (way, failed[trial.number])
    for way in FINE:
        assert by_way[way].state is TrialState.COMPLETE, (way, failed.get(by_way[way].number))
    assert by_way["repeated_step"].intermediate_values == {0: 1.0}
    assert client.run(os.getpid) == before
    assert not [notice for notice in notices if notice.kind in {"worker.lost", "trial.retried"}]
    assert _ranks_left(tmp_path) == []
    log = tmp_path / "runs" / "faulty" / f"trial-{by_way['flood'].number:04d}" / "attempt-1" / "rank-0.log"
    assert 1_000_000 < log.stat().st_size < 4_000_000  # head and tail of 200 MB


def _ranks_left(home: Path) -> list[str]:
    left = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(home) and process.pid != os.getpid():
                left.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return [words for words in left if "distributed" not in words and "multiprocessing" not in words]
