"""Classify spiral points with a small network, on as many processes as torchrun starts.

By hand, alone or on two processes:

    python trials/torchrun_script.py --epochs 5
    torchrun --nproc-per-node 2 trials/torchrun_script.py --epochs 5
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate of SGD")
    parser.add_argument("--width", type=int, default=32, help="units of each hidden layer")
    parser.add_argument("--batch-size", type=int, default=64, help="examples of one process in a step")
    parser.add_argument("--epochs", type=int, default=5)
    return parser.parse_args()


def spirals(n: int, seed: int) -> TensorDataset:
    """Points of two arms that turn around each other, float (n, 2), and the arm of each, int (n,)."""
    generator = torch.Generator().manual_seed(seed)
    arm = torch.randint(0, 2, (n,), generator=generator)
    turn = torch.rand(n, generator=generator)
    angle = 6.0 * turn + torch.pi * arm
    points = torch.stack([turn * angle.cos(), turn * angle.sin()], dim=1)
    return TensorDataset(points + 0.02 * torch.randn(n, 2, generator=generator), arm)


def train(args: argparse.Namespace, distributed: bool) -> None:
    rank = dist.get_rank() if distributed else 0
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    n_gpus = torch.cuda.device_count()
    device = torch.device("cuda", local_rank % n_gpus) if n_gpus else torch.device("cpu")

    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Linear(2, args.width), nn.Tanh(), nn.Linear(args.width, args.width), nn.Tanh(), nn.Linear(args.width, 2)
    ).to(device)
    if distributed:
        model = DistributedDataParallel(model)

    train, held_out = spirals(1024, seed=1), spirals(512, seed=2)
    sampler = DistributedSampler(train) if distributed else None
    loader = DataLoader(train, batch_size=args.batch_size, sampler=sampler, shuffle=sampler is None)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    loss_of = nn.CrossEntropyLoss()

    for epoch in range(args.epochs):
        if sampler is not None:
            sampler.set_epoch(epoch)
        for points, arm in loader:
            optimizer.zero_grad()
            loss_of(model(points.to(device)), arm.to(device)).backward()
            optimizer.step()
        with torch.no_grad():
            points, arm = (tensor.to(device) for tensor in held_out.tensors)
            loss = loss_of(model(points), arm).item()
        if rank == 0:
            print(f"epoch={epoch} val_loss={loss:.4f}")


def main() -> None:
    args = parse()
    distributed = "RANK" in os.environ
    if distributed:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    train(args, distributed)  # model and optimizer are gone before the process group is (pytorch issue 56297)
    if distributed:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
