"""One case of the matrix with one seed: run, check, and the figures for the table."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.checker import Expected, Violation, check, redone
from harness.cluster import Cluster
from harness.database import read_database
from harness.matrix import Case, Stage, recovery_s, trained_during
from harness.postgres import Template
from harness.run import Form, StandardRun

FIGURES = "figures"  # the property of a test's report from which the table is made


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one run."""

    violations: list[Violation]
    n_faults: int
    redone: int
    recovery_s: list[float]
    trained: int  # epochs begun while the faults lasted
    stderr: str
    waiting: bool  # whether it said that it waits for the database


def prove(
    case: Case,
    form: Form,
    seed: int,
    directory: Path,
    cluster: Cluster,
    template: Callable[[], Template],
    *,
    save_first: bool = False,
) -> Verdict:
    """Run the study through its faults to its end, and check what it left."""
    with case.place(directory, template) as place:
        run = StandardRun(directory, place.url, cluster.address, form, seed, save_first=save_first)
        stage = Stage(run=run, place=place, chance=random.Random(f"{case} {seed}"))
        try:
            case.inject(stage)
            code = run.coordinators[-1].wait()
            assert code == 0, f"seed {seed}: exit code {code}\n{run.words()}"
        finally:
            run.close()
        entries = run.entries
        expected = Expected(n_trials=form.n_trials, n_epochs=form.n_epochs, max_attempts=case.max_attempts, seed=seed)
        stderr = "".join(coordinator.stderr for coordinator in run.coordinators)
        times = [recovery_s(entries, fault) for fault in stage.faults]
        return Verdict(
            violations=check(entries, read_database(place.url), expected),
            n_faults=len(stage.faults),
            redone=redone(entries),
            recovery_s=[t for t in times if t is not None],
            trained=sum(trained_during(entries, fault) for fault in stage.faults),
            stderr=stderr,
            waiting="storage.waiting" in stderr
            or any((e["op"], e["phase"]) == ("notice", "storage.waiting") for e in entries),
        )
