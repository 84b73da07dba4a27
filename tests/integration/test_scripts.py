"""Programs as objectives: how they report, how they are pruned and stopped, and how they end, as real processes."""

import asyncio
import os
import re
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ranks import Run, assignment, follow, prepare, run_rank

from hpsearch.events import Cause
from hpsearch.launcher import LauncherProcess, members, start
from hpsearch.supervisor.keeper import Keeper, Limits

pytestmark = pytest.mark.timeout(60)
LOSS = r"epoch=(?P<step>\d+) val_loss=(?P<value>\S+)"


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LauncherProcess]:
    process = start([], tmp_path_factory.mktemp("launcher"), dict(os.environ))
    yield process
    process.close()


@pytest.fixture(autouse=True)
def _nothing_is_left(launcher: LauncherProcess) -> Iterator[None]:
    yield
    assert list(members.descendants(launcher.pid)) == []


def order(directory: Path, *arguments: str, pattern: str = "", **changes: Any) -> dict[str, Any]:
    objective = {"kind": "command", "target": "", "function": "", "blob": ""}
    return assignment(directory, objective={**objective, "arguments": list(arguments), "pattern": pattern}, **changes)


def script(directory: Path, text: str, *arguments: str, **changes: Any) -> dict[str, Any]:
    """An order to run a Python script."""
    (directory / "script.py").write_text(textwrap.dedent(text))
    return order(directory, "python", "script.py", *arguments, **changes)


def shell(directory: Path, text: str, **changes: Any) -> dict[str, Any]:
    return order(directory, "/bin/sh", "-c", text, env={"PYTHON": sys.executable}, **changes)


def reports(run: Run) -> list[tuple[int, float, dict[str, float]]]:
    return [(word["step"], word["value"], word["metrics"]) for word in run.said if word["op"] == "report"]


def end(run: Run) -> tuple[Cause, str]:
    assert run.ending is not None
    return run.ending.cause, run.ending.reason


def prune_at(step: int) -> Any:
    """A pruner that decides at every step and prunes at this one."""

    def answer(keeper: Keeper, message: dict[str, Any]) -> None:
        if message["op"] == "report":
            verdict = "prune" if message["step"] >= step else "continue"
            said = {"op": "verdict", "step": message["step"], "verdict": verdict, "next_step": message["step"] + 1}
            keeper.deliver(said)

    return answer


# ---------------------------------------------------------------------------------------------- reports


def test_a_pattern_reads_stdout_and_the_last_value_is_the_result(launcher, tmp_path):
    text = """
        import sys
        print("heading: val_loss=none at epoch=x")
        for epoch in range(3):
            print(f"epoch={epoch} val_loss={1 / (epoch + 1)}")
        sys.stdout.write("epoch=3 val_loss=0.125")
    """
    run = run_rank(launcher, tmp_path, script(tmp_path, text, pattern=LOSS))
    assert reports(run) == [(0, 1.0, {}), (1, 0.5, {}), (2, 1 / 3, {}), (3, 0.125, {})]
    assert end(run) == (Cause.RETURNED, "returned 0.125")
    assert run.log.endswith("epoch=3 val_loss=0.125")


def test_a_script_finds_its_trial(launcher, tmp_path):
    text = """
        import os, sys
        import hpsearch
        trial = hpsearch.current(width=1)
        assert (trial.number, trial.attempt, trial.study.study_name) == (7, 1, "tests")
        assert os.environ["HPSEARCH_TRIAL_NUMBER"] == "7" and os.environ["HPSEARCH_ATTEMPT"] == "1"
        assert os.environ["HPSEARCH_TRIAL_DIRECTORY"] == str(trial.directory)
        assert os.environ["HPSEARCH_STUDY"] == "tests"
        assert hpsearch.current() is trial
        trial.report(trial.params["width"], 0, accuracy=0.5)
        trial.report(3, 1)
        assert not trial.should_prune()
        assert "torch" not in sys.modules
    """
    run = run_rank(launcher, tmp_path, script(tmp_path, text, params={"width": 64}))
    assert end(run) == (Cause.RETURNED, "returned 3"), run.log
    assert reports(run) == [(0, 64.0, {"accuracy": 0.5}), (1, 3.0, {})]


