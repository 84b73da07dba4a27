"""The database layer loses nothing: rows 9, 12 and 16 to 20 of the matrix in harness/matrix.py, on both databases.

Two seeds of a short run belong to every test run; ``make chaos`` does twenty of the standard run and prints a table.
A failure names its seed: ``pytest tests/faults -m "" -k "9-coordinator and SQLite and 7"`` does it again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.cluster import Cluster
from harness.matrix import MATRIX, Case
from harness.postgres import Template
from harness.proof import FIGURES, Verdict, prove
from harness.run import FULL, SHORT, Form

from hpsearch.storage.connect import BUSY_S

pytestmark = pytest.mark.timeout(300)

N_SEEDS = 20
PAUSES = {"server away", "file locked", "disk full"}  # long enough to be told
SLOW = 4.0  # a shared machine may take so many times longer


@pytest.fixture
def judge(
    cluster: Cluster, template: Callable[[], Template], tmp_path: Path, record_property: Callable[[str, object], None]
) -> Callable[..., None]:
    """Runs a case and holds it to its row."""

    def run(case: Case, seed: int, form: Form, **variant: bool) -> None:
        verdict = prove(case, form, seed, tmp_path, cluster, template, **variant)
        record_property(FIGURES, _figures(case, verdict))
        assert [f"seed {seed}: {violation}" for violation in verdict.violations] == []
        assert verdict.redone <= case.redone
        assert max(verdict.recovery_s, default=0.0) <= SLOW * case.recovery_s
        assert verdict.trained > 0 or not case.goes_on
        assert verdict.waiting or case.fault not in PAUSES or form.outage_s <= BUSY_S, verdict.stderr

    return run


def _figures(case: Case, verdict: Verdict) -> dict[str, Any]:
    kinds = [violation.invariant for violation in verdict.violations]
    return {
        "row": (case.row, case.fault, case.database),
        "faults": verdict.n_faults,
        "lost": kinds.count("I2"),
        "doubled": kinds.count("I3"),
        "other": sum(kind not in {"I2", "I3"} for kind in kinds),
        "redone": verdict.redone,
        "recovery_s": verdict.recovery_s,
    }


@pytest.mark.parametrize("case", MATRIX, ids=str)
def test_nothing_is_lost(case: Case, judge: Callable[..., None]) -> None:
    judge(case, 0, SHORT)


@pytest.mark.soak
@pytest.mark.parametrize("case", MATRIX, ids=str)
@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_nothing_is_lost_in_a_standard_run(case: Case, seed: int, judge: Callable[..., None]) -> None:
    judge(case, seed, FULL, save_first=seed % 4 >= 2)
