"""The rooms of hpsearch, as data, and what holds them apart. ARCHITECTURE.md says why."""

import ast
import configparser
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hpsearch"

# Each row may import the rows above it, and nothing of its own row.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("errors", "events"),
    ("passwords",),
    ("space",),
    ("spec",),
    ("budget", "checkpoint", "placement", "rendezvous"),
    ("lifecycle",),
    ("search",),
    ("storage",),
    ("channel",),
    ("report",),
    ("trial",),
    ("integrations",),
    ("rank",),
    ("launcher",),
    ("supervisor",),
    ("cluster",),
    ("coordinator",),
    ("console", "database", "views"),
    ("api",),
    ("cli",),
)
ROW = {room: number for number, row in enumerate(ROOMS) for room in row}

# Rooms that run where little is installed, or must stay simple, import less than the rows above them would allow.
NARROW: dict[str, set[str]] = {
    "errors": set(),
    "events": set(),
    "passwords": {"errors"},
    "space": {"errors"},
    "budget": {"errors", "events"},
    "checkpoint": {"errors", "events"},
    "placement": {"errors", "events"},
    "rendezvous": {"errors", "events"},
    "lifecycle": {"errors", "events", "budget", "placement"},
    "channel": {"errors", "events"},
    "report": set(),
    "trial": {"errors", "events", "channel", "checkpoint", "report"},
    "integrations": {"trial"},
    "rank": {"errors", "events", "channel", "checkpoint", "report", "trial"},
    "launcher": {"errors", "events", "passwords", "channel", "checkpoint", "trial", "rank"},
    "supervisor": {"errors", "events", "channel", "checkpoint", "placement", "rendezvous", "trial", "rank", "launcher"},
    "console": {"errors", "events"},
    "database": {"errors", "events", "passwords", "storage"},
    "views": {"errors", "events", "storage"},
}

# Who may import which library at all.
LIBRARIES: dict[frozenset[str], set[str]] = {
    frozenset({"optuna"}): {
        "api", "coordinator", "database", "integrations", "launcher", "rank", "search", "space", "spec", "storage",
        "trial", "views",
    },
    frozenset({"dask", "distributed"}): {"api", "cluster", "coordinator", "supervisor"},
    frozenset({"torch"}): {"checkpoint", "launcher", "rank", "trial"},
    frozenset({"sqlalchemy"}): {"database", "storage", "views"},
    frozenset({"alembic"}): {"database"},
    frozenset({"lightning", "transformers"}): {"integrations"},
}  # fmt: skip

# Imported inside functions only: whoever does not need it never waits for it.
LAZY: dict[str, set[str]] = {
    "torch": set(ROW),
    "optuna": {"spec"},
    "dask": {"api"},
    "distributed": {"api"},
}
# ... and these rooms of ours, because they in turn import optuna; a mistyped study file is answered without it.
LAZY_ROOMS: dict[str, set[str]] = {"spec": {"space"}}

# Time and chance are passed in: the same code runs under test, in simulation and for real.
PURE = {"budget", "channel", "events", "lifecycle", "placement"}
IMPURE = {"asyncio", "datetime", "os", "random", "secrets", "socket", "subprocess", "threading", "time", "uuid"}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_CORE_LINES = 8_500
NOT_CORE = {
    "api",
    "cli",
    "console",
    "database",
    "integrations",
    "report",
    "spec",
    "views",
}  # the edges, where people and files come in


@dataclass(frozen=True)
class Import:
    file: Path
    line: int
    room: str  # "" for hpsearch/__init__.py
    target: str  # "hpsearch.events", "torch.nn"
    lazy: bool  # inside a function
    typing: bool  # under `if TYPE_CHECKING:`

    @property
    def library(self) -> str:
        return self.target.partition(".")[0]

    @property
    def target_room(self) -> str:
        """Our room that is imported; "" for a library, and for `import hpsearch` (its version)."""
        parts = self.target.split(".")
        return parts[1] if parts[0] == "hpsearch" and len(parts) > 1 and parts[1] in ROW else ""

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: {self.room} imports {self.target}"


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first in {"__init__", "__main__"} else first


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports_in(
    file: Path, node: ast.AST | None = None, *, lazy: bool = False, typing: bool = False
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(tree(file) if node is None else node):
        targets: list[str] = []
        if isinstance(child, ast.Import):
            targets = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{file}:{child.lineno}: imports are absolute here"
            targets = [f"{child.module}.{alias.name}" for alias in child.names]
        for target in targets:
            yield Import(file, child.lineno, room_of(file), target, lazy, typing)
        yield from imports_in(
            file,
            child,
            lazy=lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda),
            typing=typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)),
        )


def imports() -> list[Import]:
    return [found for file in sources() for found in imports_in(file)]


def test_every_module_is_in_a_room():
    assert {room_of(file) for file in sources()} - {""} <= set(ROW)


def test_a_room_imports_only_rooms_before_it():
    def allowed(found: Import) -> bool:
        room, target = found.room, found.target_room
        if room == "" or target in {"", room}:  # the package's front door leads everywhere
            return True
        return ROW[target] < ROW[room] and target in NARROW.get(room, set(ROW))

    assert [str(found) for found in imports() if not allowed(found)] == []


@pytest.mark.parametrize(("libraries", "rooms"), LIBRARIES.items(), ids=lambda value: "-".join(sorted(value)))
def test_a_library_stays_in_its_rooms(libraries, rooms):
    strays = [str(found) for found in imports() if found.library in libraries and found.room not in rooms]
    assert strays == []


def test_what_is_heavy_is_imported_inside_functions():
    def too_early(found: Import) -> bool:
        if found.lazy or found.typing:
            return False
        return found.room in LAZY.get(found.library, set()) or found.target_room in LAZY_ROOMS.get(found.room, set())

    assert [str(found) for found in imports() if too_early(found)] == []


def test_the_core_reads_no_clock_and_throws_no_dice():
    assert [str(found) for found in imports() if found.room in PURE and found.library in IMPURE] == []


def test_files_are_short():
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in sources()}
    assert {file: n for file, n in lengths.items() if n > MAX_FILE_LINES} == {}


def docstring_lines(node: ast.AST) -> set[int]:
    """Lines of the node's own docstring; a text at another place is no docstring."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            return set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return set()


def code_lines(file: Path) -> int:
    """Lines that hold code: no blanks, comments and docstrings, which nobody should save."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    with file.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type not in silent and token.type != tokenize.ENCODING:
                lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - {line for node in ast.walk(tree(file)) for line in docstring_lines(node)})


def test_functions_are_short():
    long = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines"
        for file in sources()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1 - len(docstring_lines(node)))
        > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_the_core_is_small():
    core = [file for file in sources() if room_of(file) not in NOT_CORE]
    assert sum(code_lines(file) for file in core) < MAX_CORE_LINES


def test_import_linter_is_told_the_same():
    """`lint-imports` follows chains of imports, which the tests above do not; both read one order."""
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    layers = config["importlinter:contract:rooms"]["layers"].split("\n")
    told = [{part.strip(" ()").removeprefix("hpsearch.") for part in row.split("|")} for row in layers if row.strip()]
    assert told == [set(row) for row in reversed(ROOMS)]
