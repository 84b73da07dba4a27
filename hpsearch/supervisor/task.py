"""The Dask task beside one rank: starts it, relays for it, kills it. Never runs user code.

It is a coroutine, so it runs on the worker's event loop and holds one of the worker's threads only on paper.
"""

import asyncio
import contextlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distributed import get_worker

from hpsearch.channel import Inbox, Message, Outbox
from hpsearch.events import Cause, Ending
from hpsearch.rendezvous import hold_port
from hpsearch.supervisor.keeper import Keeper, Limits, LogTarget
from hpsearch.supervisor.plugin import SupervisorPlugin, find_plugin

RESEND_CHECK_S = 1.0
HEARD_S = 0.2
FULL_MESSAGES = 1000  # unacknowledged: from here on the rank has to wait before it can say more


class RankSupervisor:
    """One rank of one attempt, between the coordinator and the keeper of its processes."""

    def __init__(self, plugin: SupervisorPlugin, order: dict[str, Any]) -> None:
        assignment = order["assignment"]
        self.key = (assignment["trial"], assignment["attempt"], assignment["rank"])
        self._plugin = plugin
        self._outbox = Outbox()
        self._inbox = Inbox()
        self._answering: asyncio.TimerHandle | None = None
        self._order = order
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()  # where the gang meets
        self._stopped = False
        self._keeper = self._new_keeper()

    def _new_keeper(self) -> Keeper:
        order = self._order
        log = LogTarget(path=Path(order["log_path"]))
        return Keeper(self._plugin.launcher(), order["assignment"], Limits(**order["limits"]), log, self._up)

    def _up(self, message: Message, **for_relay: Any) -> None:
        trial, attempt, rank = self.key
        tagged = {**message, "trial": trial, "attempt": attempt, "rank": rank}
        self._plugin.send(self._outbox.put(tagged, now=time.monotonic()), **for_relay)
        self._keeper.listen(len(self._outbox) < FULL_MESSAGES)

    def take(self, body: Message) -> None:
        """A message from the coordinator for this rank."""
        if body["op"] == "acknowledged":
            self._outbox.acknowledge(body["through"], now=time.monotonic())
            self._keeper.listen(len(self._outbox) < FULL_MESSAGES)
            return
        if self._answering is None:
            self._answering = asyncio.get_running_loop().call_later(HEARD_S, self._say_heard)
        if not self._inbox.take(body):  # again, or after a gap: it is told how far we are
            return
        match body["op"]:
            case "stop":
                self._stop(body["reason"], body["grace_s"], Cause(body["cause"]), body["after_step"])
            case "rendezvous":
                self._meet_at(body["port"])
            case _:
                self._keeper.deliver(body)

    def _say_heard(self) -> None:
        """One answer for all that came in a while. Not numbered: if it is lost, the question comes again."""
        self._answering = None
        trial, attempt, rank = self.key
        heard = {"op": "heard", "through": self._inbox.received}
        self._plugin.send({**heard, "trial": trial, "attempt": attempt, "rank": rank})

    def coordinator_gone(self) -> None:
        """Nobody would hear of the result: end the rank and free the slot."""
        self._stop("the coordinator is gone", 0.0, Cause.LOST)

    def _stop(self, reason: str, grace_s: float, cause: Cause, after_step: int | None = None) -> None:
        self._stopped = True
        self._keeper.stop(reason, grace_s, cause, after_step)
        self._meet_at(0)  # it need not wait for the others any more

    def _meet_at(self, port: int) -> None:
        if not self._port.done():
            self._port.set_result(port)

    async def run(self) -> list[Message]:
        """Until the rank's processes are reaped; returns what was not acknowledged by then, the end included."""
        self._plugin.enter(self.key, self)
        resending = asyncio.create_task(self._resend())
        try:
            with contextlib.ExitStack() as held:
                await self._meet(held)
                ending = await self._keep()
            ended = [self._plugin.run, *self.key]
            self._up({"op": "exited", "ending": _ending_to_message(ending)}, ended=ended)
        finally:
            resending.cancel()
            if self._answering is not None:
                self._answering.cancel()
            self._plugin.leave(self.key)
        return self._outbox.kept

    async def _meet(self, held: contextlib.ExitStack) -> None:
        """Agree with the rest of the gang on a port, kept free as long as rank 0 may come to listen there."""
        assignment = self._order["assignment"]
        if assignment["world_size"] == 1:
            return
        if assignment["rank"] == 0 and not self._port.done():
            self._meet_at(held.enter_context(hold_port()).getsockname()[1])
            self._up({"op": "rendezvous", "port": self._port.result()})
        assignment["env"]["MASTER_PORT"] = str(await self._port)

    async def _keep(self) -> Ending:
        ending = await self._keeper.run()
        if ending.cause is Cause.LOST:
            self._plugin.doubt()
            if (
                self._keeper.pid is None and not self._stopped
            ):  # the launcher died idle: nothing was lost yet, and another one is soon there
                self._keeper = self._new_keeper()
                ending = await self._keeper.run()
        return ending

    async def _resend(self) -> None:
        while True:
            await asyncio.sleep(RESEND_CHECK_S)
            for message in self._outbox.due(now=time.monotonic()):
                self._plugin.send(message)


async def supervise(order: dict[str, Any]) -> list[Message]:
    """Run one rank; see :class:`RankSupervisor`. Submitted by the coordinator, pinned to one worker."""
    return await RankSupervisor(find_plugin(get_worker(), order["client"]), order).run()


def _ending_to_message(ending: Ending) -> dict[str, Any]:
    return {**asdict(ending), "cause": ending.cause.value, "values": list(ending.values)}


def ending_from_message(message: dict[str, Any]) -> Ending:
    """The inverse of what the task puts into its last message."""
    return Ending(**{**message, "cause": Cause(message["cause"]), "values": tuple(message["values"])})
