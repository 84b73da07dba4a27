"""Numbered messages: kept until acknowledged, taken once and in order."""

from hpsearch.channel import Inbox, Outbox


def test_messages_are_numbered_from_one() -> None:
    outbox = Outbox()
    assert [outbox.put({"op": "a"}, now=0)["seq"], outbox.put({"op": "b"}, now=0)["seq"]] == [1, 2]


def test_what_is_acknowledged_is_forgotten() -> None:
    outbox = Outbox()
    for op in "abc":
        outbox.put({"op": op}, now=0)
    outbox.acknowledge(2, now=1)
    outbox.acknowledge(1, now=2)
    assert [message["op"] for message in outbox.kept] == ["c"]


def test_nothing_is_due_while_acknowledgements_come() -> None:
    outbox = Outbox(resend_after_s=5)
    outbox.put({"op": "a"}, now=0)
    outbox.put({"op": "b"}, now=0)
    outbox.acknowledge(1, now=4)
    assert outbox.due(now=8) == []
    assert [message["op"] for message in outbox.due(now=9)] == ["b"]
    assert outbox.due(now=10) == []
    assert len(outbox.due(now=14)) == 1


def test_the_clock_of_the_oldest_counts_from_its_own_sending() -> None:
    outbox = Outbox(resend_after_s=5)
    outbox.put({"op": "a"}, now=100)
    assert outbox.due(now=104) == []


def test_each_message_once_and_in_order() -> None:
    inbox = Inbox()
    first, second, third = ({"seq": n} for n in (1, 2, 3))
    assert inbox.take(first)
    assert not inbox.take(first)
    assert not inbox.take(third)  # a gap: the sender repeats from its oldest
    assert [message["seq"] for message in inbox.sift([first, second, third])] == [2, 3]
    assert inbox.received == 3
