"""The database layer loses nothing: the faults of harness/matrix.py, on both databases.

One seed of a short run belongs to every test run; ``make chaos`` does twenty of the standard run and prints a table.
A failure names its seed; ``pytest -m soak "tests/faults/test_database_faults.py" -k "[7-9-coordinator"`` does seed 7 of
row 9 again.
"""

from collections.abc import Callable
from dataclasses import replace
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


@pytest.mark.parametrize("case", [case for case in MATRIX if case.in_short], ids=str)
def test_nothing_is_lost(case: Case, judge: Callable[..., None]) -> None:
    judge(case, 0, SHORT)


@pytest.mark.soak
@pytest.mark.parametrize("case", MATRIX, ids=str)
@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_nothing_is_lost_in_a_standard_run(case: Case, seed: int, judge: Callable[..., None]) -> None:
    longest = case.outage_s or FULL.outage_s
    form = replace(FULL, outage_s=longest) if seed % 10 == 0 else FULL  # minutes of waiting show little more
    judge(case, seed, form, save_first=seed % 4 >= 2)
