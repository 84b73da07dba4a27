"""The coordinator's ends of the channels to all running ranks."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from hpsearch.channel import Inbox, Message, Outbox
from hpsearch.coordinator.link import Link
from hpsearch.supervisor.plugin import RankKey


@dataclass(slots=True)
class _Line:
    worker: str
    inbox: Inbox = field(default_factory=Inbox)
    outbox: Outbox = field(default_factory=Outbox)


class Lines:
    """One numbered channel a rank, in both directions; what was said to a rank is repeated until it was heard.

    Args:
        link: carries, and may lose.
        clock: seconds, only ever growing.
    """

    def __init__(self, link: Link, clock: Callable[[], float]) -> None:
        self._link = link
        self._clock = clock
        self._lines: dict[RankKey, _Line] = {}

    def open(self, key: RankKey, worker: str) -> None:
        """A rank was ordered."""
        self._lines[key] = _Line(worker)

    def close(self, key: RankKey) -> None:
        """The rank has ended; later words are nobody's. Twice is once."""
        self._lines.pop(key, None)

    def __contains__(self, key: RankKey) -> bool:
        return key in self._lines

    def on(self, worker: str) -> list[RankKey]:
        """Ranks that sit on a worker."""
        return [key for key, line in self._lines.items() if line.worker == worker]

    def of(self, trial: int, attempt: int) -> list[RankKey]:
        """Ranks of an attempt."""
        return [key for key in self._lines if key[:2] == (trial, attempt)]

    def take(self, key: RankKey, message: Message) -> bool:
        """Whether this is the next message of a rank that runs. One that was taken before is acknowledged again."""
        line = self._lines.get(key)
        if line is None:
            return False
        if line.inbox.take(message):
            return True
        if message["seq"] <= line.inbox.received and line.inbox.acknowledged:
            self.acknowledge(key, line.inbox.acknowledged)
        return False

    def sift(self, key: RankKey, messages: Iterable[Message]) -> Iterator[Message]:
        """The new ones among a rank's last words."""
        return self._lines[key].inbox.sift(messages)

    def received(self, key: RankKey) -> int:
        """The number of the last message taken."""
        return self._lines[key].inbox.received

    def acknowledge(self, key: RankKey, through: int) -> None:
        """Let the rank's side forget what is committed."""
        if (line := self._lines.get(key)) is not None:
            line.inbox.acknowledged = max(line.inbox.acknowledged, through)
            self._link.send(line.worker, key, {"op": "acknowledged", "through": through})

    def send(self, key: RankKey, message: Message) -> None:
        """Say something to a rank; nothing happens if it has ended."""
        if (line := self._lines.get(key)) is not None:
            self._link.send(line.worker, key, line.outbox.put(message, now=self._clock()))

    def heard(self, key: RankKey, through: int) -> None:
        """The rank's side has everything up to this number."""
        if (line := self._lines.get(key)) is not None:
            line.outbox.acknowledge(through, now=self._clock())

    def repeat(self) -> None:
        """Say again what should have been heard by now."""
        for key, line in self._lines.items():
            for message in line.outbox.due(now=self._clock()):
                self._link.send(line.worker, key, message)
