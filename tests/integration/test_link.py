"""The connection of a coordinator to its scheduler, which Dask makes again by itself."""

import time

import pytest
from distributed import Client, LocalCluster

from hpsearch.cluster import Connection
from hpsearch.coordinator.link import Link

pytestmark = pytest.mark.timeout(60)


def test_a_connection_that_was_away_for_a_moment_counts_as_gone() -> None:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp") as cluster,
        Client(cluster) as client,
    ):
        link = Link(
            Connection(client=client, n_workers=0), lambda arrived: None, study="s", imports=(), cpus_per_rank=1
        )
        link.open()
        assert link.connected
        before = client.scheduler_comm

        async def cut() -> None:
            cluster.scheduler.client_comms[client.id].comm.abort()

        cluster.sync(cut)
        deadline = time.monotonic() + 30
        while client.scheduler_comm in (None, before) or client.status != "running":
            assert time.monotonic() < deadline, "Dask did not connect again"
            time.sleep(0.01)
        assert not link.connected  # the scheduler has taken our plugins off the workers, and ended what ran there
        link.close()
