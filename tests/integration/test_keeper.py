"""Every way in which a rank can end, as a table: what it does, what the Ending says."""

import asyncio
import base64
import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from ranks import JOBS, assignment, follow, prepare, run_rank

from hpsearch.events import Cause, Ending
from hpsearch.launcher import LauncherProcess, members, start
from hpsearch.supervisor.keeper import Keeper, Limits, LogTarget

FAULTY = JOBS / "faulty.py"
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LauncherProcess]:
    process = start(["torch"], tmp_path_factory.mktemp("launcher"), {**os.environ, "OMP_NUM_THREADS": "1"})
    yield process
    process.close()
    assert not process.alive


@pytest.fixture(autouse=True)
def _nothing_is_left(launcher: LauncherProcess) -> Iterator[None]:
    """No process of a rank, no file descriptor of a keeper, no child of the launcher."""
    _wait_for(lambda: _is_ready(launcher))
    before = _open_files()
    yield
    assert _open_files() <= before  # fewer: the collector closed what an earlier test dropped
    if launcher.alive:
        assert list(members.descendants(launcher.pid)) == []
        assert len(psutil.Process(launcher.pid).open_files()) <= 2  # its log


def _open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def _is_ready(launcher: LauncherProcess) -> bool:
    return len(psutil.Process(launcher.pid).net_connections("unix")) >= 3


