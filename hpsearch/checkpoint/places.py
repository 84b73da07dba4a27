"""Where the checkpoints of one trial lie: a directory, or a URL that fsspec knows. The manifest is what commits one.

In a directory the files are written beside, synced and renamed. Object stores have no rename: there the files are
uploaded first and the manifest last, and what has no manifest does not exist.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from hpsearch.errors import CheckpointError

TEMPORARY = ".tmp-"
MANIFEST = "manifest.json"
NOTES = "reports.jsonl"

Manifest = dict[str, Any]


class Place(Protocol):
    """Where the checkpoints of one trial lie. Every method may raise OSError."""

    shared: bool  # whether all ranks write into one directory of begin()

    def names(self) -> list[str]:
        """Of the checkpoints, the newest first; what a killed save left is none."""

    def begin(self, mark: str) -> Path:
        """A directory of this machine for the files of a new checkpoint; ranks that give one mark may share it.

        A mark begins with the number of the attempt and a dash.
        """

    def put(self, beside: Path, name: str, files: Iterable[str]) -> None:
        """These files are complete."""

    def commit(self, beside: Path, name: str, manifest: Manifest) -> None:
        """All files of all ranks are complete: from now on the checkpoint exists."""

    def discard(self, beside: Path) -> None:
        """Forget what was written there and not committed. Twice is once."""

    def verified(self, name: str) -> Manifest | None:
        """The manifest, if every file is what it says; None is for good. OSError: it cannot be told now."""

    def fetched(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """The files on this machine, for as long as the context lasts."""

    def remove(self, name: str) -> None:
        """Twice is once."""

    def sweep(self, attempt: int) -> None:
        """Remove what killed saves left, but not of a later attempt: this one is then not known to be dead yet."""

    def attempt_of(self, name: str) -> int:
        """Which attempt saved a checkpoint; 0 if it does not say."""

    def note(self, fact: Any) -> None:
        """Keep a fact that came up since the last commit, if that is quick here; a kill does not lose it."""

    def notes(self) -> list[Any]:
        """Facts since the last commit."""

    def sizes(self) -> list[tuple[str, int]]:
        """Name and bytes of each checkpoint, the newest first."""

    def label(self, name: str) -> str:
        """For people and logs."""


def is_url(place: str) -> bool:
    """Whether fsspec is needed to get there."""
    return "://" in place


def open_place(place: str) -> Place:
    """A directory by its path, anything else by its URL.

    Raises:
        CheckpointError: fsspec does not know such URLs, or lacks the package for them.
    """
    return Remote(place) if is_url(place) else Directory(Path(place))


class Directory:
    """A directory of this machine, or of a file system that all hosts of the gang share."""

    shared = True

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        # Not by glob(), to which a directory that it may not read is an empty one: the trial would begin again.
        names = os.listdir(self._path) if self._path.exists() else ()
        return _newest_first(name for name in names if re.fullmatch(r"\d+-step--?\d+", name))

    def begin(self, mark: str) -> Path:
        beside = self._path / f"{TEMPORARY}{mark}"
        beside.mkdir(parents=True, exist_ok=True)
        return beside

    def put(self, beside: Path, name: str, files: Iterable[str]) -> None:
        for file in files:
            _sync(beside / file)

    def commit(self, beside: Path, name: str, manifest: Manifest) -> None:
        for file in manifest["files"]:
            if not (beside / file).exists():
                raise CheckpointError(
                    f"{beside} lacks {file}, which another rank has written: hosts that share no file system need "
                    "checkpoints: {url: ...} in the study file"
                )
        (beside / MANIFEST).write_text(json.dumps(manifest))
        _sync(beside / MANIFEST)
        _sync(beside)
        beside.rename(self._path / name)
        (self._path / NOTES).unlink(missing_ok=True)
        _sync(self._path)

    def discard(self, beside: Path) -> None:
        shutil.rmtree(beside, ignore_errors=True)

    def verified(self, name: str) -> Manifest | None:
        return _verified(self._path / name)

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        yield self._path / name

    def remove(self, name: str) -> None:
        path = self._path / name
        # Its manifest goes first: half a checkpoint must not look like a damaged one.
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)

    def attempt_of(self, name: str) -> int:
        return _attempt_in(lambda: (self._path / name / MANIFEST).read_bytes())

    def sweep(self, attempt: int) -> None:
        for left in self._path.glob(f"{TEMPORARY}*"):
            number, dash, _ = left.name.removeprefix(TEMPORARY).partition("-")
            if not (dash and number.isdecimal()) or int(number) <= attempt:
                shutil.rmtree(left, ignore_errors=True)
        for name in self.names():
            if not (self._path / name / MANIFEST).exists():
                shutil.rmtree(self._path / name, ignore_errors=True)

    def note(self, fact: Any) -> None:
        with (self._path / NOTES).open("ab", buffering=0) as notes:
            notes.write(json.dumps(fact).encode() + b"\n")

    def notes(self) -> list[Any]:
        found = []
        with contextlib.suppress(OSError, ValueError):  # the last line may be half a one
            for line in (self._path / NOTES).read_bytes().splitlines():
                found.append(json.loads(line))
        return found

    def sizes(self) -> list[tuple[str, int]]:
        def size(name: str) -> int:
            with contextlib.suppress(OSError):  # it is being removed by its rank
                return sum(file.stat().st_size for file in (self._path / name).iterdir())
            return 0

        return [(name, size(name)) for name in self.names()]

    def label(self, name: str) -> str:
        return str(self._path / name)


class Remote:
    """A URL of fsspec: ``s3://bucket/prefix``, ``gs://``, ``file:///``, ``memory://`` and so on."""

    shared = False

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError, TypeError) as error:
            raise CheckpointError(f"checkpoints.url: {url.partition('://')[0]}:// cannot be used: {error}") from error
        self._root = str(root).rstrip("/")
        self._shown = re.sub(
            r"(?<=://)([^:/?#]*):[^/?#]*@", r"\1:***@", url.rstrip("/")
        )  # it goes into logs and events

    def _all(self) -> dict[str, dict[str, int]]:
        """Checkpoint -> file -> bytes, with and without a manifest."""
        self._fs.invalidate_cache()
        found: dict[str, dict[str, int]] = {}
        with contextlib.suppress(FileNotFoundError):
            for path, facts in self._fs.find(self._root, withdirs=True, detail=True).items():
                name, _, file = str(path)[len(self._root) :].lstrip("/").partition("/")
                if name:
                    found.setdefault(name, {}).update({file: facts["size"]} if file else {})
        return found

    def names(self) -> list[str]:
        return _newest_first(name for name, files in self._all().items() if MANIFEST in files)

    def begin(self, mark: str) -> Path:
        return Path(tempfile.mkdtemp(prefix="hpsearch-checkpoint-"))

    def put(self, beside: Path, name: str, files: Iterable[str]) -> None:
        self._fs.makedirs(f"{self._root}/{name}", exist_ok=True)
        for file in files:
            self._fs.put_file(str(beside / file), f"{self._root}/{name}/{file}")

    def commit(self, beside: Path, name: str, manifest: Manifest) -> None:
        self._fs.pipe_file(f"{self._root}/{name}/{MANIFEST}", json.dumps(manifest).encode())
        self.discard(beside)

    def discard(self, beside: Path) -> None:
        shutil.rmtree(beside, ignore_errors=True)

    def note(self, fact: Any) -> None:
        """Not here: it would be a request to the store at each report."""

    def notes(self) -> list[Any]:
        return []

    def verified(self, name: str) -> Manifest | None:
        try:
            with self.fetched(name) as path:
                return _verified(path)
        except FileNotFoundError:
            return None

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="hpsearch-checkpoint-") as directory:
            for file in self._all().get(name, {}):
                self._fs.get_file(f"{self._root}/{name}/{file}", f"{directory}/{file}")
            yield Path(directory)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}/{MANIFEST}")
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{name}", recursive=True)

    def attempt_of(self, name: str) -> int:
        return _attempt_in(lambda: self._fs.cat_file(f"{self._root}/{name}/{MANIFEST}"))

    def sweep(self, attempt: int) -> None:
        for name, files in self._all().items():
            if MANIFEST not in files:
                self.remove(name)

    def sizes(self) -> list[tuple[str, int]]:
        found = self._all()
        return [(name, sum(found[name].values())) for name in _newest_first(found)]

    def label(self, name: str) -> str:
        return f"{self._shown}/{name}"


def number_of(name: str) -> int:
    """How many saves of the trial came before, and this one."""
    return int(name.partition("-")[0])


def step_of(name: str) -> int:
    """The last step that is done."""
    return int(name.rpartition("-")[2])


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _newest_first(names: Iterable[str]) -> list[str]:
    # Two attempts may have taken one number; then a commit has removed what was at its step or after.
    return sorted(names, key=lambda name: (number_of(name), step_of(name)), reverse=True)


def _verified(path: Path) -> Manifest | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = manifest["files"]
        sound = bool(files) and manifest["step"] >= 0 and all(files[name] == digest(path / name) for name in files)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return dict(manifest) if sound else None


def _attempt_in(read: Callable[[], bytes]) -> int:
    try:
        return int(json.loads(read())["attempt"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
