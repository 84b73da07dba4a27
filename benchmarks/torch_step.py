"""One optimizer step, as small as it gets, and nothing imported but torch."""

import torch
from torch import nn


def optimizer_step() -> None:
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.zeros(8, 64)).square().mean().backward()
    optimizer.step()
