"""Where the ranks run: one file per kind of cluster, all giving a Dask client.

A :class:`Connection` is what the coordinator gets: a client, how many workers to wait for, and how to let go.
"""

from hpsearch.cluster.connection import Connection, borrow
from hpsearch.cluster.local import open_local, plan_local
from hpsearch.cluster.scheduler import open_address

__all__ = ["Connection", "borrow", "open_address", "open_local", "plan_local"]
