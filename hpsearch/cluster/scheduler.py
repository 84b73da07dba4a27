"""``cluster: {kind: address}``: a Dask scheduler that runs already."""

import logging
from collections.abc import Callable

from distributed import Client

from hpsearch.cluster.connection import Connection
from hpsearch.errors import ClusterUnreachable

CONNECT_S = 15.0


def open_address(address: str) -> Connection:
    """Connect to a scheduler.

    Raises:
        ClusterUnreachable: nobody answers there, it speaks another version, or it has no worker.
    """
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False, name="hpsearch-coordinator")
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise ClusterUnreachable(
            f"no Dask scheduler answers at {address!r} ({error}): start one with `dask scheduler`, or leave out "
            "--scheduler for a cluster on this machine"
        ) from None
    n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
    if not n_workers:
        client.close()
        raise ClusterUnreachable(f"the scheduler at {address!r} has no worker: start one with `dask worker {address}`")
    return Connection(client=client, n_workers=n_workers, closers=[_quiet(), client.close])


def _quiet() -> Callable[[], None]:
    """Keep Dask's tracebacks about a connection that goes from the user: the run says it in one line."""
    chatter = logging.getLogger("distributed.client")
    level = chatter.level
    chatter.setLevel(logging.CRITICAL)
    return lambda: chatter.setLevel(level)