def _wait_for(condition: Any, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@dataclass(frozen=True)
class Fault:
    job: str
    cause: Cause
    reason: str  # the whole of it, a regular expression
    exit_code: int | None = None
    limits: Limits = field(default_factory=lambda: Limits(grace_s=0.4))
    changes: dict[str, Any] = field(default_factory=dict)  # to the assignment
    log: str = ""  # found in it
    within_s: float = 20.0


def params(**values: Any) -> dict[str, Any]:
    return {"params": values}


def gives(expression: str, reason: str) -> Fault:
    return Fault("returns", Cause.BAD_RESULT, reason, 1, changes=params(value=expression))


LIMITED = {"memory_bytes": 300 * MEGABYTE}
ON_A_GPU = {**LIMITED, "env": {"CUDA_VISIBLE_DEVICES": "0"}}  # where address space cannot be limited

FAULTS = [
    Fault("segfaults", Cause.SIGNAL, r"segmentation fault \(SIGSEGV\)", -11, log=r"in segfaults"),
    Fault("aborts", Cause.SIGNAL, r"aborted by native code \(SIGABRT\)", -6, log=r"in aborts"),
    Fault("kills_itself", Cause.SIGNAL, r"killed from outside \(SIGKILL\)", -9),
    Fault("terminates_itself", Cause.SIGNAL, r"terminated from outside \(SIGTERM\)", -15),
    Fault("leaves_by_sys_exit", Cause.EXIT, r"exit code 3: sys.exit\(3\) or os._exit\(3\)\?", 3,
          changes=params(code=3), log="SystemExit: 3"),
    Fault("leaves_by_sys_exit", Cause.EXIT, r"exit code 1: .*", 1, changes=params(code="no data"), log="no data"),
    Fault("leaves_by_sys_exit", Cause.EXIT, r"exit code 0 without a result: .*", 0, changes=params(code=None)),
    Fault("leaves_by_os_exit", Cause.EXIT, r"exit code 4: .*", 4, changes=params(code=4)),
    Fault("raises", Cause.ERROR, r"ValueError: the learning rate is bad", 1, log=r"faulty\.py.*in raises"),
    Fault("raises_unspeakably", Cause.ERROR, r"Unspeakable: \(its text cannot be had: RuntimeError\)", 1),
    Fault("raises_base_exception", Cause.ERROR, r"KeyboardInterrupt", 1),
    Fault("prunes", Cause.PRUNED, "pruned", 0),
    gives("'abc'", r"returned 'abc': not a number"),
    gives("'0.5'", r"returned '0.5': not a number"),
    gives("None", r"returned None: not a number"),
    gives("float('nan')", r"returned nan: NaN is no result"),
    gives("(1, 2)", r"returned \(1, 2\): not one number"),
    gives("{'loss': 'x' * 99}", r"returned \{'loss': 'x+…: not a number"),
    gives("__import__('torch').ones(3)", r"returned a Tensor of shape \(3,\): not a number"),
    gives("__import__('numpy').ones((2, 2))", r"returned a ndarray of shape \(2, 2\): not a number"),
    gives("10 ** 400", r"returned 1000.*…: not a number"),
    gives("1j", r"returned 1j: not a number"),
    Fault("hangs_in_c", Cause.TIMEOUT, r"ran past its limit of 0.5 s; ended by SIGTERM", -15,
          Limits(time_s=0.5, grace_s=0.4)),
    Fault("hangs_in_a_pattern", Cause.TIMEOUT, r"ran past its limit of 0.5 s; ended by SIGTERM", -15,
          Limits(time_s=0.5, grace_s=0.4)),
    Fault("ignores_stop", Cause.TIMEOUT, r"ran past its limit of 1 s; SIGKILL after 0.4 s of grace", -9,
          Limits(time_s=1.0, grace_s=0.4)),
    Fault("heeds_stop", Cause.TIMEOUT, r"ran past its limit of 0.3 s", 0, Limits(time_s=0.3, grace_s=2.0)),
    Fault("sleeps", Cause.STALLED, r"no report for 0.3 s; ended by SIGTERM", -15,
          Limits(no_progress_s=0.3, grace_s=0.4)),
    Fault("allocates_at_once", Cause.OOM, r"out of memory: MemoryError", 1, changes=LIMITED),
    Fault("allocates_and_touches", Cause.OOM, r"out of memory: MemoryError", 1, changes=LIMITED),
    Fault("allocates_and_touches", Cause.OOM, r"used \d+ MB of 300 MB", -9,
          Limits(memory_bytes=300 * MEGABYTE), ON_A_GPU),
    Fault("allocates_in_children", Cause.OOM, r"used \d+ MB of 150 MB", -9,
          Limits(memory_bytes=150 * MEGABYTE), ON_A_GPU),
    Fault("runs_out_of_gpu_memory", Cause.OOM, r"out of memory: OutOfMemoryError: CUDA out of memory.*", 1),
    Fault("runs_out_of_cpu_memory", Cause.OOM, r"out of memory: RuntimeError: .* can't allocate memory", 1),
    Fault("closes_everything", Cause.ERROR, r"closed its connection to the supervisor", -9),
    Fault("closes_everything_and_returns", Cause.ERROR, r"closed its connection .*last word was lost", 74,
          log="Bad file descriptor"),
    Fault("says_garbage", Cause.ERROR, r"sent a malformed report: .*", -9),
    Fault("says_too_much", Cause.ERROR, r"sent a message of more than 1.05 MB", -9),
    Fault("says_half_a_line", Cause.ERROR, r"sent something that is no message: .*"),
    Fault("says_too_big_an_attribute", Cause.ERROR, r"ValueError: user_attr: 2097\d\d\d bytes are too long.*", 1),
    Fault("reports_nonsense", Cause.ERROR, r"TypeError: 'value' is of type 'str' but must be a number", 1,
          changes=params(report=("abc", 0))),
    Fault("reports_nonsense", Cause.ERROR, r"ValueError: `step` is -1 but must not be negative", 1,
          changes=params(report=(0.5, -1))),
    Fault("nowhere", Cause.ERROR, r".*faulty\.py has no function 'nowhere'", 1),
    Fault("not_a_function", Cause.ERROR, r"the objective is a int, which cannot be called", 1),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.job}-{fault.cause}")
def test_each_fault_ends_in_its_own_words(launcher: LauncherProcess, tmp_path: Path, fault: Fault):
    began = time.monotonic()
    run = run_rank(launcher, tmp_path, assignment(tmp_path, FAULTY, fault.job, **fault.changes), fault.limits)
    assert run.ending is not None
    assert (run.ending.cause, run.ending.reason) == (fault.cause, _matching(fault.reason, run.ending.reason))
    assert fault.exit_code in {None, run.ending.exit_code}
    assert re.search(fault.log, run.log)
    assert run.ending.log_tail == run.log[-4096:]
    assert time.monotonic() - began < fault.within_s


def _matching(pattern: str, text: str) -> str:
    """The text itself where it matches, so that a failure shows both."""
    return text if re.fullmatch(pattern, text) else pattern


LOOK_BAD = {
    "forks": (), "forks_daemons": (), "returns_twice": (), "raises_in_the_child": (), "uses_workers": (),
    "leaves_threads_running": (), "closes_stdout": (), "reports_nan": (),
}  # fmt: skip


@pytest.mark.parametrize("job", LOOK_BAD)
def test_what_only_looks_bad_returns(launcher: LauncherProcess, tmp_path: Path, job: str):
    run = run_rank(launcher, tmp_path, assignment(tmp_path, FAULTY, job))
    assert run.ending == Ending(
        cause=Cause.RETURNED, reason="returned 1", values=(1.0,), exit_code=0, log_tail=run.log[-4096:]
    )


@pytest.mark.parametrize(
    ("expression", "n_objectives", "values"),
    [
        ("3", 1, (3.0,)),
        ("True", 1, (1.0,)),
        ("[0.5]", 1, (0.5,)),
        ("float('inf')", 1, (float("inf"),)),
        ("__import__('numpy').float32(0.5)", 1, (0.5,)),
        ("__import__('numpy').array([0.5])", 1, (0.5,)),
        ("__import__('torch').tensor([0.5], requires_grad=True)", 1, (0.5,)),
        ("(1, 2.5)", 2, (1.0, 2.5)),
        ("__import__('torch').tensor([1.0, 2.5])", 2, (1.0, 2.5)),
    ],
)
def test_numbers_of_all_kinds_are_results(launcher, tmp_path, expression, n_objectives, values):
    order = assignment(tmp_path, FAULTY, "returns", **params(value=expression), n_objectives=n_objectives)
    assert run_rank(launcher, tmp_path, order).ending.values == values


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_library", r".* ModuleNotFoundError: No module named 'no_such_library'"),
        ("def train(trial:", r"cannot load the objective .*SyntaxError: '\(' was never closed.*"),
        ("import sys\nsys.exit(2)", r"exit code 2: .*"),
        ("1 / 0", r"cannot load the objective .*: ZeroDivisionError: division by zero"),
        ("b = bytearray(100 << 30)", r"out of memory: MemoryError"),
    ],
)
def test_an_objective_that_cannot_be_imported(launcher, tmp_path, source, reason):
    file = tmp_path / "broken.py"
    file.write_text(source)
    run = run_rank(launcher, tmp_path, assignment(tmp_path, file, "train", **LIMITED))
    assert re.fullmatch(reason, run.ending.reason), run.ending.reason
    assert "ready" not in run.ops()
    assert "hpsearch/rank.py" not in run.ending.traceback
    assert "importlib" not in run.ending.traceback


