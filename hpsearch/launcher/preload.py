"""What a launcher imports before it forks, so that no rank has to.

Imports only: nothing here may run the user's code, start a thread or touch a GPU.
"""

import ast
import contextlib
import functools
import gc
import importlib
import importlib.machinery
import pickletools
import re
import socket
import sys
import traceback
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hpsearch.launcher import members

# What every rank needs, and what the standard library imports when it is first used.
ALWAYS = (
    "cloudpickle", "concurrent.futures.thread", "faulthandler", "hpsearch.rank", "inspect",
    "multiprocessing.popen_fork", "multiprocessing.queues", "multiprocessing.synchronize", "numpy", "numpy.random",
    "optuna", "resource", "traceback",
)  # fmt: skip

# What a library imports at first use instead of when it is imported itself, seen in `sys.modules` of a forked child.
LAZY = {
    "torch": (
        "torch._dynamo",  # 1.1-1.4 s, at the first optimizer
        "torch._subclasses.schema_check_mode",  # at the first repr
        "torch.distributed",
        "torch.nn.parallel",
        "torch.nn.parallel.distributed",
        "torch.optim",
        "torch.optim.lr_scheduler",
        "torch.optim.swa_utils",
        "torch.profiler._cupti_monitor",  # at the first optimizer step
        "torch.utils.checkpoint",
        "torch.utils.data",
        "torch.utils.data.distributed",
        "torch.utils.serialization.config",  # at the first torch.save
    ),
}

# Forking after these were imported breaks them: they start threads, join an MPI world or hold a GPU.
NOT_FORKABLE = frozenset(
    {"__main__", "cudf", "cupy", "grpc", "jax", "jaxlib", "mpi4py", "pyspark", "ray", "rmm", "tensorflow"}
)


def preload(imports: Sequence[str]) -> None:
    """Import everything, skip what fails (the rank will say why), and prepare for forking."""
    for name in (*ALWAYS, *imports):
        _import(name)
    for library, lazy in LAZY.items():
        if library in sys.modules:
            for name in lazy:
                _import(name)
    if "torch" in sys.modules:
        _keep_process_groups()
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.freeze()  # or each child's first collection would copy every page


def _import(name: str) -> None:
    """Import ``module``, or ``module:attribute`` where the attribute may be a module of its own."""
    module, _, attribute = name.partition(":")
    if module.partition(".")[0] in NOT_FORKABLE:
        return
    try:
        found = importlib.import_module(module)
        if attribute and not hasattr(found, attribute):
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(f"{module}.{attribute}")
    except (Exception, SystemExit):
        traceback.print_exc()


def _keep_process_groups() -> None:
    """Never let go of a destroyed process group.

    The last reference may go while the group's gloo thread waits for the GIL that the destructor holds: torch 2.13
    deadlocks there (pytorch#56297). A rank ends by ``_exit``, which needs no destructors.
    """
    distributed: Any = importlib.import_module("torch.distributed")
    if not distributed.is_available():
        return
    c10d: Any = importlib.import_module("torch.distributed.distributed_c10d")
    original = c10d.destroy_process_group
    kept: list[Any] = []

    @functools.wraps(original)
    def destroy_process_group(*args: Any, **kwargs: Any) -> Any:
        kept.extend(c10d._world.pg_map)
        return original(*args, **kwargs)

    c10d.destroy_process_group = destroy_process_group
    distributed.destroy_process_group = destroy_process_group


def run_rank(channel: int, output: int, token: str, parent: int) -> NoReturn:
    """Become a rank: called in the forked child."""
    from hpsearch import rank

    members.mark(token)
    rank.main(socket.socket(fileno=channel), output, parent)


# ------------------------------------------------------------------------------------- what to import


def imports_of(objective: Mapping[str, Any], cwd: str = ".") -> list[str]:
    """Modules that an objective imports, itself and through its own local modules; nothing of it is run.

    Args:
        objective: ``kind``, ``target`` and, for kind "pickle", ``blob`` as in a rank's assignment.
        cwd: where the modules of kind "module" are looked for first.

    Returns:
        Names of libraries' modules, ``module:name`` for ``from module import name``. Empty where the source cannot be
        read: the rank will say why.
    """
    if objective["kind"] == "command":  # another program, whose imports are its own
        return []
    if objective["kind"] == "pickle":
        found = set(_pickled_modules(b64decode(objective["blob"])))
    elif objective["kind"] == "file":
        file = Path(objective["target"])
        found = _Reader([file.parent], "").read(file)
    else:
        module = str(objective["target"])
        found = _Reader([Path(cwd), *map(Path, sys.path)], module.partition(".")[0]).follow(module)
    return sorted(name for name in found if re.split("[.:]", name)[0] not in {"__future__", "hpsearch"})


class _Reader:
    """Follows the imports of local modules through their syntax trees."""

    def __init__(self, roots: Sequence[Path], package: str) -> None:
        self._roots = roots
        self._package = package  # of a "module" objective: whatever lies in it is local; "": all of the roots is
        self._seen: set[Path] = set()

    def read(self, file: Path) -> set[str]:
        """The libraries' modules that it imports, also through local ones."""
        if file in self._seen:
            return set()
        self._seen.add(file)
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return set()
        found: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found |= self._follow(self._roots, alias.name, alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                for name in (alias.name for alias in node.names):
                    if node.level:
                        package = file.parents[min(node.level, len(file.parents)) - 1]
                        found |= self._follow([package], f"{module}.{name}".strip("."), "")
                    else:
                        found |= self._follow(
                            self._roots, f"{module}.{name}", module if name == "*" else f"{module}:{name}"
                        )
        return found

    def follow(self, module: str) -> set[str]:
        """The same for a module by name, the packages around it included; the module itself if it is not local."""
        return self._follow(self._roots, module, module)

    def _follow(self, roots: Sequence[Path], module: str, library: str) -> set[str]:
        """What a local module and the packages around it import, or the library itself."""
        parts = module.split(".")
        if roots is self._roots and self._package not in {"", parts[0]}:
            return {library}
        prefixes = [parts[: length + 1] for length in range(len(parts))]
        local = [source for prefix in prefixes if (source := _first_source(roots, prefix)) is not None]
        if not local:
            return {library} - {""}
        return set().union(*(self.read(source) for source in local))


def _first_source(roots: Sequence[Path], parts: Sequence[str]) -> Path | None:
    for root in roots:
        relative = root.joinpath(*parts)
        for candidate in (relative / "__init__.py", relative.with_suffix(".py")):
            if candidate.is_file():
                return candidate
    return None


def _pickled_modules(blob: bytes) -> Iterator[str]:
    """Modules that a pickle names, read from its opcodes without running them."""
    memo: dict[int, str] = {}
    top = ""
    strings: list[str] = []  # what was pushed last: strings, and the names of globals
    try:
        for opcode, argument, _ in pickletools.genops(blob):
            if opcode.name in {"SHORT_BINUNICODE", "BINUNICODE"}:
                top = str(argument)
            elif opcode.name in {"BINGET", "LONG_BINGET"} and isinstance(argument, int):
                top = memo.get(argument, "")
            elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                yield strings[-2]
                top = strings[-1]
            elif opcode.name == "MEMOIZE":
                memo[len(memo)] = top
                continue
            else:
                if opcode.name == "REDUCE" and strings[-2:-1] == ["subimport"]:  # how cloudpickle stores a module
                    yield strings[-1]
                top = ""
                continue
            strings.append(top)
    except ValueError:  # a damaged blob: the rank will say so
        return
