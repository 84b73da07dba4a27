"""A Dask client and what has to be closed after it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distributed import Client

import hpsearch
from hpsearch.errors import ClusterUnreachable, UsageError
from hpsearch.supervisor.plugin import describe


@dataclass(slots=True, kw_only=True)
class Connection:
    """An open cluster.

    Attributes:
        client: connected, synchronous.
        n_workers: how many workers there are to wait for.
        closers: run in reverse order by :meth:`close`, once.
    """

    client: Client
    n_workers: int
    closers: list[Callable[[], object]] = field(default_factory=list)

    def describe_workers(self) -> dict[str, dict[str, Any]]:
        """What each worker has to offer, by address; see :func:`hpsearch.supervisor.plugin.describe`.

        Raises:
            ClusterUnreachable: the workers cannot import this hpsearch.
        """
        try:
            facts: dict[str, dict[str, Any]] = self.client.run(describe)
        except Exception as error:
            raise ClusterUnreachable(
                f"the workers cannot run hpsearch ({type(error).__name__}: {error}): install hpsearch "
                f"{hpsearch.__version__} with the same Python and Dask there"
            ) from error
        return facts

    def close(self) -> None:
        """Let go of everything that was opened for this connection. Twice is once."""
        while self.closers:
            self.closers.pop()()


def borrow(client: Client) -> Connection:
    """Somebody else's client: used, never closed.

    Raises:
        UsageError: it is none, or one that answers with coroutines.
        ClusterUnreachable: it is closed.
    """
    if not isinstance(client, Client):
        raise UsageError(f"client: must be a distributed.Client (got {client!r})")
    if client.asynchronous:
        raise UsageError("client: must not be asynchronous: make a Client of its own, or leave it to optimize()")
    if client.status != "running":
        raise ClusterUnreachable(f"the client is {client.status}: connect a new one")
    return Connection(client=client, n_workers=len(client.scheduler_info(n_workers=-1)["workers"]))
