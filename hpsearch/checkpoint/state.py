"""The state itself: plain values and tensors to files and back. Loading runs no code.

JSON if JSON gives it back exactly, otherwise a torch file that is read with ``weights_only=True``. Tensors that are
spread over the ranks (DTensor: FSDP2, tensor parallel) go beside it in torch's distributed format, which reshards.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from hpsearch.errors import CheckpointError

SCALARS: tuple[Any, ...] = (str, bytes, bool, int, float, complex)  # NumPy has subclasses of some
SHARDED = "hpsearch:sharded:"  # stands in the tree for a tensor that lies in the shards, with its key

Tree = dict[str, Any]


def plain_state(state: Mapping[str, Any]) -> tuple[Tree, dict[str, Any]]:
    """The state with nothing in it that loading would need code for, and its sharded tensors by their keys.

    Raises:
        CheckpointError: something in it cannot be kept.
    """
    shards: dict[str, Any] = {}
    tree = {str(name): _plain(_state_of(value), str(name), shards) for name, value in state.items()}
    return tree, shards


def _state_of(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


def _plain(value: Any, where: str, shards: dict[str, Any]) -> Any:
    """The same value without classes of the user's; NumPy's scalars become Python's."""
    if value is None:
        return None
    for kind in SCALARS:
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, dict):
        entries = {key: _plain(inner, f"{where}[{key!r}]", shards) for key, inner in value.items()}
        if not isinstance(value, OrderedDict):
            return entries
        ordered = OrderedDict(entries)
        ordered.__dict__.update(vars(value))  # a module's state_dict carries its versions here
        return ordered
    if type(value) in {list, tuple, set}:
        return type(value)(_plain(inner, f"{where}[{index}]", shards) for index, inner in enumerate(value))
    library = type(value).__module__.partition(".")[0]
    if library == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    if is_sharded(value):
        shards[where] = value
        return SHARDED + where
    if library == "torch":  # tensors, sizes, dtypes, devices
        return value
    raise CheckpointError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint cannot keep: "
        "give a tensor, a plain value, or an object with state_dict()"
    )


def is_sharded(value: Any) -> bool:
    """Whether each rank holds a part of this tensor; asked without importing torch."""
    return type(value).__name__ == "DTensor" and hasattr(value, "device_mesh")


def write_tree(directory: Path, tree: Tree) -> str:
    """Write the tree; returns the file's name. CheckpointError, OSError: the disk refuses."""
    text = _as_json(tree)
    if text is not None:
        (directory / "state.json").write_text(text)
        return "state.json"
    import torch

    try:
        torch.save(tree, directory / "state.pt")
    except (RuntimeError, TypeError) as error:  # a full disk, among others
        raise CheckpointError(f"cannot save a checkpoint in {directory.parent}: {error}") from error
    return "state.pt"


def _as_json(tree: Tree) -> str | None:
    """None if JSON would give back something else."""

    def exact(value: Any) -> bool:
        if isinstance(value, dict):
            return type(value) is dict and all(isinstance(k, str) and exact(inner) for k, inner in value.items())
        if isinstance(value, list):
            return all(map(exact, value))
        return value is None or type(value) in {bool, int, float, str}

    return json.dumps(tree) if exact(tree) else None


def read_tree(directory: Path) -> Tree:
    """What :func:`write_tree` wrote."""
    if (directory / "state.json").exists():
        return dict(json.loads((directory / "state.json").read_text()))
    import torch

    return dict(torch.load(directory / "state.pt", map_location="cpu", weights_only=True))


def restore(state: MutableMapping[str, Any], directory: Path, label: str) -> None:
    """Fill the state from a checkpoint's files.

    Raises:
        CheckpointError: it was saved of other objects.
    """
    saved = read_tree(directory)
    if saved.keys() != state.keys():
        raise CheckpointError(f"checkpoint {label} holds {sorted(saved)}, not {sorted(state)}")
    sharded = (directory / ".metadata").exists()
    if sharded or any(is_sharded(leaf) for name in state for leaf in _leaves(_state_of(state[name]))):
        from hpsearch.checkpoint.sharded import gather

        saved = gather(saved, state, directory, label)
    for name, value in saved.items():
        try:
            if hasattr(state[name], "load_state_dict"):
                state[name].load_state_dict(value)
            else:
                state[name] = value
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            said = " ".join(str(error).split())
            raise CheckpointError(f"checkpoint {label} does not fit {name!r}: {said}") from error


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    if isinstance(value, list | tuple):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [value]
