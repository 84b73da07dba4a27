"""A study's settings in words, for ``validate`` and ``--dry-run``."""

from typing import TYPE_CHECKING

from hpsearch.console.words import count, one_line

if TYPE_CHECKING:
    from hpsearch.spec import StudySpec


def in_short(spec: "StudySpec") -> str:
    """``study 'digits': 60 trials of digits.py:train, 5 parameters, tpe, asha(...)``."""
    from hpsearch.spec.units import duration_words

    budget = [count(spec.budget.trials, "trial")] if spec.budget.trials is not None else []
    if spec.budget.time_s is not None:
        budget.append(duration_words(spec.budget.time_s))
    n = len(spec.parameters.declared)
    space = count(n, "parameter") if n else "parameters suggested by the objective"
    goals = ", ".join(f"{metric.goal} {metric.name}" for metric in spec.metrics)
    parts = [" or ".join(budget), f"of {spec.objective.label}", f"to {goals}"]
    return f"study {spec.name!r}: {' '.join(parts)}; {space}; {spec.sampler}, {spec.pruner}"


def explained(spec: "StudySpec") -> list[str]:
    """One line a setting: key, value, and where the value came from."""
    from hpsearch.spec import explain

    rows = [(key, one_line(value), one_line(origin)) for key, value, origin in explain(spec)]
    keys = max((len(key) for key, _, _ in rows), default=0)
    values = min(max((len(value) for _, value, _ in rows), default=0), 40)
    return [f"{key:<{keys}}  {value:<{values}}  {origin}" for key, value, origin in rows]
