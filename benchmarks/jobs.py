"""Objectives that measure themselves. Each is run by hpsearch as ``benchmarks/jobs.py:function``."""

import time

from torch_step import optimizer_step

import hpsearch


def start(trial: hpsearch.Trial) -> float:
    """When its first line ran and when its first optimizer step was done, as user attributes (ns of the unix clock)."""
    first_line_ns = time.time_ns()
    optimizer_step()
    trial.set_user_attr("step_done_ns", time.time_ns())
    trial.set_user_attr("first_line_ns", first_line_ns)
    return 0.0


def ask_verdicts(trial: hpsearch.Trial) -> float:
    """100 reports that each wait for their verdict; how long each took, seconds, as a user attribute."""
    waits_s = []
    for step in range(100):
        began = time.perf_counter()
        trial.report(0.5, step=step)
        trial.should_prune()
        waits_s.append(time.perf_counter() - began)
    trial.set_user_attr("waits_s", waits_s)
    return 0.5


def declared(trial: hpsearch.Trial) -> float:
    """As ``nothing``, with the parameters named in the study: they come with the trial."""
    return float(sum(trial.params[name] for name in "abcde"))


def nothing(trial: hpsearch.Trial) -> float:
    """Five parameters, no work."""
    return sum(trial.suggest_float(name, 0, 1) for name in "abcde")
