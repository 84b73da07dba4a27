"""Numbered messages over a transport that may drop, double or stop.

Dask's streams lose what is sent while they are disconnected, without a word. So the sender numbers its messages and
keeps each until it is acknowledged; the receiver takes them in order and once. Both ends are pure: the transport and
the clock are passed in.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

Message = dict[str, Any]


class Outbox:
    """The sending end of one rank's channel: numbers from 1, keeps what is not acknowledged."""

    def __init__(self, *, resend_after_s: float = 5.0) -> None:
        self._resend_after_s = resend_after_s
        self._unacknowledged: deque[Message] = deque()
        self._last = 0
        self._moved_at = 0.0  # when the oldest kept message was sent or an acknowledgement came

    def put(self, message: Message, *, now: float) -> Message:
        """Number the message, keep it and return it for sending."""
        self._last += 1
        numbered = {**message, "seq": self._last}
        if not self._unacknowledged:
            self._moved_at = now
        self._unacknowledged.append(numbered)
        return numbered

    def acknowledge(self, through: int, *, now: float) -> None:
        """Everything up to number ``through`` is committed. Older acknowledgements change nothing."""
        while self._unacknowledged and self._unacknowledged[0]["seq"] <= through:
            self._unacknowledged.popleft()
            self._moved_at = now

    def due(self, *, now: float) -> list[Message]:
        """What to send again: everything kept, once nothing has moved for the resend time."""
        if not self._unacknowledged or now - self._moved_at < self._resend_after_s:
            return []
        self._moved_at = now
        return list(self._unacknowledged)

    def __len__(self) -> int:
        return len(self._unacknowledged)

    @property
    def kept(self) -> list[Message]:
        """All that is not acknowledged yet, oldest first."""
        return list(self._unacknowledged)


class Inbox:
    """The receiving end: each message once, in the sender's order.

    A gap is not filled from memory: later messages are refused, and the sender repeats from its oldest (go-back-N).
    """

    def __init__(self) -> None:
        self.received = 0  # the highest number taken
        self.acknowledged = 0  # the highest number that the sender was told it may forget

    def take(self, message: Message) -> bool:
        """Whether this message is the next one; if so it counts as received."""
        if message["seq"] != self.received + 1:
            return False
        self.received += 1
        return True

    def sift(self, messages: Iterable[Message]) -> Iterator[Message]:
        """The new ones among messages in order, as a late bundle brings them."""
        return (message for message in messages if self.take(message))
