"""The housekeeper's thread outlives whatever a file system raises."""

import threading

import pytest

from hpsearch.coordinator import housekeeper
from hpsearch.coordinator.housekeeper import Housekeeper

pytestmark = pytest.mark.timeout(30)


class NoCredentialsError(Exception):
    """As object stores raise it: no OSError."""


def test_a_store_that_refuses_in_words_of_its_own_is_told_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    told: list[str] = []
    heard = threading.Event()

    class Store:
        def __init__(self, place: str) -> None:
            asked.append(place)

        def sizes(self) -> list[tuple[str, int]]:
            raise NoCredentialsError("Unable to locate credentials")

    def say(message: str) -> None:
        told.append(message)
        heard.set()

    monkeypatch.setattr(housekeeper, "open_place", Store)
    keeper = Housekeeper(lambda trial: f"s3://bucket/{trial}", 100, say)
    keeper.look({1}, frozenset(), None)
    assert heard.wait(20)
    keeper.look({2}, frozenset(), None)
    keeper.close()
    assert asked == ["s3://bucket/1", "s3://bucket/2"]
    assert told == ["the checkpoints cannot be held to their quota: Unable to locate credentials"]
