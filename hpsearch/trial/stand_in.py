"""The trial of a script that runs by itself."""

import datetime
import math
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpsearch.trial.searched import Trial


class StandIn(Trial):
    """The trial of a script that no search runs: middle values, printed reports, no pruning, no checkpoints."""

    def __init__(self, defaults: Mapping[str, Any]) -> None:
        assignment = {
            "study": "none", "trial": 0, "attempt": 1, "rank": 0, "local_rank": 0, "world_size": 1, "seed": None,
            "params": defaults, "distributions": {}, "user_attrs": {}, "directory": ".", "directions": ["minimize"],
            "next_decision_step": None, "datetime_start": datetime.datetime.now().isoformat(),
        }  # fmt: skip
        super().__init__(assignment, None)

    def _ask(self, name: str, distribution: BaseDistribution) -> Any:
        return _middle(distribution)

    def report(self, value: float, step: int, **more_metrics: float) -> None:
        """Print it."""
        super().report(value, step, **more_metrics)
        more = "".join(f" {name}={metric:g}" for name, metric in more_metrics.items())
        sys.stdout.write(f"step {step}: {value:g}{more}\n")

    def save(self, state: Mapping[str, Any], step: int) -> None:
        """Nothing: there is no trial to keep it with."""

    def load(self, state: MutableMapping[str, Any]) -> int:
        """Always a fresh start: 0."""
        return 0


def _middle(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    middle = math.sqrt(low * high) if distribution.log else (low + high) / 2
    if distribution.step and not distribution.log:
        middle = low + distribution.step * ((high - low) / distribution.step // 2)
    return round(middle) if isinstance(distribution, IntDistribution) else middle
