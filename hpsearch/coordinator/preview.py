"""What a run would do, found out without starting or writing anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna

from hpsearch.cluster import plan_local
from hpsearch.coordinator.proposals import Proposals
from hpsearch.coordinator.session import Session
from hpsearch.events import Notice
from hpsearch.placement import SlotTable
from hpsearch.search import build_pruner, build_sampler, n_proposals
from hpsearch.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a run would begin with."""

    slot: str  # what a trial holds, in words
    n_slots: int  # trials that run at the same time
    n_workers: int
    configurations: list[dict[str, Any]]  # what the objective would see; empty for define-by-run


def preview(spec: StudySpec, *, fresh: bool, n_configurations: int = 3) -> Preview:
    """Ask the cluster, the database and the sampler; the scheduler of ``kind: address`` is really asked.

    Raises:
        HpsearchError: what would refuse the run, too.
    """
    sampler = build_sampler(spec.sampler, seed=spec.seed, space=spec.parameters)
    session = Session(spec=spec, sampler=sampler, pruner=build_pruner(spec.pruner), listener=_deaf, fresh=fresh)
    with session._exit:
        request = session._reach()
        session._check_space()
        if session.connection is not None:
            facts = session.connection.describe_workers()
        else:
            facts = plan_local(spec.cluster.workers, spec.resources.cpus_per_rank).describe_workers()
    table = SlotTable()
    for worker, fact in facts.items():
        table.join(worker, **fact)
    most = n_proposals(sampler)
    n = n_configurations if most is None else min(most, n_configurations)
    return Preview(
        slot=str(request),
        n_slots=table.n_gangs(request),
        n_workers=len(facts),
        configurations=_first(spec, sampler, n) if len(spec.parameters) else [],
    )


def _first(spec: StudySpec, sampler: optuna.samplers.BaseSampler, n: int) -> list[dict[str, Any]]:
    with _quiet():
        study = optuna.create_study(
            study_name=spec.name, sampler=sampler, directions=[metric.goal for metric in spec.metrics]
        )
    proposals = Proposals(study, spec.parameters)
    return [spec.parameters.resolve(proposals.ask().params) for _ in range(n)]


@contextmanager
def _quiet() -> Iterator[None]:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _deaf(_: Notice) -> None:
    """Hears nothing."""
