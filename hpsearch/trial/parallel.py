"""Data-parallel training in a gang of ranks. Imported only by jobs that ask for it."""

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def join(device: "torch.device", timeout_s: float) -> None:
    """Initialise the default process group from the environment, unless the job has done so: NCCL on GPUs, else gloo.

    Args:
        timeout_s: of one collective.
    """
    import torch
    import torch.distributed as dist

    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), device_id=device if on_gpu else None)


def wrap(model: "torch.nn.Module", device: "torch.device") -> "torch.nn.Module":
    """The model on its device, in DistributedDataParallel if anything in it learns."""
    from torch.nn.parallel import DistributedDataParallel

    if not any(parameter.requires_grad for parameter in model.parameters()):
        return model.to(device)
    return DistributedDataParallel(model.to(device), device_ids=[device] if device.type == "cuda" else None)
