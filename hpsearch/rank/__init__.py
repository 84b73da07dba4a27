"""What runs in the forked child: becomes a process of its own, runs the objective once, says how it ended, and leaves.

It never returns and never unwinds into the launcher. Nothing is imported here that the launcher has not loaded.
"""

import base64
import ctypes
import faulthandler
import importlib
import importlib.util
import os
import random
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import optuna

from hpsearch import trial as trials
from hpsearch.rank.program import Program
from hpsearch.trial import Line, Trial, TrialStopped

PR_SET_PDEATHSIG = 1
MAX_REASON = 300  # characters
MAX_TRACEBACK = 64 * 1024  # characters; the end is kept, where the exception is
MAX_SHOWN = 60  # characters of a bad result

Objective = Callable[[Trial], object]


class BadResult(Exception):
    """The objective returned something that is no number."""


class BadObjective(Exception):
    """There is no objective to run where there should be one."""


def main(channel: socket.socket, output: int, parent: int) -> NoReturn:
    """Run one rank and end the process.

    Args:
        channel: to the supervisor; its first line is the assignment.
        output: file descriptor that takes stdout and stderr.
        parent: the launcher's pid.
    """
    code = 1
    try:
        _detach(output, parent)
        line = Line(channel)
        code = _work(line, line.assignment())
    except BaseException:  # whatever happens, the child must not go on as a second launcher
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code)


