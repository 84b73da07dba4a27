"""What all benchmarks share: figures with their bars, and the paths of this environment's programs."""

import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import hpsearch

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
HPSEARCH = str(Path(sys.executable).parent / "hpsearch")


@dataclass(frozen=True)
class Figure:
    """One measured number; ``bar`` is the most (or, with ``at_least``, the least) it should be, if there is one."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    at_least: bool = False

    @property
    def meets_bar(self) -> bool | None:
        if self.bar is None:
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def __str__(self) -> str:
        line = f"  {self.name:<66} {self.value:>9.3f} {self.unit}"
        if self.bar is None:
            return line
        return f"{line:<90} bar {'>=' if self.at_least else '<='} {self.bar:.3f}: {'yes' if self.meets_bar else 'NO'}"


def show(benchmark: str, figures: Sequence[Figure]) -> None:
    """Lines for people, then one JSON object on a line of its own."""
    print(benchmark)
    for figure in figures:
        print(figure)
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "hpsearch": hpsearch.__version__,
        **{name: version(name) for name in ("optuna", "distributed", "torch")},
    }
    rows = [{**asdict(figure), "meets_bar": figure.meets_bar} for figure in figures]
    print(json.dumps({"benchmark": benchmark, "machine": machine, "figures": rows}), flush=True)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank: a value that was really measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
