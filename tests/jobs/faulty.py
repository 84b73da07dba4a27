"""Objectives that go wrong, each in its own way, and a few that only look as if they would."""

import ctypes
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

import optuna

FOREVER_S = 1000


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class OutOfMemoryError(RuntimeError):
    """By the name that torch gives it."""


def segfaults(trial):
    print("about to read address 0")
    ctypes.string_at(0)


def aborts(trial):
    os.abort()


def kills_itself(trial):
    os.kill(os.getpid(), signal.SIGKILL)


def terminates_itself(trial):
    os.kill(os.getpid(), signal.SIGTERM)


def leaves_by_sys_exit(trial):
    sys.exit(trial.params["code"])


def leaves_by_os_exit(trial):
    os._exit(trial.params["code"])


def raises(trial):
    raise ValueError("the learning\nrate   is bad")


def raises_unspeakably(trial):
    raise Unspeakable


def raises_base_exception(trial):
    raise KeyboardInterrupt


def returns(trial):
    return eval(trial.params["value"])  # an expression of the test's own table


def prunes(trial):
    raise optuna.TrialPruned


def hangs_in_c(trial):
    """With the GIL held: not a line of Python runs any more."""
    ctypes.PyDLL(None).sleep(FOREVER_S)


def hangs_in_a_pattern(trial):
    re.match(r"(a+)+$", "a" * 64 + "b")


def sleeps(trial):
    time.sleep(FOREVER_S)


def ignores_stop(trial):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            trial.report(0.0, step=0)
            time.sleep(0.01)
        except BaseException:
            continue


def heeds_stop(trial):
    step = 0
    while True:
        trial.report(0.0, step)
        step += 1
        time.sleep(0.005)


def asks(trial):
    return trial.suggest_float("x", 0, 1)


def returns_when_stopped(trial):
    try:
        heeds_stop(trial)
    except BaseException:
        return 0.75


def allocates_at_once(trial):
    return len(bytearray(100 << 30))


def allocates_and_touches(trial):
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 8)
        time.sleep(0.002)


def allocates_in_children(trial):
    for _ in range(4):
        if os.fork() == 0:
            kept = bytearray(os.urandom(1 << 20)) * 64
            time.sleep(FOREVER_S)
            os._exit(len(kept))
    time.sleep(FOREVER_S)


def runs_out_of_gpu_memory(trial):
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def runs_out_of_cpu_memory(trial):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory")


def prints(trial):
    line = b"x" * 1023 + b"\n"
    print("first line", flush=True)
    for _ in range(trial.params["mebibytes"]):
        os.write(1, line * 1024)
    print("last line")
    return 1.0


def forks(trial):
    """A child in the same group, which outlives its parent."""
    if os.fork() == 0:
        time.sleep(FOREVER_S)
    return 1.0


def forks_daemons(trial):
    """Children that went out of their way to get away: own session, parent gone, pipes kept open."""
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(FOREVER_S)
            os._exit(0)
    subprocess.Popen(["sleep", str(FOREVER_S)], start_new_session=True, env={})
    subprocess.Popen(["sleep", str(FOREVER_S)], start_new_session=True)
    time.sleep(0.05)
    return 1.0


def forks_and_hangs(trial):
    subprocess.Popen(["sleep", str(FOREVER_S)], start_new_session=True)
    subprocess.Popen(["sleep", str(FOREVER_S)])
    trial.set_user_attr("ready", True)
    time.sleep(FOREVER_S)


def returns_twice(trial):
    """Both sides of the fork come back."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return 1.0 if child else 2.0


def raises_in_the_child(trial):
    child = os.fork()
    if not child:
        raise ValueError("only in the child")
    os.waitpid(child, 0)
    return 1.0


def uses_workers(trial):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(abs, [-1, -2])) / 3


def leaves_threads_running(trial):
    for daemon in (True, False):
        threading.Thread(target=time.sleep, args=(FOREVER_S,), daemon=daemon).start()
    return 1.0


def closes_everything(trial):
    os.closerange(3, 256)
    time.sleep(FOREVER_S)


def closes_everything_and_returns(trial):
    os.closerange(3, 256)
    return 1.0


def closes_stdout(trial):
    sys.stdout.close()
    sys.stderr = None
    return 1.0


def says_garbage(trial):
    trial._line._channel.sendall(b'{"op": "report"}\n')
    time.sleep(FOREVER_S)


def says_too_much(trial):
    trial._line._channel.sendall(b"x" * (3 << 20))
    time.sleep(FOREVER_S)


def says_half_a_line(trial):
    trial._line._channel.sendall(b'{"op": "ret')
    os._exit(0)


def says_too_big_an_attribute(trial):
    trial.set_user_attr("big", "x" * (2 << 20))


def reports_nonsense(trial):
    trial.report(*trial.params["report"])


def reports_nan(trial):
    trial.report(float("nan"), step=3)
    trial.report(1.0, step=1)
    trial.report(2.0, step=1)
    return 1.0


def never_leaves(trial):
    """The final word is said, and then something in the process holds it back."""
    os._exit = lambda code: time.sleep(FOREVER_S)
    return 1.0


not_a_function = 3
