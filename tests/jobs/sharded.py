"""A gang on gloo with FSDP2, run by hand as ``python sharded.py save|load|load_plain DIRECTORY RANK WORLD_SIZE``.

The state after two steps of Adam is a function of the seed alone, so that any gang can tell whether it got it back.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from hpsearch.checkpoint import Checkpoints, open_place


def build(seed: int, sharded: bool) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 3))
    if sharded:
        fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def trained(sharded: bool) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model, optimizer = build(0, sharded)
    for step in range(2):
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        model(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def whole(value: object) -> object:
    """The same state with every tensor in one piece."""
    if isinstance(value, dict):
        return {key: whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [whole(inner) for inner in value]
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def main(action: str, directory: str, at: str, rank: int, world_size: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{directory}/{action}", rank=rank, world_size=world_size)
    checkpoints = Checkpoints(place=open_place(at), rank=rank, world_size=world_size, reported_through=99)
    if action.startswith("save"):
        model, optimizer = trained(sharded=action == "save")
        for step in range(3):
            checkpoints.save({"model": model, "optimizer": optimizer, "step": step}, step)
    else:
        model, optimizer = build(1, sharded=True)
        state = {"model": model, "optimizer": optimizer, "step": -1}
        assert checkpoints.load(state).next_step == 3
        assert state["step"] == 2
        expected_model, expected_optimizer = trained(sharded=True)
        torch.testing.assert_close(whole(model.state_dict()), whole(expected_model.state_dict()))
        torch.testing.assert_close(whole(optimizer.state_dict()), whole(expected_optimizer.state_dict()))
        assert type(model[0].weight).__name__ == "DTensor"
        Path(directory, f"{action}-{rank}.done").touch()
    dist.barrier()


if __name__ == "__main__":
    import os

    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    sys.stdout.flush()
    os._exit(0)  # the destructor of the group may deadlock