def test_any_language_reports(launcher, tmp_path):
    text = """
        "$PYTHON" -m hpsearch.report 0.5 --step 3 accuracy=0.25 &&
        "$PYTHON" -m hpsearch.report --should-prune 0.75 && "$PYTHON" -m hpsearch.report -1e-3
    """
    run = run_rank(launcher, tmp_path, shell(tmp_path, text))
    assert reports(run) == [(3, 0.5, {"accuracy": 0.25}), (4, 0.75, {}), (5, -0.001, {})]
    assert end(run) == (Cause.RETURNED, "returned -0.001")


def test_several_processes_report_at_once(launcher, tmp_path):
    text = 'for i in 1 2 3 4; do "$PYTHON" -m hpsearch.report $i --step $i & done; wait'
    run = run_rank(launcher, tmp_path, shell(tmp_path, text))
    assert sorted(reports(run)) == [(i, float(i), {}) for i in (1, 2, 3, 4)]


def test_reports_of_a_forked_child_and_a_suggestion(launcher, tmp_path):
    text = """
        import os, hpsearch
        trial = hpsearch.current()
        trial.report(1.0, 0)
        if not os.fork():
            hpsearch.current().report(2.0, 1)
            os._exit(0)
        os.wait()
        trial.report(trial.suggest_float("x", 0, 9), 2)
    """

    def answer(keeper: Keeper, message: dict[str, Any]) -> None:
        if message["op"] == "suggest":
            keeper.deliver({"op": "suggested", "name": "x", "value": 4.5})

    run = run_rank(launcher, tmp_path, script(tmp_path, text), answer=answer)
    assert [(step, value) for step, value, _ in reports(run)] == [(0, 1.0), (1, 2.0), (2, 4.5)], run.log


# ------------------------------------------------------------------------------------------------ pruning


def test_a_script_that_asks_ends_itself(launcher, tmp_path):
    text = """
        import optuna
        import hpsearch
        trial = hpsearch.current()
        for step in range(5):
            trial.report(step, step)
            if trial.should_prune():
                print("asked")
                raise optuna.TrialPruned
    """
    ordered = script(tmp_path, text, next_decision_step=0)
    run = run_rank(launcher, tmp_path, ordered, answer=prune_at(2))
    assert end(run) == (Cause.PRUNED, "pruned")
    assert run.log == "asked\n"  # no traceback
    assert len(reports(run)) == 3


def test_a_script_may_prune_itself(launcher, tmp_path):
    text = """
        import optuna, hpsearch
        hpsearch.current().report(1.0, 0)
        raise optuna.TrialPruned
    """
    assert end(run_rank(launcher, tmp_path, script(tmp_path, text)))[0] is Cause.PRUNED


def test_a_program_asks_by_exit_status(launcher, tmp_path):
    text = '"$PYTHON" -m hpsearch.report 0.5 --should-prune; test $? = 10 && echo asked && exit 7'
    ordered = shell(tmp_path, text, next_decision_step=0)
    run = run_rank(launcher, tmp_path, ordered, answer=prune_at(0))
    assert end(run) == (Cause.PRUNED, "pruned")  # whatever the exit code
    assert run.log == "asked\n"


def test_a_program_may_ask_after_the_verdict(launcher, tmp_path):
    text = """
        "$PYTHON" -m hpsearch.report 0.5
        "$PYTHON" -c "import time; time.sleep(0.5)"  # the verdict is there by now
        "$PYTHON" -m hpsearch.report --should-prune; echo asked $?
    """
    ordered = shell(tmp_path, text, next_decision_step=0)
    run = run_rank(launcher, tmp_path, ordered, answer=prune_at(0))
    assert end(run) == (Cause.PRUNED, "pruned")
    assert run.log == "asked 10\n"


ENDLESS = """
    import signal, sys, time
    {handler}
    print("epoch=0 val_loss=1.0")
    while True:
        time.sleep(1000)
"""
HANDLERS = {
    "default": ("pass", None),
    "says 3": ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))", None),
    "says 0": ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", None),
    "deaf": ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", -9),
}


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_script_that_does_not_ask_is_ended(launcher, tmp_path, handler):
    what, exit_code = HANDLERS[handler]
    ordered = script(tmp_path, ENDLESS.format(handler=what), pattern=LOSS, next_decision_step=0)
    run = run_rank(launcher, tmp_path, ordered, answer=prune_at(0))
    assert end(run) == (Cause.PRUNED, "pruned")
    assert run.ending is not None
    assert run.ending.exit_code == (exit_code or 0)


