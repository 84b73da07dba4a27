"""From the start of ``hpsearch run studies/digits.yaml`` to the first line of its first trial.

Beside it, in turns, what the heaviest import alone takes. The training job is a copy of trials/digits.py whose
first line notes the time.

python benchmarks/cold_start.py [rounds]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import HPSEARCH, PYTHON, ROOT, Figure, median, show

MAX_RATIO, MAX_MORE_S = 1.3, 1.0
FIRST_LINE = "    params = trial.params\n"


def stamped_copy(directory: Path) -> Path:
    """The study and its job in ``directory``; each trial's first line appends the time (ns) to ``stamps``."""
    job = (ROOT / "trials/digits.py").read_text()
    assert job.count(FIRST_LINE) == 1
    stamp = (
        f"    with open({str(directory / 'stamps')!r}, 'a') as file: print(__import__('time').time_ns(), file=file)\n"
    )
    (directory / "trials").mkdir()
    (directory / "studies").mkdir()
    (directory / "trials/digits.py").write_text(job.replace(FIRST_LINE, stamp + FIRST_LINE))
    study = directory / "studies/digits.yaml"
    study.write_text((ROOT / "studies/digits.yaml").read_text())
    return study


def cold_start_s() -> float:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        study = stamped_copy(directory)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HPSEARCH_")}
        began_ns = time.time_ns()
        subprocess.run(
            [HPSEARCH, "run", str(study), "--trials", "2", "--plain"],
            check=True,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        first_ns = min(map(int, (directory / "stamps").read_text().split()))
        return (first_ns - began_ns) / 1e9


def import_s() -> float:
    began = time.perf_counter()
    subprocess.run([PYTHON, "-c", "import torch, torch._dynamo"], check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(n_rounds: int) -> None:
    import_s(), cold_start_s()  # byte code and disk cache
    imports, starts = [], []
    for _ in range(n_rounds):
        imports.append(import_s())
        starts.append(cold_start_s())
    bar = MAX_RATIO * median(imports) + MAX_MORE_S
    show(
        "cold_start",
        [
            Figure("python -c 'import torch, torch._dynamo', median", median(imports), "s"),
            Figure("hpsearch run studies/digits.yaml to the first line, median", median(starts), "s", bar=bar),
        ],
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
