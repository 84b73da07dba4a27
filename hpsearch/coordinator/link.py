"""The Dask shell of the coordinator: everything that goes to the cluster and everything that comes from it.

What comes is posted, from Dask's threads, into the coordinator's one queue; no decision is made here.
"""

import json
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Future

from hpsearch.cluster import Connection
from hpsearch.errors import UsageError
from hpsearch.events import Seat
from hpsearch.supervisor.plugin import RankKey, SupervisorPlugin
from hpsearch.supervisor.relay import DOWN, HOLD_BACK_S, TO_CLIENT, Relay, plugin_name
from hpsearch.supervisor.task import supervise

LAST_WORDS_S = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A message from a worker or from the relay."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDone:
    """The Dask task beside a rank is over, one way or the other."""

    key: RankKey
    status: str  # "finished", "error", "cancelled", "lost"
    words: tuple[dict[str, Any], ...] | None = None  # what a finished task returned, once it was fetched


class Link:
    """Connection of one coordinator to one cluster.

    Args:
        connection: open; closed by :meth:`close`.
        post: takes :class:`Arrived` and :class:`TaskDone` from any thread.
        study: its name, for what the Dask dashboard shows.
        imports: modules that launchers on the workers load beforehand.
        cpus_per_rank: for their thread counts.
        launcher_path: a launcher of this machine that all local workers share; empty for none.
        coordinates: which study of all there are, and the token by which: a coordinator with a smaller one is replaced.
    """

    def __init__(
        self,
        connection: Connection,
        post: Callable[[Arrived | TaskDone], None],
        *,
        study: str,
        imports: Sequence[str],
        cpus_per_rank: int,
        launcher_path: str = "",
        coordinates: tuple[str, int] | None = None,
    ) -> None:
        self._coordinates = coordinates
        self._connection = connection
        self._client = connection.client
        self._post = post
        self._study = study
        self._run = uuid.uuid4().hex[:8]  # keeps the tasks and messages of two runs apart
        self._plugin = SupervisorPlugin(self._client.id, self._run, imports, cpus_per_rank, launcher_path)
        self._open = False
        self._futures: dict[RankKey, Future[Any]] = {}
        self._stream = self._client.scheduler_comm

    @property
    def n_workers(self) -> int:
        """How many workers to wait for."""
        return self._connection.n_workers

    @property
    def connected(self) -> bool:
        """Whether the scheduler is there; it loses all tasks and streams when it goes, even for a moment.

        Dask connects again by itself. By then the scheduler has ended all that this client ran, its plugins too.
        """
        return bool(self._client.status == "running" and self._client.scheduler_comm is self._stream)

    def open(self) -> None:
        """Put relay and supervisors in place; every worker then introduces itself with a "joined" message.

        Raises:
            UsageError: the client carries another study at this moment.
        """
        handlers = self._client._stream_handlers
        if handlers.get(TO_CLIENT, _ignore) is not _ignore:
            raise UsageError("this Dask client carries another study at this moment: give each study its own Client")
        handlers[TO_CLIENT] = self._arrived
        if self._client.scheduler_comm is not None:
            self._client.scheduler_comm.interval = HOLD_BACK_S
        self._client.register_plugin(Relay())
        self._client._send_to_scheduler({"op": DOWN, "to": None, "body": ""})
        if self._coordinates is not None:
            study, token = self._coordinates
            self.order({"op": "coordinates", "study": study, "token": token})
        self._client.register_plugin(self._plugin)
        self._open = True

    def _arrived(self, worker: str, body: str) -> None:
        message = json.loads(body)
        if message.get("run", self._run) == self._run:  # else: late words of the client's last study
            self._post(Arrived(body={**message, "worker": worker}))

    def launch(self, seat: Seat, key: RankKey, order: dict[str, Any]) -> None:
        """Submit one rank's supervisor, pinned to the worker of its seat."""
        if not self.connected:
            self._post(TaskDone(key=key, status="lost"))
            return
        trial, attempt, rank = key
        future: Future[Any] = self._client.submit(
            supervise,
            {**order, "client": self._client.id},
            key=f"{self._study}-trial-{trial}-attempt-{attempt}-rank-{rank}-{self._run}",
            workers=[seat.worker],
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        self._futures[key] = future
        future.add_done_callback(lambda done: self._post(TaskDone(key=key, status=done.status)))

    def send(self, worker: str, key: RankKey, body: dict[str, Any]) -> None:
        """Send to the supervisor of one rank; lost without a word while either side is disconnected."""
        if not self.connected:
            return
        trial, attempt, rank = key
        message = json.dumps({**body, "trial": trial, "attempt": attempt, "rank": rank})
        self._client._send_to_scheduler({"op": DOWN, "to": worker, "body": message})

    def order(self, body: dict[str, Any]) -> None:
        """Tell the slot table in the scheduler; lost without a word while disconnected."""
        if self.connected:
            self._client._send_to_scheduler({"op": DOWN, "to": None, "body": json.dumps({**body, "run": self._run})})

    def fetch_last_words(self, key: RankKey) -> None:
        """Ask the worker for what a finished task returned: the messages that were never acknowledged.

        The answer comes as another :class:`TaskDone`, with its words; none of them if the worker took them along.
        """
        future = self._futures.get(key)

        def fetch() -> None:
            words: list[dict[str, Any]] = []
            try:
                if future is not None:
                    words = future.result(timeout=LAST_WORDS_S)
            except Exception as error:  # whatever Dask raises, the rank is lost
                logger.debug("the last words of %s are lost: %r", key, error)
            self._post(TaskDone(key=key, status="finished", words=tuple(words)))

        threading.Thread(target=fetch, name="hpsearch-last-words", daemon=True).start()

    def forget(self, key: RankKey) -> None:
        """Let Dask drop the task of a rank. Twice is once."""
        if (future := self._futures.pop(key, None)) is not None:
            future.release()

    def abort(self, key: RankKey) -> None:
        """Let Dask drop the task of a rank whose worker is gone, so that it is never run again elsewhere."""
        if (future := self._futures.pop(key, None)) is not None:
            future.cancel(force=True)

    def close(self) -> None:
        """Take supervisors and launchers off the workers and let go of the cluster. Twice is once."""
        if self._client._stream_handlers.get(TO_CLIENT) == self._arrived:
            self._client._stream_handlers[TO_CLIENT] = _ignore
        if self._open:
            self._open = False
            for future in self._futures.values():
                future.release()
            self._futures.clear()
            self.order({"op": "leave"})
            try:
                if self._client.status == "running":
                    self._client.unregister_worker_plugin(plugin_name(self._client.id))
            except Exception as error:  # the scheduler died this moment, and the launchers with its workers
                logger.debug("the workers could not be told: %r", error)
        self._connection.close()


def _ignore(worker: str, body: str) -> None:
    """For a client that outlives its study: the relay still tells it of workers that it loses."""
