"""How long ``hpsearch --help`` takes, beside importing the two libraries it cannot do without.

python benchmarks/help.py [rounds]
"""

import subprocess
import sys
import time

from figures import HPSEARCH, PYTHON, Figure, median, show

MAX_RATIO = 1.5


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(n_rounds: int) -> None:
    ours, bare = [HPSEARCH, "--help"], [PYTHON, "-c", "import typer, rich"]
    seconds(ours), seconds(bare)  # byte code and disk cache
    ours_s, bare_s = [], []
    for _ in range(n_rounds):
        ours_s.append(seconds(ours))
        bare_s.append(seconds(bare))
    show(
        "help",
        [
            Figure("python -c 'import typer, rich', median", median(bare_s), "s"),
            Figure("hpsearch --help, median", median(ours_s), "s", bar=MAX_RATIO * median(bare_s)),
            Figure("ratio", median(ours_s) / median(bare_s), "x", bar=MAX_RATIO),
        ],
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 31)
