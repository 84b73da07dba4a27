"""Data-parallel training on gloo, taken down in the order in which torch 2.13 deadlocks."""

import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset


def train(trial):
    for turn in range(trial.params["turns"]):
        init_process_group(
            "gloo", init_method=f"file://{trial.params['meeting']}{turn}", rank=trial.rank, world_size=trial.world_size
        )
        model = DistributedDataParallel(torch.nn.Linear(4, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            model(torch.randn(8, 4)).sum().backward()
            optimizer.step()
        destroy_process_group()
        del model  # its destructor joins a thread of the group, if this was the last reference
    loaded = list(DataLoader(TensorDataset(torch.arange(8.0)), batch_size=2, num_workers=2))
    return float(sum(batch.sum() for (batch,) in loaded))
