"""State that is spread over the ranks of a gang, by torch's distributed checkpoints: 4 ranks save, 2 ranks load.

Only tensors go through torch's format. It pickles everything else, and its index: that one is read by an unpickler
that knows torch's own index classes and nothing else.
"""

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.checkpoint.places import digest
from hpsearch.checkpoint.state import SHARDED, Tree, is_sharded
from hpsearch.errors import CheckpointError

if TYPE_CHECKING:
    import torch

INDEX = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},
}  # fmt: skip


def agree(offer: Callable[[], Any]) -> Any:
    """What rank 0 makes of it, on all ranks; CheckpointError on all of them when it fails there."""
    import torch.distributed as dist

    box: list[Any] = [None]
    if dist.get_rank() == 0:
        box[0] = _tried(offer)
    dist.broadcast_object_list(box, src=0)
    return _opened(box[0])


def all_agree(own: Callable[[], Any]) -> list[Any]:
    """What each rank makes of it, by rank; CheckpointError on all of them when it fails on one."""
    import torch.distributed as dist

    boxes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(boxes, _tried(own))
    return [_opened(box) for box in boxes]


def _tried(work: Callable[[], Any]) -> tuple[bool, Any]:
    try:
        return True, work()
    except (OSError, CheckpointError) as error:
        return False, str(error)


def _opened(box: tuple[bool, Any]) -> Any:
    if not box[0]:
        raise CheckpointError(box[1])
    return box[1]


def write_shards(directory: Path, shards: Mapping[str, Any]) -> dict[str, str]:
    """Write this rank's part; returns its files and their SHA-256. Every rank takes part at once."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(dict(shards), storage_writer=FileSystemWriter(directory))
    except CheckpointException as error:
        causes = {rank: f"{failed[0]}" for rank, failed in error.failures.items()}
        raise CheckpointError(f"cannot save a checkpoint in {directory.parent}: {causes}") from error
    rank = dist.get_rank()
    files = list(directory.glob(f"__{rank}_*")) + [directory / ".metadata"] * (rank == 0)
    return {file.name: digest(file) for file in files}


def gather(saved: Tree, state: Mapping[str, Any], directory: Path, label: str) -> Tree:
    """The saved tree with its sharded tensors, cut the way the objects of ``state`` are cut now."""
    import torch
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    for value in state.values():
        if isinstance(value, torch.optim.Optimizer) and not value.state:
            _allocate(value)
    targets = {name: value.state_dict() if hasattr(value, "state_dict") else value for name, value in state.items()}
    wanted: dict[str, Any] = {}
    tree = {name: _match(value, targets[name], wanted, label) for name, value in saved.items()}
    if wanted:
        try:
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # that one process loads alone
                load(wanted, storage_reader=_reader(directory))
        except (CheckpointException, ValueError) as error:
            raise CheckpointError(f"checkpoint {label} does not fit: {' '.join(str(error).split())[:500]}") from error
    return {name: _filled(value, wanted) for name, value in tree.items()}


def _match(saved: Any, target: Any, wanted: "dict[str, torch.Tensor]", label: str) -> Any:
    """Note what to read from the shards, and cut what was saved whole where it is sharded now."""
    if isinstance(saved, str) and saved.startswith(SHARDED):
        if not hasattr(target, "detach"):
            raise CheckpointError(f"checkpoint {label} has a tensor at {saved[len(SHARDED) :]}: nothing takes it now")
        wanted[saved[len(SHARDED) :]] = target.detach().clone()
        return saved
    if isinstance(saved, dict) and isinstance(target, dict):
        for key in saved:
            saved[key] = _match(saved[key], target.get(key), wanted, label)
        return saved
    if isinstance(saved, list | tuple) and isinstance(target, list | tuple) and len(saved) == len(target):
        return type(saved)(_match(one, other, wanted, label) for one, other in zip(saved, target, strict=True))
    if hasattr(saved, "detach") and is_sharded(target):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(saved, target.device_mesh, target.placements, src_data_rank=None)
    return saved


def _filled(value: Any, tensors: "Mapping[str, torch.Tensor]") -> Any:
    if isinstance(value, str) and value.startswith(SHARDED):
        return tensors[value[len(SHARDED) :]]
    if isinstance(value, dict):
        for key in value:
            value[key] = _filled(value[key], tensors)
        return value
    if isinstance(value, list | tuple):
        return type(value)(_filled(inner, tensors) for inner in value)
    return value


def _allocate(optimizer: "torch.optim.Optimizer") -> None:
    """A fresh optimizer has no tensors to read into: a step of length zero makes them, as torch's own helper does."""
    import torch

    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group["lr"], torch.Tensor) else 0.0
        for parameter in group["params"]:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        import torch

        if name in INDEX.get(module, ()) or (module == "torch" and isinstance(getattr(torch, name), torch.dtype)):
            return super().find_class(module, name)
        raise CheckpointError(f"the index of a checkpoint names {module}.{name}, which does not belong there")


def _reader(directory: Path) -> Any:
    """As torch's, but its index runs no code."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
            with (directory / ".metadata").open("rb") as file:
                metadata: Metadata = _IndexUnpickler(file).load()
            metadata.storage_meta = metadata.storage_meta or StorageMeta()
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return Reader(directory)
