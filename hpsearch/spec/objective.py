"""Finds the user's functions and classes without running a line of their code."""

import ast
import importlib.machinery
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpsearch.spec.model import Objective
from hpsearch.spec.tree import Item, printable, shown, suggestion

MAX_SOURCE_BYTES = 10_000_000
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_WISH = "path/to/file.py:function or package.module:function"


class NotFound(Exception):
    """Why a target cannot be meant, on one line."""


@dataclass(frozen=True, slots=True)
class ObjectiveReader:
    """Reads ``path/to/file.py:function`` or ``package.module:function``."""

    def read(self, item: Item) -> Objective | None:
        value = item.node.value
        if not isinstance(value, str):
            item.expected(_WISH)
            return None
        try:
            return find_objective(value, folders(item))
        except NotFound as error:
            item.problem(str(error))
            return None

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[^:]+:[^:]+$", "examples": ["trials/digits.py:train"]}


def is_target(source: str) -> bool:
    """Whether a command line's source names a function rather than a study file."""
    target, colon, function = source.rpartition(":")
    return bool(colon) and function.isidentifier() and (target.endswith(".py") or _MODULE.fullmatch(target) is not None)


def find_objective(text: str, folders: list[Path]) -> Objective:
    """The objective that ``text`` names; a relative file is looked for in each of ``folders``.

    Raises NotFound where there is no such file, module or function, or it isn't Python.
    """
    target, _, function = text.strip().rpartition(":")
    if not target or not function:
        raise NotFound(f"must be {_WISH} (got {shown(text)})")
    if not function.isidentifier():
        raise NotFound(f"{shown(function)} is no function's name: write {_WISH}")
    if target.endswith(".py") or "/" in target:
        path = _file(target, folders)
        check_defined(path, function, "function")
        return Objective(kind="file", target=str(path), function=function)
    check_module(target, function, "function")
    return Objective(kind="module", target=target, function=function)


def check_module(module: str, name: str, what: str) -> None:
    """Check that a module exists and, where its source is at hand, that it defines ``name``.

    Raises NotFound. Nothing is imported: packages are followed by their folders.
    """
    if _MODULE.fullmatch(module) is None:
        raise NotFound(f"{shown(module)} is no module's name: write package.module:{what}")
    if not name.isidentifier():
        raise NotFound(f"{shown(name)} is no {what}'s name: write package.module:{what}")
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):  # such as __main__, which has no spec
        spec = None
    spec = spec or importlib.machinery.PathFinder.find_spec(top, [os.getcwd()])
    if spec is None:
        raise NotFound(f"there is no module '{printable(top)}' here or among the installed ones")
    for depth, part in enumerate(rest, start=1):
        locations = spec.submodule_search_locations
        spec = importlib.machinery.PathFinder.find_spec(part, list(locations)) if locations else None
        if spec is None:
            raise NotFound(f"'{'.'.join([top, *rest[: depth - 1]])}' has no module '{printable(part)}' in it")
    if spec.origin is not None and spec.origin.endswith(".py"):
        check_defined(Path(spec.origin), name, what)


def check_defined(path: Path, name: str, what: str) -> None:
    """Check that a file is Python and binds ``name`` at its top level. Raises NotFound."""
    tree = _parsed(path)
    names = dict(_bound(tree.body))
    if name in names:
        if isinstance(names[name], ast.AsyncFunctionDef) and what == "function":
            raise NotFound(f"'{name}' in {_short(path)} is async: the objective must be an ordinary function")
    elif "*" not in names and "__getattr__" not in names:
        kind = ast.ClassDef if what == "class" else ast.FunctionDef
        known = [key for key, node in names.items() if isinstance(node, kind) and not key.startswith("_")]
        raise NotFound(f"{_short(path)} has no {what} '{printable(name)}'{suggestion(name, known)}")


def folders(item: Item) -> list[Path]:
    """Where a relative path may begin: here, or beside the study file that names it."""
    beside = Path(re.sub(r":\d+:\d+$", "", item.node.where)).parent
    return [Path.cwd(), *([Path.cwd() / beside] if ":" in item.node.where else [])]


def _file(target: str, folders: list[Path]) -> Path:
    try:
        given = Path(target).expanduser()
    except RuntimeError:  # ~somebody who is not known here
        given = Path(target)
    for folder in folders:
        path = Path(os.path.normpath(folder / given))
        if _exists(path):
            return path
    places = " or ".join(dict.fromkeys(_short(folder) for folder in folders))
    raise NotFound(f"no such file: {printable(target)}" + ("" if target.startswith("/") else f" (looked in {places})"))


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a NUL
        return False


def _parsed(path: Path) -> ast.Module:
    try:
        with path.open("rb") as file:
            source = file.read(MAX_SOURCE_BYTES + 1)
    except OSError as error:
        raise NotFound(f"{_short(path)} cannot be read: {error.strerror}") from None
    if len(source) > MAX_SOURCE_BYTES:
        raise NotFound(f"{_short(path)} is over 10 MB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in the user's code is not our topic
            return ast.parse(source)
    except SyntaxError as error:
        place = f"{_short(path)}:{error.lineno}" if error.lineno else _short(path)
        raise NotFound(f"{place}: syntax error: {printable(error.msg or 'not Python', 120)}") from None
    except (ValueError, RecursionError, MemoryError):
        raise NotFound(f"{_short(path)} is not Python") from None


def _bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names that a module's top level binds, also inside ``if``, ``try`` and ``with``."""
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                for alias in aliases:
                    yield (alias.asname or alias.name).partition(".")[0], node
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                for name_node in ast.walk(node):
                    if isinstance(name_node, ast.Name) and isinstance(name_node.ctx, ast.Store):
                        yield name_node.id, node
            case ast.If() | ast.Try() | ast.TryStar() | ast.With() | ast.For() | ast.While():
                for part in ("body", "orelse", "finalbody"):
                    yield from _bound(getattr(node, part, []))
                for handler in getattr(node, "handlers", []):
                    yield from _bound(handler.body)


def _short(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        relative = os.path.relpath(path)
    except ValueError:
        return printable(str(path), 120)
    return printable(relative if not relative.startswith("..") else str(path), 120)


def importable(module: str) -> bool:
    """Whether an installed package could be imported; imports nothing."""
    return module in sys.modules or importlib.util.find_spec(module) is not None