def _detach(output: int, parent: int) -> None:
    """Leave the launcher's session, signals, streams and life."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(output)
    faulthandler.enable()  # a segmentation fault leaves its Python traceback in the log


def _prepare(assignment: Mapping[str, Any]) -> None:
    """Environment before anything else, so that CUDA, when it comes up, sees it."""
    os.environ.update(assignment["env"])
    os.makedirs(assignment["directory"], exist_ok=True)
    os.chdir(assignment["cwd"])
    objective = assignment["objective"]
    home = str(Path(objective["target"]).parent) if objective["kind"] == "file" else assignment["cwd"]
    sys.path[:0] = dict.fromkeys([home, *assignment.get("sys_path", ())])
    if assignment["memory_bytes"] and objective["kind"] != "command" and not _sees_gpu():
        # Address space and not resident memory, so that the allocation itself fails, with a traceback. On a GPU
        # machine CUDA reserves more address space than any limit; there the supervisor watches resident memory.
        limit = _address_space() + assignment["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    _seed(assignment["seed"])


def _share_gpu(fraction: float | None) -> None:
    """Cap this process's part of a GPU that others use, too. CUDA is not initialised for it: user code may not want it.

    torch keeps the call until its first touch of CUDA, ahead of any allocation.
    """
    torch: Any = sys.modules.get("torch")
    if fraction is not None and torch is not None and torch.backends.cuda.is_built():
        torch.cuda._lazy_call(lambda: torch.cuda.set_per_process_memory_fraction(fraction, 0))


def _sees_gpu() -> bool:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return os.path.exists("/proc/driver/nvidia") if visible is None else visible not in {"", "-1"}


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()


def _seed(seed: int | None) -> None:
    """Without this every rank would begin with the random state of the launcher that all were forked from."""
    random.seed(seed)
    if "numpy" in sys.modules:
        importlib.import_module("numpy.random").seed(None if seed is None else seed % 2**32)
    if "torch" in sys.modules and seed is not None:
        sys.modules["torch"].manual_seed(seed)


# ---------------------------------------------------------------------------------------- the objective


def _load(objective: Mapping[str, Any]) -> Objective:
    if objective["kind"] == "pickle":
        found = importlib.import_module("cloudpickle").loads(base64.b64decode(objective["blob"]))
    else:
        is_file = objective["kind"] == "file"
        module = _import_file(Path(objective["target"])) if is_file else importlib.import_module(objective["target"])
        found = getattr(module, objective["function"], None)
        if found is None:
            raise BadObjective(f"{objective['target']} has no function {objective['function']!r}")
    if not callable(found):
        raise BadObjective(f"the objective is a {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]


def _import_file(file: Path) -> ModuleType:
    # Under its own name, so that what it defines can be pickled, unless a library has that name.
    name = file.stem if file.stem not in sys.modules else f"objective_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BadObjective(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _work(line: Line, assignment: Mapping[str, Any]) -> int:
    """Load and call the objective, send the final word; returns the exit code."""
    pid = os.getpid()
    doing = "error"
    try:
        _prepare(assignment)
        if assignment["objective"]["kind"] == "command":
            return Program(line, assignment).run()
        doing = "import"
        _share_gpu(assignment.get("gpu_fraction"))  # of the launcher's torch, whatever the module does when imported
        objective = _load(assignment["objective"])
        _share_gpu(assignment.get("gpu_fraction"))  # torch may have come with it; twice is once
        doing = "error"
        trial = Trial(assignment, line)
        trials.enter(trial)
        line.send({"op": "ready", "pid": pid})
        result = objective(trial)
        word: dict[str, Any] = {"op": "returned", "values": numbers(result, assignment["n_objectives"])}
    except optuna.TrialPruned:
        word = {"op": "pruned"}
    except TrialStopped:
        word = {"op": "stopped"}
    except SystemExit as left:
        traceback.print_exc()
        return _exit_code(left)
    except BaseException as error:
        word = _failure(error, doing, assignment)
    if os.getpid() != pid:  # a child that the objective forked came back through here: it has no say
        return 0
    _flush()
    try:
        line.send(word)
    except OSError:  # it closed what was not its own
        traceback.print_exc()
        return os.EX_IOERR
    return 0 if word["op"] != "failed" else 1


def _exit_code(left: SystemExit) -> int:
    if left.code is None:
        return 0
    return left.code & 0xFF if isinstance(left.code, int) else 1


def numbers(result: object, n_objectives: int) -> list[float]:
    """The objective's result as finite or infinite floats, one for each objective.

    Accepts what ``float`` accepts except text, and one-element arrays and tensors; a sequence for several objectives.

    Raises:
        BadResult: with a message in words.
    """
    if isinstance(result, list | tuple):
        several: Sequence[object] = result
    elif n_objectives > 1 and hasattr(result, "tolist") and getattr(result, "ndim", 0) == 1:
        several = result.tolist()
    else:
        several = [result]
    if len(several) != n_objectives:
        wanted = "one number" if n_objectives == 1 else f"{n_objectives} numbers"
        raise BadResult(f"returned {_show(result)}: not {wanted}")
    return [_number(value, result) for value in several]


def _number(value: object, result: object) -> float:
    try:
        if isinstance(value, str | bytes | bytearray):
            raise TypeError
        number = float(value.item() if hasattr(value, "item") else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise BadResult(f"returned {_show(result)}: not a number") from None
    if number != number:
        raise BadResult(f"returned {_show(result)}: NaN is no result")
    return number


def _show(value: object) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape) > 0:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


# --------------------------------------------------------------------------------------------- failures


def _failure(error: BaseException, doing: str, assignment: Mapping[str, Any]) -> dict[str, Any]:
    """The final word about an exception; also puts its traceback into the log."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))  # to say it takes memory, too
    if isinstance(error, BadResult):
        return {"op": "failed", "cause": "bad_result", "reason": str(error), "traceback": ""}
    what = one_line(error)
    cause = doing
    if isinstance(error, BadObjective):
        what = str(error)
    elif is_port_taken(what):
        cause = "rendezvous"
    elif is_out_of_memory(error, what):
        cause, what = "oom", f"out of memory: {what}"
    elif doing == "import":
        objective = assignment["objective"]
        what = f"cannot load the objective {objective['target'] or 'that was sent along'}: {what}"
    text = _traceback(error)
    sys.stderr.write(text)
    return {"op": "failed", "cause": cause, "reason": what[:MAX_REASON], "traceback": text[-MAX_TRACEBACK:]}


def one_line(error: BaseException) -> str:
    """``ValueError: what it says``, however many lines it says it in."""
    try:
        said = " ".join(str(error).split())
    except Exception as second:
        said = f"(its text cannot be had: {type(second).__name__})"
    name = type(error).__qualname__
    return f"{name}: {said}" if said else name


def is_out_of_memory(error: BaseException, said: str) -> bool:
    """Host or GPU memory, as Python, NumPy and torch each put it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def is_port_taken(said: str) -> bool:
    """Whether torch found somebody else listening where this gang was to meet: nobody's fault."""
    return "EADDRINUSE" in said and f"port: {os.environ.get('MASTER_PORT')}," in said


def _traceback(error: BaseException) -> str:
    """Without the frames of this file and of the import machinery, which are no news to the user."""
    where = error.__traceback__
    while where is not None and where.tb_frame.f_code.co_filename.startswith((__file__, "<frozen importlib")):
        where = where.tb_next
    return "".join(traceback.format_exception(type(error), error, where))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # the user may have closed or replaced it
            continue
