"""The coordinator's loop over a real study, with a link that carries nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
from storage_desk import Desk

from hpsearch.budget import Budgets
from hpsearch.coordinator.announcer import Announcer
from hpsearch.coordinator.inbound import Committed, Inbound
from hpsearch.coordinator.loop import Coordinator
from hpsearch.coordinator.proposals import Proposals
from hpsearch.events import DrainRequested, WorkerJoined
from hpsearch.lifecycle import Lifecycle, RetryRules
from hpsearch.placement import RankRequest
from hpsearch.space import Space


class Counting(optuna.samplers.RandomSampler):
    n_asked = 0

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        self.n_asked += 1


@pytest.mark.timeout(30)
def test_nobody_waits_for_the_sampler_in_order_to_leave(tmp_path: Path) -> None:
    desk, inbound, sampler = Desk(f"sqlite:///{tmp_path / 'studies.db'}"), Inbound(), Counting()
    store = desk.open(sampler=sampler, on_commit=lambda ticket: inbound.put(Committed(ticket=ticket)))
    request = RankRequest(ranks=1, cpus=1)
    coordinator = Coordinator(
        store=store,
        proposals=Proposals(store.study, Space()),
        lifecycle=Lifecycle(request, Budgets(), RetryRules(), ask_ahead=4),
        link=cast("Any", SimpleNamespace(connected=True, order=lambda message: None)),
        request=request,
        orders=cast("Any", None),
        inbound=inbound,
        announcer=Announcer(store, lambda notice: None),
    )
    inbound.put(WorkerJoined(worker="tcp://a:1", host="a", cpus=1, gpus=(), memory_bytes=1 << 30))
    inbound.put(DrainRequested(reason="stopped", exit_code=130))
    assert coordinator.run().reason == "stopped"
    assert sampler.n_asked == 1
    store.close()
    assert store.study.trials == []
