"""How long a report waits for its verdict where the pruner decides at every step: rank, coordinator and back.

python benchmarks/verdict.py [trials]
"""

import sys

from figures import Figure, median, percentile, show
from local_run import run_job

MAX_P50_MS = 5.0


def waits_ms(trials: int, slots: int) -> list[float]:
    """Milliseconds, each trial's first ten left out: they share the machine with its start."""
    found = run_job("ask_verdicts", trials=trials, slots=slots, pruner="{threshold: {upper: 1.0}}")
    return [1e3 * wait for trial in found for wait in trial.user_attrs["waits_s"][10:]]


def main(trials: int) -> None:
    one, two = waits_ms(trials, 1), waits_ms(trials, 2)
    show(
        "verdict",
        [
            Figure("report to verdict, one slot, p50", median(one), "ms", bar=MAX_P50_MS),
            Figure("report to verdict, one slot, p99", percentile(one, 99), "ms"),
            Figure("report to verdict, two slots, both reporting without pause, p50", median(two), "ms"),
            Figure("report to verdict, two slots, both reporting without pause, p99", percentile(two, 99), "ms"),
        ],
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