@pytest.mark.parametrize("blob", [b"", b"garbage", b"\x80\x05\x8c\x07no_such\x8c\x01f\x93."])
def test_an_objective_that_cannot_be_unpickled(launcher, tmp_path, blob):
    objective = {"kind": "pickle", "target": "", "function": "", "blob": base64.b64encode(blob).decode()}
    ending = run_rank(launcher, tmp_path, assignment(tmp_path, objective=objective)).ending
    assert ending.cause is Cause.ERROR
    assert ending.reason.startswith("cannot load the objective that was sent along: ")


def test_a_flood_of_output_hurts_neither_the_loop_nor_the_disk(launcher, tmp_path):
    async def run() -> tuple[Any, float]:
        worst = 0.0

        async def beat() -> None:
            nonlocal worst
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.001)
                worst = max(worst, time.monotonic() - before)

        beating = asyncio.create_task(beat())
        order = assignment(tmp_path, FAULTY, "prints", **params(mebibytes=200))
        flooded = await follow(prepare(launcher, order, Limits()), tmp_path)
        beating.cancel()
        return flooded, worst

    memory = psutil.Process().memory_info().rss
    flooded, worst = asyncio.run(run())
    assert flooded.ending.cause is Cause.RETURNED
    assert flooded.log.startswith("first line\n")
    assert flooded.log.endswith("x\nlast line\n")
    assert re.search(r"----- 207\d+ bytes are left out here -+\n", flooded.log)
    assert len(flooded.log) < 2.1 * (1 << 20)
    assert worst < 1.0  # the keeper's own share is a few milliseconds; the rest is what a busy machine does
    assert psutil.Process().memory_info().rss - memory < 32 << 20


