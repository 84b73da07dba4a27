"""Whether sampler, pruner, metrics and space go together; Optuna would find out in the middle of the study."""

import math
from typing import TYPE_CHECKING, Any

from hpsearch.spec.model import Component

if TYPE_CHECKING:
    from hpsearch.space import Parameter, Space

MAX_GRID = 1_000_000


def grid_of(space: "Space") -> dict[str, list[Any]]:
    """Every value of every parameter, for a grid. Raises ValueError for a parameter that has no finite number."""
    if not space.declared:
        raise ValueError("grid needs parameters, or a search_space of its own")
    counts = {parameter.name: _n_values(parameter) for parameter in space}
    for name, count in counts.items():
        if count is None:
            raise ValueError(f"grid needs a step for the parameter {name}, or a list of its values")
    check_grid_size(math.prod(count or 1 for count in counts.values()))
    return {parameter.name: _values(parameter) for parameter in space}


def check_grid_size(n_points: int) -> None:
    """Raises ValueError for a grid that nobody could walk, and that Optuna would build in memory."""
    if n_points > MAX_GRID:
        raise ValueError(f"a grid of {n_points:.3g} points: at most {MAX_GRID}")


def wrong_sampler(sampler: Component, space: "Space", n_metrics: int) -> str | None:
    """Why this sampler can't propose for this study, or None."""
    if sampler.name == "grid" and "search_space" not in sampler.arguments:
        try:
            grid_of(space)
        except ValueError as error:
            return str(error)
    if sampler.name == "brute_force":
        endless = [parameter.name for parameter in space if _n_values(parameter) is None]
        if endless:
            return f"brute_force needs a step for the parameter {endless[0]}, or a list of its values"
    if sampler.name == "cmaes" and n_metrics > 1:
        return "cmaes works with one metric only"
    return None


def wrong_pruner(pruner: Component, n_metrics: int) -> str | None:
    """Why this pruner can't judge trials of this study, or None."""
    if n_metrics > 1 and pruner.name != "none":
        return "trials of a study with several metrics cannot be pruned: write pruner: none"
    return None


def _n_values(parameter: "Parameter") -> int | None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match parameter.distribution:
        case CategoricalDistribution(choices=choices):
            return len(choices)
        case IntDistribution(low=low, high=high, step=step):
            return (high - low) // step + 1
        case FloatDistribution(low=low, high=high, step=step):
            if low == high:
                return 1
            return None if step is None else round((high - low) / step) + 1
        case _:
            return None


def _values(parameter: "Parameter") -> list[Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match parameter.distribution:
        case CategoricalDistribution(choices=choices):
            return list(choices)
        case IntDistribution(low=low, high=high, step=step):
            return list(range(low, high + 1, step))
        case FloatDistribution(low=low, high=high, step=step):
            n = _n_values(parameter) or 1
            return [min(high, low + index * (step or 0.0)) for index in range(n)]
        case _:
            return []
