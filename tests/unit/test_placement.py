"""The slot table: all seats or none, oldest first, and what never fits is refused."""

import pytest

from hpsearch.errors import GangTooLarge
from hpsearch.events import Seat
from hpsearch.placement import MAX_OVERTAKEN, RankRequest, SlotTable

ONE = RankRequest()


def seat(table: SlotTable, holder: str, request: RankRequest = ONE) -> tuple[Seat, ...] | None:
    """Ask and look: None while it waits."""
    table.ask(holder, request)
    return dict(table.grants()).get(holder)


def test_a_worker_holds_as_many_ranks_as_its_scarcest_resource() -> None:
    table = SlotTable()
    table.join("w", host="h", cpus=8, gpus=("0", "1", "2", "3", "4"), memory_bytes=10)
    assert table.n_slots_of("w", RankRequest(cpus=3)) == 2
    assert table.n_slots_of("w", RankRequest(gpus=2)) == 2
    assert table.n_slots_of("w", RankRequest(gpus=0.5)) == 8
    assert table.n_slots_of("w", RankRequest(memory_bytes=4)) == 2
    assert table.n_slots_of("nobody", ONE) == 0


def test_joining_twice_keeps_what_is_taken() -> None:
    table = SlotTable()
    table.join("w", host="h", cpus=1)
    assert seat(table, "a")
    table.join("w", host="h", cpus=1)
    assert seat(table, "b") is None


def test_no_two_seats_share_a_device() -> None:
    table = SlotTable()
    table.join("w", host="h", cpus=8, gpus=("GPU-a", "GPU-b", "GPU-c"))
    seats = [seat(table, str(number), RankRequest(gpus=1)) for number in range(4)]
    assert [found and found[0].gpus for found in seats] == [("GPU-a",), ("GPU-b",), ("GPU-c",), None]


def test_workers_of_one_host_that_offer_one_device_hold_it_once() -> None:
    """As dask-cuda's, each with the list rotated, and as plain workers that all see every GPU."""
    table = SlotTable()
    for worker, gpus in (("w0", ("0", "1")), ("w1", ("1", "0"))):
        table.join(worker, host="h", cpus=4, gpus=gpus)
    request = RankRequest(gpus=1, ranks=2)
    assert table.n_slots(request) == 2
    seats = seat(table, "a", request)
    assert seats is not None
    assert sorted(found.gpus for found in seats) == [("0",), ("1",)]
    assert seat(table, "b", RankRequest(gpus=0.5)) is None


def test_one_worker_a_device_takes_the_first_of_its_rotated_list() -> None:
    table = SlotTable()
    for index in range(4):
        rotated = tuple(str((index + turn) % 4) for turn in range(4))
        table.join(f"w{index}", host="h", cpus=1, gpus=rotated)
    seats = seat(table, "a", RankRequest(ranks=4, gpus=1))
    assert seats is not None
    assert [(found.worker, found.gpus) for found in seats] == [(f"w{index}", (str(index),)) for index in range(4)]


def test_parts_of_a_device_fill_it_before_the_next_one_is_begun() -> None:
    table = SlotTable()
    table.join("w", host="h", cpus=9, gpus=("a", "b"))
    quarter = RankRequest(gpus=0.25)
    assert table.n_slots(quarter) == 8
    seats = [seat(table, str(number), quarter) for number in range(5)]
    assert [found and found[0].gpus for found in seats] == [("a",)] * 4 + [("b",)]
    assert seat(table, "whole", RankRequest(gpus=1)) is None
    table.release("4")
    assert [holder for holder, _ in table.grants()] == ["whole"]
    third = RankRequest(gpus=1 / 3)
    assert table.n_slots_of("w", third) == 6


def test_none_while_busy_and_free_again_once_every_rank_is_reaped() -> None:
    table = SlotTable()
    table.join("w", host="h", cpus=2)
    assert seat(table, "a", RankRequest(ranks=2))
    assert seat(table, "b") is None
    table.end_rank("a", 1)
    table.end_rank("a", 1)
    assert table.grants() == []  # the other rank still runs
    table.end_rank("a", 0)
    assert [holder for holder, _ in table.grants()] == ["b"]
    table.release("a")
    assert [seat(table, holder) is None for holder in "cd"] == [False, True]


def test_a_holder_that_asks_again_neither_waits_nor_gets_more() -> None:
    table = SlotTable()
    table.join("w", host="h", cpus=2)
    assert seat(table, "a")
    assert seat(table, "a") is None
    assert table.holders == ["a"]
    assert seat(table, "b")


