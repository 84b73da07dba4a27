"""The training job of the standard run. Its metric is a function of parameters, seed and step alone.

The value of a step is made of the state of the step before, which travels in the checkpoint: a job that was resumed
from a wrong one reports wrong numbers from then on.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from harness.oplog import OpLog


def value_of(state: str) -> float:
    """The metric, in [0, 1), of the state after a step."""
    return int(state[:12], 16) / 16**12


def advance(state: str, params: Mapping[str, Any], step: int) -> str:
    """The state after ``step``."""
    text = f"{state} {params['seed']} {params['x']!r} {params['kind']} {step}"
    return hashlib.sha256(text.encode()).hexdigest()


def oracle(params: Mapping[str, Any], n_steps: int) -> Iterator[float]:
    """What a job with these parameters has to report, step by step."""
    state = ""
    for step in range(n_steps):
        state = advance(state, params, step)
        yield value_of(state)


def train(trial: Any) -> float:
    """Reports and saves after each epoch; ``save_first`` says in which order."""
    params = trial.params
    log = OpLog(params["log"])
    said = {"trial": trial.number, "attempt": trial.attempt}
    state: dict[str, Any] = {"chain": ""}
    for step in range(trial.load(state), params["epochs"]):
        log.say("epoch", "begun", **said, step=step)
        time.sleep(params["epoch_s"])
        while os.path.exists(params["hold"]):  # a test that is not ready yet
            time.sleep(0.01)
        state["chain"] = advance(state["chain"], params, step)
        if params["save_first"]:
            trial.save(state, step=step)
        log.say("report", "invoked", **said, step=step, value=value_of(state["chain"]))
        trial.report(value_of(state["chain"]), step, twice=2 * value_of(state["chain"]))
        if not params["save_first"]:
            trial.save(state, step=step)
    return value_of(state["chain"])
