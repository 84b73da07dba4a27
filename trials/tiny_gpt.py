"""Train a small GPT to write the documentation of Python's standard library, one character at a time.

The text is what is installed anyway: the docstrings of some fifty modules, half a million characters.
Searched by ``hpsearch run studies/tiny_gpt.yaml``; once, by hand: ``python trials/tiny_gpt.py``.
"""

import ast
import contextlib
import math
import sysconfig
from functools import cache
from pathlib import Path

import optuna
import torch
from torch import nn
from torch.nn import functional as F

import hpsearch

N_MODULES = 60


@cache
def load_data() -> tuple[torch.Tensor, torch.Tensor, int]:
    """Characters as numbers: 9 in 10 to train on, the rest to validate with; and how many kinds there are."""
    docs = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))[:N_MODULES]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (doc := ast.get_docstring(node)):
                docs.append(doc)
    text = "\n\n".join(docs).encode("ascii", "replace")
    kinds = sorted(set(text))
    numbers = torch.tensor([kinds.index(sign) for sign in text])
    n_train = len(numbers) * 9 // 10
    return numbers[:n_train], numbers[n_train:], len(kinds)


class Block(nn.Module):
    """Attention to what came before, then a perceptron; each adds to what it was given."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, length, width)
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, length, 3, self.n_heads, width // self.n_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, head, length, width of a head)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.out(seen.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class GPT(nn.Module):
    def __init__(self, n_kinds: int, length: int, width: int, depth: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.kind, self.place = nn.Embedding(n_kinds, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, n_heads, dropout) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_kinds, bias=False)
        self.head.weight = self.kind.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, signs: torch.Tensor) -> torch.Tensor:  # (batch, length) -> (batch, length, kind)
        places = torch.arange(signs.shape[1], device=signs.device)
        return self.head(self.norm(self.blocks(self.kind(signs) + self.place(places))))


def batch_of(data: torch.Tensor, size: int, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pieces of the text and the same one character later, (size, length) each; the same ones for the same seed."""
    starts = torch.randint(len(data) - length, (size, 1), generator=torch.Generator().manual_seed(seed))
    at = starts + torch.arange(length)
    return data[at], data[at + 1]


def train(trial: hpsearch.Trial) -> float:
    """Validation loss, in nats a character."""
    params, device = trial.params, trial.device
    length, size = params["length"], params["batch_size"]
    train_text, valid_text, n_kinds = load_data()
    torch.manual_seed(trial.number)  # the weights a trial begins with, the same on every rank
    model = GPT(n_kinds, length, params["width"], params["depth"], params["n_heads"], params["dropout"])
    ddp = trial.wrap(model)  # on this rank's device; with several ranks they train it together
    optimizer = torch.optim.AdamW(model.parameters(), lr=params["lr"], weight_decay=params["weight_decay"])
    n_steps = params["rounds"] * params["steps_a_round"]
    n_warm = max(1, n_steps // 20)

    def rate(step: int) -> float:
        """Of the learning rate: up in a line, down along a cosine."""
        return (step + 1) / n_warm if step < n_warm else 0.5 + 0.5 * math.cos(math.pi * step / n_steps)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    half = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()

    @torch.no_grad()
    def evaluate() -> float:
        model.eval()
        losses = []
        for seed in range(4):
            signs, following = (part.to(device) for part in batch_of(valid_text, 64, length, seed))
            with half:
                losses.append(F.cross_entropy(model(signs).flatten(0, 1).float(), following.flatten()).item())
        model.train()
        return sum(losses) / len(losses)

    state = {"model": model, "optimizer": optimizer, "schedule": schedule}
    start = trial.load(state)  # 0, or where an attempt died
    for done in range(start, params["rounds"]):
        for step in range(done * params["steps_a_round"], (done + 1) * params["steps_a_round"]):
            seed = step * trial.world_size + trial.rank  # each rank reads pieces of its own
            signs, following = (part.to(device) for part in batch_of(train_text, size, length, seed))
            with half:
                loss = F.cross_entropy(ddp(signs).flatten(0, 1).float(), following.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()

        trial.save(state, step=done)
        trial.report(evaluate(), step=done, train_loss=loss.item())
        if trial.should_prune():
            raise optuna.TrialPruned
    return evaluate()


if __name__ == "__main__":
    shape = {"length": 64, "width": 64, "depth": 2, "n_heads": 4, "dropout": 0.0}
    pace = {"lr": 3e-3, "weight_decay": 0.1, "batch_size": 16, "rounds": 8, "steps_a_round": 40}
    print("loss", train(hpsearch.current(**shape, **pace)))
