"""Starting a launcher and letting go of it."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hpsearch
from hpsearch import passwords
from hpsearch.launcher.members import MARK, MARK_LENGTH

MAX_SOCKET_PATH = 100  # the kernel takes 107 bytes
BACKLOG = 512
CLOSING_S = 5.0
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class LauncherProcess:
    """A launcher that was started from here; it and all its ranks end with ``close()`` or with this process."""

    path: Path  # of its unix socket, in a directory that only this user can enter
    pid: int
    _process: subprocess.Popen[bytes]

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the launcher and every rank of it, and wait for that. May be called again."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.path.parent, ignore_errors=True)


def rank_environment(cpus_per_rank: int) -> dict[str, str]:
    """The environment that ranks on this machine begin with: this process's, with thread counts set.

    Every numeric library brings threads of its own, as many as there are CPUs; so that slots do not fight they get
    as many as a rank holds, unless somebody has said otherwise. What is meant for hpsearch itself (a storage URL may
    hold a password) is no business of a training job.
    """
    env = passwords.without_private(os.environ)
    for name in _THREAD_VARIABLES:
        env.setdefault(name, str(cpus_per_rank))
    return env


def start(imports: Sequence[str], directory: Path, env: Mapping[str, str]) -> LauncherProcess:
    """Start a launcher; it can be connected to at once, and forks as soon as it has imported.

    Args:
        imports: modules to load beforehand, as :func:`hpsearch.launcher.imports_of` gives them.
        directory: where a private directory for its socket and its log is made.
        env: the launcher's whole environment; a rank's own is laid over it.

    Raises:
        OSError: the directory cannot be written, or no process can be started.
    """
    home = _private_directory(directory)
    path = home / "socket"
    # Bound here and not there, so that ranks can be asked for while the interpreter still starts.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, (home / "log").open("wb") as log:
        listener.bind(str(path))
        listener.listen(BACKLOG)
        process = subprocess.Popen(
            # -P: a file named like a library, in the working directory, must not be imported in its place.
            [sys.executable, "-P", "-m", "hpsearch.launcher", str(listener.fileno()), json.dumps(list(imports))],
            stdin=subprocess.PIPE,  # the lifeline: it closes when this process ends, however it ends
            stdout=log,
            stderr=log,
            env=_environment(env),
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C in the terminal is for the coordinator alone
        )
    return LauncherProcess(path, process.pid, process)


def _private_directory(directory: Path) -> Path:
    home = Path(tempfile.mkdtemp(prefix="launcher-", dir=directory))
    if len(os.fsencode(home / "socket")) <= MAX_SOCKET_PATH:
        return home
    home.rmdir()
    return Path(tempfile.mkdtemp(prefix="hpsearch-launcher-", dir="/tmp"))


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    # The place of the token is made here and overwritten in each rank; see hpsearch.launcher.members.
    # torch asks the driver how many GPUs there are by initialising CUDA, which no forked child survives, or by NVML.
    whole = {**env, MARK: "-" * MARK_LENGTH, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    source = str(Path(hpsearch.__file__).parent.parent)
    if source not in sys.path[1:] or not source.endswith("-packages"):
        whole["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), source]))
    return whole