def test_a_script_that_reports_and_never_asks_is_ended_at_its_next_report(launcher, tmp_path):
    text = """
        import time, hpsearch
        hpsearch.current().report(1.0, 0)
        hpsearch.current().report(1.0, 1)
        time.sleep(1000)
    """
    ordered = script(tmp_path, text, next_decision_step=0)
    assert end(run_rank(launcher, tmp_path, ordered, answer=prune_at(0))) == (Cause.PRUNED, "pruned")


# -------------------------------------------------------------------------------------------------- stops


async def _stopped_at_first_report(launcher: LauncherProcess, directory: Path, ordered: dict[str, Any]) -> Run:
    def answer(keeper: Keeper, message: dict[str, Any]) -> None:
        if message["op"] == "report":
            keeper.stop("draining", 4.0, Cause.STOPPED)

    return await follow(prepare(launcher, ordered, Limits(grace_s=4.0), answer), directory)


@pytest.mark.parametrize("handler", ["default", "says 3", "says 0"])
def test_a_stop_is_a_sigterm_at_once(launcher, tmp_path, handler):
    ordered = script(tmp_path, ENDLESS.format(handler=HANDLERS[handler][0]), pattern=LOSS)
    started = time.monotonic()
    run = asyncio.run(_stopped_at_first_report(launcher, tmp_path, ordered))
    assert end(run)[0] is Cause.STOPPED
    assert time.monotonic() - started < 2 * 4.0


def test_a_script_with_a_trial_is_stopped_at_its_next_word(launcher, tmp_path):
    text = """
        import itertools, time, hpsearch
        trial = hpsearch.current()
        for step in itertools.count():
            trial.report(1.0, step)
            time.sleep(0.01)
    """
    run = asyncio.run(_stopped_at_first_report(launcher, tmp_path, script(tmp_path, text)))
    assert end(run) == (Cause.STOPPED, "draining")
    assert "Traceback" not in run.log


def test_a_script_has_a_time_limit(launcher, tmp_path):
    ordered = script(tmp_path, ENDLESS.format(handler="pass"), pattern=LOSS)
    run = run_rank(launcher, tmp_path, ordered, Limits(time_s=1.0, grace_s=1.0))
    assert end(run)[0] is Cause.TIMEOUT


def test_a_script_has_a_limit_of_memory(launcher, tmp_path):
    text = "data = bytearray(300_000_000)\nimport time\ntime.sleep(1000)"
    ordered = script(tmp_path, text, memory_bytes=200_000_000)
    assert end(run_rank(launcher, tmp_path, ordered, Limits(memory_bytes=200_000_000)))[0] is Cause.OOM


# --------------------------------------------------------------------------------------------------- ends


ENDS = {
    "exit 3": (Cause.ERROR, "exited with 3"),
    "true": (Cause.BAD_RESULT, "exited with 0 and reported no value: .*pattern.*hpsearch.current.*hpsearch.report.*"),
    "kill -SEGV $$": (Cause.SIGNAL, r"segmentation fault \(SIGSEGV\)"),
    "kill -KILL $$": (Cause.SIGNAL, r"killed from outside \(SIGKILL\)"),
    "echo epoch=1 val_loss=nan": (Cause.BAD_RESULT, "the last value that it reported is NaN"),
    "echo epoch=1 val_loss=2; exit 3": (Cause.ERROR, "exited with 3"),
    "exec >&-; exec 2>&-; exit 4": (Cause.ERROR, "exited with 4"),
    "echo epoch=1 val_loss=2; exec >&-; sleep 0.1; exit 0": (Cause.RETURNED, "returned 2"),
    "sleep 1000 & setsid sleep 1000 & echo epoch=1 val_loss=2": (Cause.RETURNED, "returned 2"),
}


@pytest.mark.parametrize("text", ENDS)
def test_ends(launcher, tmp_path, text):
    cause, reason = ENDS[text]
    run = run_rank(launcher, tmp_path, shell(tmp_path, text, pattern=LOSS))
    assert end(run)[0] is cause
    assert re.fullmatch(reason, end(run)[1])


def test_the_tail_of_the_log_goes_with_a_failure(launcher, tmp_path):
    run = run_rank(launcher, tmp_path, script(tmp_path, "raise ValueError('no luck')"))
    assert end(run) == (Cause.ERROR, "exited with 1")
    assert run.ending is not None
    assert "ValueError: no luck" in run.ending.log_tail


@pytest.mark.parametrize("program", ["no-such-program", "./nowhere.sh", "/bin"])
def test_a_program_that_cannot_be_started(launcher, tmp_path, program):
    run = run_rank(launcher, tmp_path, order(tmp_path, program))
    assert end(run)[0] is Cause.ERROR
    assert end(run)[1].startswith(f"cannot start '{program}': ")