def test_a_stop_is_heeded_at_the_next_report(launcher, tmp_path):
    def answer(keeper: Keeper, message: dict[str, Any]) -> None:
        if message["op"] == "report" and message["step"] == 3:
            keeper.stop("the study drains", 5.0, Cause.STOPPED)

    run = run_rank(launcher, tmp_path, assignment(tmp_path, FAULTY, "heeds_stop"), answer=answer)
    assert (run.ending.cause, run.ending.reason) == (Cause.STOPPED, "the study drains")
    assert run.said[-1]["step"] < 100


def test_a_result_in_the_grace_counts_when_the_study_drains_but_not_when_it_came_too_late(launcher, tmp_path):
    for cause, expected in ((Cause.STOPPED, Cause.RETURNED), (Cause.CANCELLED, Cause.CANCELLED)):

        def answer(keeper: Keeper, message: dict[str, Any], cause: Cause = cause) -> None:
            if message["op"] == "report":
                keeper.stop("enough", 5.0, cause)

        run = run_rank(launcher, tmp_path, assignment(tmp_path, FAULTY, "returns_when_stopped"), answer=answer)
        assert run.ending.cause is expected
        assert run.ending.values == ((0.75,) if expected is Cause.RETURNED else ())


def test_a_rank_that_waits_for_an_answer_is_not_stalled(launcher, tmp_path):
    def answer(keeper: Keeper, message: dict[str, Any]) -> None:
        if message["op"] == "suggest":
            said = {"op": "suggested", "name": message["name"], "value": 0.5}
            asyncio.get_running_loop().call_later(1.5, keeper.deliver, said)

    limits = Limits(no_progress_s=1.0, grace_s=0.1)
    run = run_rank(launcher, tmp_path, assignment(tmp_path, FAULTY, "asks"), limits, answer)
    assert run.ending.values == (0.5,)


def test_a_second_stop_may_be_less_patient(launcher, tmp_path):
    def answer(keeper: Keeper, message: dict[str, Any]) -> None:
        keeper.stop("drain", 100.0, Cause.STOPPED)
        keeper.stop("kill", 0.0, Cause.CANCELLED)

    began = time.monotonic()
    run = run_rank(launcher, tmp_path, assignment(tmp_path, FAULTY, "ignores_stop"), answer=answer)
    assert (run.ending.cause, run.ending.exit_code) == (Cause.STOPPED, -9)
    assert time.monotonic() - began < 20


def test_stopped_before_it_began(launcher, tmp_path):
    run = prepare(launcher, assignment(tmp_path, FAULTY, "sleeps"), Limits())
    run.keeper.stop("never mind", 0.0, Cause.CANCELLED)
    ending = asyncio.run(run.keeper.run())
    assert (ending.cause, ending.reason, ending.exit_code) == (Cause.CANCELLED, "never mind", None)


def test_a_rank_that_has_said_its_last_word_must_leave(launcher, tmp_path):
    run = run_rank(launcher, tmp_path, assignment(tmp_path, FAULTY, "never_leaves"))
    assert (run.ending.cause, run.ending.values, run.ending.exit_code) == (Cause.RETURNED, (1.0,), -9)


def test_a_failing_supervisor_is_not_the_jobs_fault(launcher, tmp_path, caplog):
    def answer(keeper: Keeper, message: dict[str, Any]) -> None:
        raise RuntimeError("a bug of ours")

    run = run_rank(launcher, tmp_path, assignment(tmp_path, FAULTY, "sleeps"), answer=answer)
    assert run.ending.cause is Cause.LOST
    assert "a bug of ours" in caplog.text


def test_a_cancelled_keeper_leaves_nothing(launcher, tmp_path):
    async def cancel() -> None:
        ready = asyncio.Event()
        order = assignment(tmp_path, FAULTY, "forks_and_hangs")
        run = prepare(launcher, order, Limits(), lambda keeper, message: ready.set())
        task = asyncio.create_task(run.keeper.run())
        await ready.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    _wait_for(lambda: list(members.descendants(launcher.pid)) == [])


