"""Writes study files for tests and collects what is wrong with them."""

from pathlib import Path

import pytest

from hpsearch.errors import StudyFileError
from hpsearch.spec import StudySpec, load_study

BASE = """\
objective: train.py:train
metric: {name: accuracy, goal: maximize}
budget: {trials: 10}
"""
TRAIN = """\
def train(trial):
    return 1.0


async def later(trial):
    return 1.0


class Sampler:
    pass
"""


def problems(text: str | bytes, *overrides: str) -> list[str]:
    """The lines that a person sees, each checked to be one."""
    Path("study.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyFileError) as raised:
        load_study("study.yaml", overrides)
    lines = str(raised.value).split("\n")
    assert len(lines) == len(raised.value.problems), "a problem took more than a line"
    assert all(line.isprintable() and len(line) < 500 for line in lines)
    return lines


def loaded(added: str, *overrides: str, base: str = BASE, **more: object) -> StudySpec:
    """The study of a file that holds ``base`` and what is added to it."""
    Path("train.py").write_text(TRAIN)
    Path("study.yaml").write_text(f"{base}{added}\n")
    return load_study("study.yaml", overrides, **more)  # type: ignore[arg-type]
