"""The relay inside the scheduler: who hears what, and what a connection that has just died may cost."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from distributed.comm.core import CommClosedError

from hpsearch.supervisor.relay import COORDINATOR_GONE, Relay, plugin_name


class Stream:
    """One of the scheduler's connections; a closed one raises, as Dask's do."""

    def __init__(self, *, closed: bool = False) -> None:
        self.interval = 0.1
        self.sent: list[dict[str, Any]] = []
        self._closed = closed

    def send(self, message: dict[str, Any]) -> None:
        if self._closed:
            raise CommClosedError
        self.sent.append({**message, "body": json.loads(message["body"])})


def started(clients: dict[str, Stream], workers: dict[str, Stream]) -> tuple[Relay, Any]:
    scheduler: Any = SimpleNamespace(stream_handlers={}, client_comms=clients, stream_comms=workers)
    relay = Relay()
    asyncio.run(relay.start(scheduler))
    for client in clients:
        relay.down(client, None, "")
    return relay, scheduler


def test_messages_reach_the_one_that_they_name() -> None:
    mine, other, worker = Stream(), Stream(), Stream()
    relay, _ = started({"mine": mine, "other": other}, {"tcp://a": worker})
    relay.up("mine", '{"op": "ready"}', "tcp://a")
    relay.up("nobody", '{"op": "ready"}', "tcp://a")
    relay.down("mine", "tcp://a", '{"op": "stop"}')
    relay.down("mine", "tcp://gone", '{"op": "stop"}')
    assert mine.sent == [{"op": "hpsearch", "worker": "tcp://a", "body": {"op": "ready"}}]
    assert other.sent == []
    assert worker.sent == [{"op": "hpsearch-down", "client": "mine", "body": {"op": "stop"}}]


def test_every_coordinator_hears_of_a_lost_worker_even_beside_one_that_is_dying() -> None:
    dying, alive = Stream(closed=True), Stream()
    relay, scheduler = started({"dying": dying, "alive": alive}, {})
    relay.remove_worker(scheduler, "tcp://a")
    assert alive.sent == [{"op": "hpsearch", "worker": "tcp://a", "body": {"op": "worker-lost"}}]


def test_words_to_the_dying_cost_the_sender_nothing() -> None:
    relay, _ = started({"dying": Stream(closed=True)}, {"tcp://dying": Stream(closed=True)})
    relay.up("dying", "{}", "tcp://a")
    relay.down("dying", "tcp://dying", "{}")


def test_workers_hear_when_their_coordinator_is_gone_and_lose_its_plugin() -> None:
    worker = Stream()
    relay, scheduler = started({"mine": Stream()}, {"tcp://dying": Stream(closed=True), "tcp://a": worker})
    withdrawn: list[str] = []

    async def unregister(comm: None, name: str) -> None:
        withdrawn.append(name)
        raise ValueError("an orderly end has done so already")

    async def leave() -> None:
        relay.remove_client(scheduler, "somebody")
        assert worker.sent == []
        relay.remove_client(scheduler, "mine")
        relay.remove_client(scheduler, "mine")
        await asyncio.gather(*relay._leaving)

    scheduler.unregister_worker_plugin = unregister
    asyncio.run(leave())
    assert [message["body"] for message in worker.sent] == [{"op": COORDINATOR_GONE}]
    assert withdrawn == [plugin_name("mine")]


def test_a_newer_coordinator_of_a_study_ends_what_an_older_one_runs() -> None:
    async def scenario() -> tuple[Stream, Relay]:
        worker = Stream()
        removed: list[str] = []

        async def unregister(comm: None, name: str) -> None:
            removed.append(name)

        scheduler: Any = SimpleNamespace(
            stream_handlers={},
            client_comms={"old": Stream(), "new": Stream()},
            stream_comms={"tcp://a": worker},
            unregister_worker_plugin=unregister,
        )
        relay = Relay()
        await relay.start(scheduler)
        for client, token in (("old", 1), ("old", 1), ("new", 2), ("old", 1)):  # the last: revived, and too late
            relay.down(client, None, json.dumps({"op": "coordinates", "study": "s", "token": token, "run": "r"}))
        relay.down("third", None, json.dumps({"op": "coordinates", "study": "another", "token": 1, "run": "r"}))
        await asyncio.gather(*relay._leaving)
        assert removed == [plugin_name("old")]
        return worker, relay

    worker, relay = asyncio.run(scenario())
    assert worker.sent == [{"op": "hpsearch-down", "client": "old", "body": {"op": COORDINATOR_GONE}}]
    assert relay._studies == {"s": (2, "new"), "another": (1, "third")}
