"""The way of messages between coordinator and supervisors, through the Dask scheduler.

Up:   worker's stream -> scheduler -> the coordinator's client. About 1 ms, 14,000 messages a second.
Down: the coordinator's client -> scheduler -> worker's stream.

Both directions may drop what is sent while a connection is away; :mod:`hpsearch.channel` makes good for that.

Bodies travel as JSON text. Dask's own format refuses some of what a job may say (an int of more than 64 bits, text
with lone surrogates), and closes the connection of the whole worker over it.
"""

import asyncio
import contextlib
import json
from typing import Any

from distributed import Scheduler
from distributed.comm.core import CommClosedError
from distributed.diagnostics.plugin import SchedulerPlugin

from hpsearch.supervisor.leasing import Leasing

UP = "hpsearch-up"  # worker -> scheduler
DOWN = "hpsearch-down"  # client -> scheduler -> worker
TO_CLIENT = "hpsearch"  # scheduler -> client
COORDINATOR_GONE = "coordinator-gone"
# Dask holds back what follows within 5 to 10 ms on one stream. A rank waits for its verdict meanwhile.
HOLD_BACK_S = 0.0005


def plugin_name(client: str) -> str:
    """Name under which the worker plugin of one coordinator is registered with Dask."""
    return f"hpsearch-{client}"


class Relay(SchedulerPlugin):
    """Passes messages on inside the scheduler, and tells who came and who went."""

    name = "hpsearch-relay"
    idempotent = True  # several studies share one scheduler and one relay

    async def start(self, scheduler: Scheduler) -> None:
        """Register the two directions as stream operations of the scheduler."""
        self._scheduler = scheduler
        self._listeners: set[str] = set()  # clients that are coordinators
        self._studies: dict[str, tuple[int, str]] = {}  # study -> token and client of its coordinator
        self._leaving: set[asyncio.Task[None]] = set()  # held, or they would be collected
        self.leasing = Leasing(lambda client, body: self._to_client(client, "", json.dumps(body)))
        scheduler.stream_handlers[UP] = self.up
        scheduler.stream_handlers[DOWN] = self.down

    def up(
        self, client: str, body: str, worker: str, joined: Any = None, ended: Any = None, closing: bool = False
    ) -> None:
        """From a worker to the coordinator that it names; what matters to the slots is said outside of the body."""
        if joined is not None:
            self.leasing.joined(worker, joined)
        if closing:
            self.leasing.closing(worker)
        if body:
            self._to_client(client, worker, body)
        if ended is not None:
            self.leasing.ended(client, worker, ended)

    def down(self, client: str, to: str | None, body: str) -> None:
        """From a coordinator to one worker; with ``to=None`` an order for slots, or none to introduce itself."""
        if to is None:
            self._listeners.add(client)
            if body and (order := json.loads(body))["op"] == "coordinates":
                self._coordinates(client, order["study"], order["token"])
            elif body:
                self.leasing.order(client, order)
        elif to in self._scheduler.stream_comms:
            self._to_worker(to, client, body)

    def _coordinates(self, client: str, study: str, token: int) -> None:
        """A study has one coordinator: what an older one runs, which may be frozen, ends, and its slots are free."""
        older_token, older = self._studies.get(study, (0, client))
        if token >= older_token:
            self._studies[study] = (token, client)
            if older != client:
                self.remove_client(self._scheduler, older)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """A worker left or died: every coordinator hears of it."""
        for client in self._listeners:
            self._to_client(client, worker, json.dumps({"op": "worker-lost"}))
        self.leasing.left(worker)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """A coordinator is gone: what it runs must not outlive it."""
        if client not in self._listeners:
            return
        self._listeners.discard(client)
        self._studies = {study: held for study, held in self._studies.items() if held[1] != client}
        self.leasing.forget(client)
        for worker in list(scheduler.stream_comms):
            self._to_worker(worker, client, json.dumps({"op": COORDINATOR_GONE}))
        leaving = asyncio.create_task(self._withdraw(client))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _withdraw(self, client: str) -> None:
        """Take its launchers off the workers, and keep them off workers that are yet to come."""
        with contextlib.suppress(ValueError):  # an orderly end has done so already
            await self._scheduler.unregister_worker_plugin(comm=None, name=plugin_name(client))

    # A connection may be closed and not cleared away yet. Raised in here, that would end the sender's connection, too:
    # a coordinator that dies would take along every worker that is just reporting to it.

    def _to_client(self, client: str, worker: str, body: str) -> bool:
        comm = self._scheduler.client_comms.get(client)
        if comm is not None:
            with contextlib.suppress(CommClosedError):
                comm.send({"op": TO_CLIENT, "worker": worker, "body": body})
        return comm is not None

    def _to_worker(self, worker: str, client: str, body: str) -> None:
        stream = self._scheduler.stream_comms[worker]
        stream.interval = HOLD_BACK_S
        with contextlib.suppress(CommClosedError):
            stream.send({"op": DOWN, "client": client, "body": body})