def test_an_unwritable_log_is_no_reason_to_fail(launcher, tmp_path, caplog):
    file = tmp_path / "in_the_way"
    file.touch()
    order = assignment(tmp_path, FAULTY, "prints", **params(mebibytes=1))
    ending = asyncio.run(
        Keeper(str(launcher.path), order, Limits(), LogTarget(path=file / "log"), lambda message: None).run()
    )
    assert ending.cause is Cause.RETURNED
    assert ending.log_tail.endswith("last line\n")
    assert caplog.text.count("cannot be written") == 1


def test_no_launcher_is_a_loss(tmp_path):
    ending = run_rank(str(tmp_path / "nowhere"), tmp_path, assignment(tmp_path, FAULTY, "sleeps")).ending
    assert ending.cause is Cause.LOST
    assert ending.reason == f"no launcher at {tmp_path / 'nowhere'}: No such file or directory"


def test_a_killed_launcher_is_a_loss_and_takes_everything_along(tmp_path):
    doomed = start([], tmp_path, os.environ)
    seen: set[int] = set()

    def answer(keeper: Keeper, message: dict[str, Any]) -> None:
        if message["op"] == "user_attr":
            seen.update(members.descendants(doomed.pid))
            os.kill(doomed.pid, signal.SIGKILL)

    run = run_rank(doomed, tmp_path, assignment(tmp_path, FAULTY, "forks_and_hangs"), answer=answer)
    assert (run.ending.cause, run.ending.reason) == (Cause.LOST, "the launcher died")
    assert len(seen) == 3
    _wait_for(lambda: not any(_lives(pid) for pid in seen), within_s=5)
    doomed.close()


def test_a_frozen_launcher_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("hpsearch.supervisor.keeper.PATIENCE_S", 0.3)
    frozen = start([], tmp_path, os.environ)
    pids: list[int] = []

    def answer(keeper: Keeper, message: dict[str, Any]) -> None:
        assert keeper.pid is not None
        pids.append(keeper.pid)
        os.kill(frozen.pid, signal.SIGSTOP)
        keeper.stop("enough", 0.1, Cause.CANCELLED)

    run = run_rank(frozen, tmp_path, assignment(tmp_path, FAULTY, "ignores_stop"), answer=answer)
    assert (run.ending.cause, run.ending.reason) == (Cause.CANCELLED, "enough")
    assert not any(_lives(pid) for pid in pids)
    os.kill(frozen.pid, signal.SIGCONT)
    frozen.close()


def test_ranks_beside_each_other_do_not_disturb_each_other(launcher, tmp_path):
    jobs = ["segfaults", "forks_daemons", "returns_twice", "uses_workers", "hangs_in_c", "forks"]

    async def run_all() -> list[Ending]:
        runs = []
        for job in jobs:
            directory = tmp_path / job
            directory.mkdir()
            runs.append(prepare(launcher, assignment(directory, FAULTY, job), Limits(time_s=4.0, grace_s=0.2)))
        return await asyncio.gather(*(run.keeper.run() for run in runs))

    causes = [ending.cause for ending in asyncio.run(run_all())]
    good = Cause.RETURNED
    assert causes == [Cause.SIGNAL, good, good, good, Cause.TIMEOUT, good]


def test_process_groups_can_be_taken_down_while_a_model_lives(launcher, tmp_path):
    async def run_gang() -> list[Ending]:
        runs = []
        for rank in range(2):
            directory = tmp_path / str(rank)
            directory.mkdir()
            place = {"rank": rank, "local_rank": rank, "world_size": 2}
            order = assignment(
                directory, JOBS / "parallel.py", "train", **params(turns=10, meeting=str(tmp_path / "meeting")), **place
            )
            runs.append(prepare(launcher, order, Limits(time_s=40.0, grace_s=0.1)))
        return await asyncio.gather(*(run.keeper.run() for run in runs))

    assert [ending.values for ending in asyncio.run(run_gang())] == [(28.0,), (28.0,)]


def _lives(pid: int) -> bool:
    found = members.stat(pid)
    return found is not None and not found.dead
