"""The cluster and the servers that the proofs share, and the table of what they measured."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness.cluster import Cluster, running_cluster
from harness.postgres import Template
from harness.proof import FIGURES


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and two workers, kept for all runs: their end is not what is tested here."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def template() -> Iterator[Callable[[], Template]]:
    """Makes the server's empty data directory when it is first wanted."""
    made: list[Template] = []

    def make() -> Template:
        if not made:
            made.append(Template())
        return made[0]

    yield make
    for template in made:
        template.remove()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line a fault and database, whatever the tests came to."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for report in reports:
        figures = dict(report.user_properties).get(FIGURES)
        if figures is not None and report.when == "call":
            rows[tuple(figures["row"])].append(figures)
    if not rows or not terminalreporter.config.getoption("markexpr"):
        return
    terminalreporter.section("faults of the database")
    line = "| {:>2} | {:<22} | {:<10} | {:>4} | {:>6} | {:>4} | {:>7} | {:>5} | {:>6} | {:>13} |"
    heads = ("#", "fault", "database", "runs", "faults", "lost", "doubled", "other", "redone", "s to progress")
    terminalreporter.write_line(line.format(*heads))
    terminalreporter.write_line("|" + "|".join("---" for _ in heads) + "|")
    for row, many in sorted(rows.items()):
        times = [time for figures in many for time in figures["recovery_s"]]
        spread = f"{statistics.median(times):.1f} / {max(times):.1f}" if times else "-"
        sums = [sum(figures[name] for figures in many) for name in ("faults", "lost", "doubled", "other")]
        redone = max(figures["redone"] for figures in many)
        terminalreporter.write_line(line.format(*row, len(many), *sums, redone, spread))
