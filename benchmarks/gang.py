"""What a gang of two ranks costs: against torchrun on the same script, and against Optuna's TorchDistributedTrial.

In turns, on one machine and in one run; gloo on CPUs. TorchDistributedTrial needs
``pip install --no-deps optuna-integration``.

python benchmarks/gang.py [rounds]
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from figures import PYTHON, ROOT, Figure, median, percentile, show
from local_run import run_job

RANKS = 2
MAX_STEP_RATIO, MAX_START_RATIO, MIN_PRUNE_RATIO = 1.03, 1.1, 10.0
WARM = 20  # first steps that are left out


def torchrun(*arguments: str) -> tuple[int, dict[str, Any]]:
    """When it was started (ns), and what rank 0 printed."""
    command = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    began_ns = time.time_ns()
    done = subprocess.run(
        [*command, str(ROOT / "benchmarks/ddp_steps.py"), *arguments],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    return began_ns, json.loads(done.stdout.splitlines()[-1])


def compare_steps(rounds: int) -> list[Figure]:
    steps: dict[str, list[float]] = {"torchrun": [], "hpsearch": []}
    starts: dict[str, list[float]] = {"torchrun": [], "hpsearch": []}
    cpu: dict[str, list[float]] = {"torchrun": [], "hpsearch": []}  # does not depend on who else is on the machine
    for _ in range(rounds):
        began_ns, times = torchrun()
        steps["torchrun"].append(median(times["steps_s"][WARM:]))
        cpu["torchrun"].append(times["cpu_s"])
        starts["torchrun"].append((times["step_done_ns"] - began_ns) / 1e9)
        # The first trial waits for the launcher's imports; a search pays that once.
        for trial in run_job("train", "ddp_steps.py", trials=2, slots=RANKS, **{"resources.ranks": RANKS})[1:]:
            steps["hpsearch"].append(median(trial.user_attrs["steps_s"][WARM:]))
            cpu["hpsearch"].append(trial.user_attrs["cpu_s"])
            starts["hpsearch"].append(trial.user_attrs["step_done_ns"] / 1e9 - trial.attempt.started)
    plain, ours = 1e3 * median(steps["torchrun"]), 1e3 * median(steps["hpsearch"])
    plain_cpu, our_cpu = 1e3 * median(cpu["torchrun"]), 1e3 * median(cpu["hpsearch"])
    cold, warm = median(starts["torchrun"]), median(starts["hpsearch"])
    return [
        Figure("torchrun, 2 ranks, a DDP step", plain, "ms"),
        Figure("hpsearch, the same script", ours, "ms", bar=MAX_STEP_RATIO * plain),
        Figure("torchrun, CPU time of a step", plain_cpu, "ms"),
        Figure("hpsearch, the same", our_cpu, "ms", bar=MAX_STEP_RATIO * plain_cpu),
        Figure("torchrun, start to the end of the first step", cold, "s"),
        Figure("hpsearch, launch to the end of the first step", warm, "s", bar=MAX_START_RATIO * cold),
    ]


def compare_pruning() -> list[Figure]:
    def waits(function: str, pruner: str) -> list[float]:
        changes = {"resources.ranks": RANKS, "pruner": pruner}
        found = run_job(function, trials=3, slots=RANKS, **changes)
        return [1e3 * wait for trial in found for wait in trial.user_attrs["waits_s"][10:]]

    decided, between = waits("ask_verdicts", "{threshold: {upper: 1.0}}"), waits("ask_verdicts", "none")
    figures = [
        Figure("hpsearch, report and should_prune, a decision at every step, p50", median(decided), "ms"),
        Figure("the same, p99", percentile(decided, 99), "ms"),
        Figure("hpsearch, between decisions, p50", median(between), "ms"),
    ]
    if importlib.util.find_spec("optuna_integration") is None:
        print("TorchDistributedTrial: not measured, optuna-integration is not installed")
        return figures
    with tempfile.TemporaryDirectory() as directory:
        stored = torchrun("--optuna", f"sqlite:///{directory}/study.db")[1]["waits_s"]
    memory = torchrun("--optuna", "")[1]["waits_s"]
    in_database, in_memory = 1e3 * median(stored[10:]), 1e3 * median(memory[10:])
    ratio = in_database / median(decided)
    return [
        *figures,
        Figure("TorchDistributedTrial, SQLite, p50", in_database, "ms"),
        Figure("TorchDistributedTrial, in memory (lost with rank 0), p50", in_memory, "ms"),
        Figure(
            "TorchDistributedTrial on SQLite over hpsearch on SQLite", ratio, "x", bar=MIN_PRUNE_RATIO, at_least=True
        ),
        Figure("TorchDistributedTrial in memory over hpsearch between decisions", in_memory / median(between), "x"),
    ]


def main(rounds: int) -> None:
    show("gang", [*compare_steps(rounds), *compare_pruning()])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
