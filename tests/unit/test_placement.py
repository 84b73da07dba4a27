"""The slot table: all seats or none."""

import pytest

from hpsearch.errors import GangTooLarge
from hpsearch.placement import RankRequest, SlotTable


def table(ranks: int = 1, cpus: int = 1, gpus: int = 0, memory_bytes: int | None = None) -> SlotTable:
    return SlotTable(RankRequest(ranks=ranks, cpus=cpus, gpus=gpus, memory_bytes=memory_bytes))


def test_a_worker_is_cut_into_slots_of_the_request() -> None:
    slots = table(cpus=2)
    assert slots.join("w", host="h", cpus=7) == 3
    assert slots.n_slots == slots.n_free == 3


def test_joining_twice_keeps_what_is_taken() -> None:
    slots = table()
    slots.join("w", host="h", cpus=2)
    slots.acquire("a")
    slots.join("w", host="h", cpus=2)
    assert slots.n_free == 1


def test_the_scarcest_resource_decides() -> None:
    assert table(cpus=1, gpus=2).join("w", host="h", cpus=8, gpus=("0", "1", "2", "3", "4")) == 2
    assert table(memory_bytes=4).join("w", host="h", cpus=8, memory_bytes=10) == 2


def test_no_two_seats_share_a_device() -> None:
    slots = table(gpus=1)
    slots.join("w", host="h", cpus=8, gpus=("a", "b", "c"))
    seats = [slots.acquire(str(i)) for i in range(3)]
    assert sorted(seat[0].gpus for seat in seats if seat) == [("a",), ("b",), ("c",)]


def test_a_dask_cuda_worker_means_the_first_device_of_its_list() -> None:
    slots = table(gpus=1)
    slots.join("w", host="h", cpus=1, gpus=("3", "0", "1", "2"))
    (seat,) = slots.acquire("a") or ()
    assert seat.gpus == ("3",)
    assert slots.n_free == 0


def test_none_while_busy_and_free_again_after_release() -> None:
    slots = table()
    slots.join("w", host="h", cpus=1)
    assert slots.acquire("a") is not None
    assert slots.acquire("b") is None
    slots.release("a")
    slots.release("a")
    assert slots.acquire("b") is not None
    assert slots.n_free == 0


def test_a_holder_cannot_take_twice() -> None:
    slots = table()
    slots.join("w", host="h", cpus=2)
    slots.acquire("a")
    with pytest.raises(ValueError, match="holds seats already"):
        slots.acquire("a")


def test_never_is_an_exception_that_names_what_would_fit() -> None:
    slots = table(ranks=4, cpus=2)
    slots.join("w", host="h", cpus=5)
    with pytest.raises(GangTooLarge, match=r"4 ranks with 2 CPUs each.*2 ranks of that size"):
        slots.acquire("a")


def test_too_small_a_worker_holds_none() -> None:
    slots = table(cpus=64)
    assert slots.join("w", host="h", cpus=2) == 0
    with pytest.raises(
        GangTooLarge, match=r"64 CPUs each, but the largest that fits on this cluster is 1 rank with 2 CPUs$"
    ):
        slots.check()


def test_a_gang_prefers_one_host_and_there_the_tightest() -> None:
    slots = table(ranks=2)
    slots.join("a1", host="a", cpus=1)
    slots.join("b1", host="b", cpus=4)
    slots.join("c1", host="c", cpus=2)
    seats = slots.acquire("gang")
    assert seats is not None
    assert {seat.host for seat in seats} == {"c"}
    assert [(seat.rank, seat.local_rank) for seat in seats] == [(0, 0), (1, 1)]


def test_a_gang_that_needs_several_hosts_takes_few() -> None:
    slots = table(ranks=4)
    for host, cpus in (("a", 1), ("b", 3), ("c", 1), ("d", 2)):
        slots.join(host, host=host, cpus=cpus)
    seats = slots.acquire("gang")
    assert seats is not None
    assert {seat.host for seat in seats} == {"b", "d"}
    assert [seat.local_rank for seat in seats] == [0, 1, 2, 0]


def test_a_worker_that_comes_back_starts_empty_whatever_old_leases_do() -> None:
    slots = table()
    slots.join("w", host="h", cpus=1)
    slots.acquire("old")
    slots.leave("w")
    slots.join("w", host="h", cpus=1)
    slots.acquire("new")
    slots.release("old")
    assert slots.n_free == 0


def test_what_would_fit_is_said_in_what_was_asked_for() -> None:
    slots = table(gpus=8, memory_bytes=4)
    slots.join("w", host="h", cpus=2, gpus=("0", "1"), memory_bytes=64_000_000_000)
    with pytest.raises(GangTooLarge, match=r"1 rank with 2 CPUs, 2 GPUs, 64 GB of memory$"):
        slots.check()
    with pytest.raises(GangTooLarge, match="nothing: it has no worker"):
        table().check()