def test_never_is_an_exception_that_names_what_would_fit() -> None:
    table = SlotTable()
    with pytest.raises(GangTooLarge, match="nothing: it has no worker"):
        table.check(ONE)
    table.join("w", host="h", cpus=5)
    with pytest.raises(GangTooLarge, match=r"4 ranks with 2 CPUs each, .* is 2 ranks of that size$"):
        table.check(RankRequest(ranks=4, cpus=2))
    with pytest.raises(GangTooLarge, match=r"64 CPUs each, but the largest that fits .* is 1 rank with 5 CPUs$"):
        table.check(RankRequest(cpus=64))
    table.join("v", host="g", cpus=4)
    table.check(RankRequest(ranks=4, cpus=2))
    with pytest.raises(GangTooLarge, match=r"each on one host, but .* is 2 ranks of that size on one host$"):
        table.check(RankRequest(ranks=4, cpus=2, one_host=True))
    table.join("u", host="i", cpus=2, gpus=("0", "1"), memory_bytes=64_000_000_000)
    with pytest.raises(GangTooLarge, match=r"0.5 GPU, 1e\+03 GB of memory each"):
        table.check(RankRequest(gpus=0.5, memory_bytes=10**12))


def test_a_gang_prefers_one_host_and_there_the_tightest() -> None:
    table = SlotTable()
    for worker, host, cpus in (("a1", "a", 1), ("b1", "b", 4), ("c1", "c", 2)):
        table.join(worker, host=host, cpus=cpus)
    seats = seat(table, "gang", RankRequest(ranks=2))
    assert seats is not None
    assert [(found.host, found.rank, found.local_rank) for found in seats] == [("c", 0, 0), ("c", 1, 1)]


def test_a_gang_that_needs_several_hosts_takes_few_and_its_ranks_stand_together() -> None:
    table = SlotTable()
    for host, cpus in (("a", 1), ("b", 3), ("c", 1), ("d", 2)):
        table.join(host, host=host, cpus=cpus)
    seats = seat(table, "gang", RankRequest(ranks=4))
    assert seats is not None
    assert [(found.host, found.local_rank) for found in seats] == [("b", 0), ("b", 1), ("b", 2), ("d", 0)]


def test_a_gang_of_one_host_waits_for_one() -> None:
    table = SlotTable()
    for host in "ab":
        table.join(host, host=host, cpus=2)
    assert seat(table, "single")
    pair = RankRequest(ranks=2, one_host=True)
    assert table.n_gangs(pair) == 2
    assert seat(table, "first", pair)
    assert seat(table, "second", pair) is None
    table.release("single")
    assert [holder for holder, _ in table.grants()] == ["second"]


def test_hosts_are_avoided_as_long_as_there_are_others() -> None:
    table = SlotTable()
    for host in "ab":
        table.join(host, host=host, cpus=1)
    shy = RankRequest(avoid=frozenset({"a"}))
    seats = seat(table, "x", shy)
    assert seats is not None
    assert seats[0].host == "b"
    assert seat(table, "y", shy) is None  # it waits for the other host
    table.leave("b")
    assert [(holder, seats[0].host) for holder, seats in table.grants()] == [("y", "a")]


def test_small_gangs_pass_a_big_one_only_so_often() -> None:
    table = SlotTable()
    table.join("w", host="h", cpus=4)
    assert seat(table, "0")
    table.ask("big", RankRequest(ranks=4))
    granted = 0
    for number in range(1, 3 * MAX_OVERTAKEN):
        table.ask(str(number), ONE)
        granted += len(table.grants())
        if number > 2:  # some stay, so that the big one never fits by luck
            table.release(str(number - 2))
            granted += len(table.grants())
    assert granted == MAX_OVERTAKEN
    for holder in list(table.holders):
        if holder != "big" and table.seats_of(holder):
            table.release(holder)
    assert table.grants()[0][0] == "big"


def test_a_gang_that_no_worker_could_hold_is_in_nobodys_way() -> None:
    table = SlotTable()
    table.join("w", host="h", cpus=1)
    table.ask("big", RankRequest(ranks=4))
    for number in range(3 * MAX_OVERTAKEN):
        assert seat(table, str(number))
        table.release(str(number))


def test_a_worker_that_comes_back_starts_empty_whatever_old_leases_do() -> None:
    table = SlotTable()
    table.join("w", host="h", cpus=1)
    seat(table, "old")
    table.leave("w")
    assert table.holders == []
    table.join("w", host="h", cpus=1)
    seat(table, "new")
    table.release("old")
    assert seat(table, "next") is None


def test_a_worker_that_was_closed_keeps_what_sits_there_and_gets_nothing_more() -> None:
    table = SlotTable()
    table.join("w", host="h", cpus=2)
    table.ask("first", RankRequest())
    assert len(table.grants()) == 1
    table.close("w")
    table.close("w")
    table.ask("second", RankRequest())
    assert table.grants() == []
    assert len(table.seats_of("first")) == 1
    assert table.n_gangs(RankRequest()) == 0
    table.join("v", host="h", cpus=1)
    assert [seats[0].worker for _, seats in table.grants()] == ["v"]
    table.release("first")
    table.leave("w")
