"""Saved training state of a trial: written beside, synced, verified, renamed; the last two are kept.

A checkpoint is a directory ``NNNNNN-step-S`` with the state and, written last, a manifest with its SHA-256. The number
in front counts saves, so that a trial which begins again at step 0 is not taken for an older one. The state is JSON if
JSON gives it back exactly, otherwise a torch file that is read with ``weights_only=True``: loading runs no code.

States of random number generators are not saved: a resumed run draws other numbers than an undisturbed one would have.
Whoever needs the same ones saves ``torch.get_rng_state()`` as a tensor of the state.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from hpsearch.errors import CheckpointError

KEPT = 2
TEMPORARY = ".tmp-"
MANIFEST = "manifest.json"
SCALARS: tuple[Any, ...] = (str, bytes, bool, int, float, complex)  # NumPy has subclasses of some

logger = logging.getLogger(__name__)


def save(directory: Path, state: Mapping[str, Any], step: int) -> Path:
    """Write a checkpoint and forget the oldest.

    Args:
        directory: of this trial's checkpoints; made if need be. One process at a time may write to it.
        state: objects with ``state_dict()`` or plain values, by name.
        step: the last step that is done, >= 0.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: the state cannot be kept, or the disk refuses.
    """
    plain = {str(name): _plain(_state_of(value), str(name)) for name, value in state.items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob(f"{TEMPORARY}*"):  # by one that was killed while it saved
            shutil.rmtree(left)
        beside = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=directory))
        try:
            name = _write_state(beside, plain)
            manifest = {"step": int(step), "file": name, "sha256": _digest(beside / name)}
            (beside / MANIFEST).write_text(json.dumps(manifest))
            _sync(beside / MANIFEST)
            _sync(beside)
            earlier = _found(directory)
            number = int(earlier[0].name.partition("-")[0]) + 1 if earlier else 1
            final = directory / f"{number:06d}-step-{step}"
            beside.rename(final)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        _sync(directory)
        for old in earlier[KEPT - 1 :]:
            shutil.rmtree(old)
    except OSError as error:
        raise CheckpointError(f"cannot save a checkpoint in {directory}: {error.strerror or error}") from error
    return final


def load(directory: Path, state: MutableMapping[str, Any], *, repair: bool = True) -> int:
    """Restore the last checkpoint that verifies.

    Args:
        directory: of this trial's checkpoints.
        state: objects with ``load_state_dict()`` are changed in place, entries with plain values are replaced.
        repair: remove damaged checkpoints, so that they are not counted among the ones to keep.

    Returns:
        The next step to run; 0 if there is no checkpoint that can be used.

    Raises:
        CheckpointError: the checkpoint is sound, but was saved of other objects.
    """
    for path in _found(directory):
        manifest = _verified(path)
        if manifest is None:
            logger.warning("checkpoint %s is damaged: using the one before it", path)
            if repair:
                shutil.rmtree(path, ignore_errors=True)
            continue
        saved = _read_state(path / manifest["file"])
        if saved.keys() != state.keys():
            raise CheckpointError(f"checkpoint {path} holds {sorted(saved)}, not {sorted(state)}")
        for name, value in saved.items():
            try:
                _restore(state, name, value)
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                said = " ".join(str(error).split())
                raise CheckpointError(f"checkpoint {path} does not fit {name!r}: {said}") from error
        return int(manifest["step"]) + 1
    return 0


def _state_of(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


def _restore(state: MutableMapping[str, Any], name: str, value: Any) -> None:
    if hasattr(state[name], "load_state_dict"):
        state[name].load_state_dict(value)
    else:
        state[name] = value


def _plain(value: Any, where: str) -> Any:
    """The same value with nothing in it that loading would need code for; NumPy's scalars become Python's."""
    if value is None:
        return None
    for kind in SCALARS:
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, dict):
        entries = {key: _plain(inner, f"{where}[{key!r}]") for key, inner in value.items()}
        if not isinstance(value, OrderedDict):
            return entries
        ordered = OrderedDict(entries)
        ordered.__dict__.update(vars(value))  # a module's state_dict carries its versions here
        return ordered
    if type(value) in {list, tuple, set}:
        return type(value)(_plain(inner, f"{where}[{index}]") for index, inner in enumerate(value))
    library = type(value).__module__.partition(".")[0]
    if library == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    if library == "torch":  # tensors, sizes, dtypes, devices
        return value
    raise CheckpointError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint cannot keep: "
        "give a tensor, a plain value, or an object with state_dict()"
    )


def _write_state(directory: Path, plain: Mapping[str, Any]) -> str:
    text = _as_json(plain)
    if text is not None:
        name = "state.json"
        (directory / name).write_text(text)
    else:
        import torch

        name = "state.pt"
        try:
            torch.save(plain, directory / name)
        except (RuntimeError, TypeError) as error:  # a full disk, among others
            raise CheckpointError(f"cannot save a checkpoint in {directory.parent}: {error}") from error
    _sync(directory / name)
    return name


def _as_json(plain: Mapping[str, Any]) -> str | None:
    """None if JSON would give back something else."""

    def exact(value: Any) -> bool:
        if isinstance(value, dict):
            return type(value) is dict and all(isinstance(k, str) and exact(inner) for k, inner in value.items())
        if isinstance(value, list):
            return all(map(exact, value))
        return value is None or type(value) in {bool, int, float, str}

    return json.dumps(plain) if exact(plain) else None


def _read_state(file: Path) -> dict[str, Any]:
    if file.suffix == ".json":
        return dict(json.loads(file.read_text()))
    import torch

    return dict(torch.load(file, map_location="cpu", weights_only=True))


def _found(directory: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted(directory.glob("[0-9]*-step-*"), key=lambda path: int(path.name.partition("-")[0]), reverse=True)


def _verified(path: Path) -> dict[str, Any] | None:
    """The manifest, if the state is what it says."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        sound = manifest["sha256"] == _digest(path / manifest["file"]) and manifest["step"] >= 0
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(manifest) if sound else None


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