def test_a_flood_is_capped_and_still_read(launcher, tmp_path):
    text = """
        import os, sys
        for _ in range(200):
            os.write(1, os.urandom(50_000).replace(b"epoch", b"hcope") + b"\\n" + b"x" * 50_000)
        os.write(1, b"\\nepoch=1 val_loss=0.5\\n")
        for _ in range(60):
            os.write(1, b"y" * 99_999 + b"\\r")
    """
    peak = 0

    def answer(keeper: Keeper, message: dict[str, Any]) -> None:
        nonlocal peak
        if message["op"] == "report":
            peak = psutil.Process(keeper.pid).memory_info().rss

    before = psutil.Process(launcher.pid).memory_info().rss
    run = run_rank(launcher, tmp_path, script(tmp_path, text, pattern=LOSS), answer=answer)
    assert end(run) == (Cause.RETURNED, "returned 0.5")
    assert 0 < peak < before + 20_000_000
    assert (tmp_path / "trial" / "log").stat().st_size < 3_000_000


def test_garbage_on_the_socket_ends_that_connection_only(launcher, tmp_path):
    text = """
        import os, socket
        import hpsearch
        trial = hpsearch.current()
        for garbage in (b"\\xff\\x00garbage\\n", b"[]\\n", b"{}\\n", b'{"op": "report"}\\n', b"null\\n"):
            with socket.socket(socket.AF_UNIX) as other:
                other.connect("\\0" + os.environ["HPSEARCH_SOCKET"])
                other.sendall(garbage)
                other.settimeout(20)
                assert other.recv(10) == b""
        trial.report(1.0, 0)
    """
    run = run_rank(launcher, tmp_path, script(tmp_path, text))
    assert end(run) == (Cause.RETURNED, "returned 1"), run.log


def test_reports_of_other_ranks_do_not_count(launcher, tmp_path):
    env = {"RANK": "1", "WORLD_SIZE": "2", "PYTHON": sys.executable}
    text = 'test "$RANK$WORLD_SIZE" = 12 && echo epoch=1 val_loss=2 && "$PYTHON" -m hpsearch.report 5'
    ordered = order(tmp_path, "/bin/sh", "-c", text, pattern=LOSS, rank=1, world_size=2, env=env)
    run = run_rank(launcher, tmp_path, ordered)
    assert reports(run) == []  # rank 0's count
    assert end(run)[0] is Cause.RETURNED


def test_a_trial_that_nobody_listens_with_holds_up_nothing(launcher, tmp_path):
    text = """
        import hpsearch
        trial = hpsearch.current()
        for epoch in range(6000):
            print(f"epoch={epoch} val_loss=1 " + 500 * "x")  # more than the pipe holds
        trial.report(2.0, 6000)
        assert not trial.should_prune()
    """
    ordered = script(tmp_path, text, pattern=LOSS, next_decision_step=0)
    run = run_rank(launcher, tmp_path, ordered, answer=prune_at(9999))
    assert end(run) == (Cause.RETURNED, "returned 2"), run.log
    assert len(reports(run)) == 6001


def test_a_program_does_not_outlive_its_relay(launcher, tmp_path):
    text = "exec setsid /bin/sh -c 'echo epoch=0 val_loss=$$; sleep 1000; :'"
    seen: list[int] = []

    def answer(keeper: Keeper, message: dict[str, Any]) -> None:
        if message["op"] == "report":
            seen.append(int(message["value"]))
            assert keeper.pid is not None
            os.kill(keeper.pid, signal.SIGKILL)

    run = run_rank(launcher, tmp_path, shell(tmp_path, text, pattern=LOSS), answer=answer)
    assert end(run)[0] is Cause.SIGNAL
    assert seen
    assert not psutil.pid_exists(seen[0])


def test_a_script_keeps_checkpoints(launcher, tmp_path):
    text = """
        import hpsearch
        trial = hpsearch.current()
        state = {"width": 0}
        step = trial.load(state)
        trial.report(step, step)
        trial.save({"width": 64}, step)
        print(step, state["width"])
    """
    first, second = (run_rank(launcher, tmp_path, script(tmp_path, text, attempt=n)) for n in (1, 2))
    assert first.ops() == ["ready", "resumed", "report", "saved"], first.log
    assert (first.log, second.log[:4]) == ("0 0\n", "1 64"), second.log
