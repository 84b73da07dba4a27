"""GPUs without GPUs: what a worker offers, what a rank sees, and its part of a shared one."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ranks import JOBS, assignment

from hpsearch import rank
from hpsearch.coordinator.orders import Orders
from hpsearch.coordinator.proposals import Proposal
from hpsearch.events import Launch, Seat
from hpsearch.placement import RankRequest, SlotTable
from hpsearch.spec import Resources, load_study
from hpsearch.spec.command import Command
from hpsearch.supervisor.devices import visible_gpus
from hpsearch.supervisor.plugin import describe


def worker(*plugins: object, cpus: int = 4) -> Any:
    return SimpleNamespace(
        state=SimpleNamespace(nthreads=cpus),
        memory_manager=SimpleNamespace(memory_limit=10**9),
        plugins={str(number): plugin for number, plugin in enumerate(plugins)},
    )


class CPUAffinity:
    """As dask-cuda gives it to each of its workers."""


CPUAffinity.__module__ = "dask_cuda.plugins"


@pytest.mark.parametrize("visible", ["2,3", "GPU-5ebe9f43,GPU-ac33420d", "MIG-1,MIG-2"])
def test_a_plain_worker_offers_every_gpu_that_it_sees_and_dask_cudas_its_first(
    monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert describe(worker())["gpus"] == visible.split(",")
    assert describe(worker(CPUAffinity()))["gpus"] == visible.split(",")[:1]


def test_no_gpu_is_offered_where_none_is_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert describe(worker())["gpus"] == []


def test_four_dask_cuda_workers_give_four_ranks_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    table = SlotTable()
    for index in range(4):
        rotated = [str((index + turn) % 4) for turn in range(4)]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(rotated))
        facts = describe(worker(CPUAffinity(), cpus=2))
        table.join(f"w{index}", **{**facts, "gpus": tuple(facts["gpus"])})
    table.ask("gang", RankRequest(ranks=4, gpus=1))
    ((_, seats),) = table.grants()
    assert [(seat.worker, seat.gpus) for seat in seats] == [(f"w{index}", (str(index),)) for index in range(4)]


def order(tmp_path: Path, gpus_per_rank: Any, *gpus: tuple[str, ...], script: bool = False) -> list[dict[str, Any]]:
    study = load_study(
        f"{JOBS / 'gang.py'}:train", environ={}, options={"directory": str(tmp_path), "budget.trials": 1}
    )
    spec = replace(study, resources=Resources(ranks=len(gpus), gpus_per_rank=gpus_per_rank, no_progress_s=60))
    if script:
        spec = replace(spec, objective=replace(spec.objective, command=Command(words=(), written=("train",))))
    seats = tuple(
        Seat(worker="tcp://h:1", host="h", slot=number, rank=number, local_rank=number, gpus=of_rank)
        for number, of_rank in enumerate(gpus)
    )
    launch = Launch(trial=0, attempt=1, seats=seats, next_step=None)
    proposal = Proposal(
        number=0, params={}, distributions={}, user_attrs={}, datetime_start="2026-01-01", first_decision_step=None
    )
    return [Orders(spec).order(launch, seat, proposal) for seat in seats]


def test_each_rank_sees_its_own_devices_alone(tmp_path: Path) -> None:
    orders = order(tmp_path, 2, ("GPU-a", "GPU-b"), ("GPU-c", "GPU-d"))
    environments = [one["assignment"]["env"] for one in orders]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments] == ["GPU-a,GPU-b", "GPU-c,GPU-d"]
    assert [env["LOCAL_RANK"] for env in environments] == ["0", "1"]
    assert not any("XLA_PYTHON_CLIENT_MEM_FRACTION" in env for env in environments)
    assert [one["assignment"]["gpu_fraction"] for one in orders] == [None, None]


def test_a_scripts_local_rank_names_its_device_as_under_torchrun(tmp_path: Path) -> None:
    orders = order(tmp_path, 1, ("GPU-a",), ("GPU-b",), script=True)
    assert [one["assignment"]["env"]["CUDA_VISIBLE_DEVICES"] for one in orders] == ["GPU-a,GPU-b"] * 2
    assert [one["assignment"]["device"] for one in orders] == [0, 1]
    several = order(tmp_path, 2, ("GPU-a", "GPU-b"), ("GPU-c", "GPU-d"), script=True)
    assert [one["assignment"]["env"]["CUDA_VISIBLE_DEVICES"] for one in several] == ["GPU-a,GPU-b", "GPU-c,GPU-d"]


def test_only_rank_0_is_held_to_its_progress(tmp_path: Path) -> None:
    assert [one["limits"]["no_progress_s"] for one in order(tmp_path, "auto", (), ())] == [60, None]


def test_a_part_of_a_gpu_is_said_to_every_library(tmp_path: Path) -> None:
    (one,) = order(tmp_path, 0.25, ("3",))
    assert one["assignment"]["gpu_fraction"] == 0.25
    assert one["assignment"]["env"]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.25"
    (none,) = order(tmp_path, 0.25, ())
    assert none["assignment"]["gpu_fraction"] is None


class FakeTorch:
    """CUDA that counts what is done to it."""

    def __init__(self, *, built: bool) -> None:
        self.queued: list[Callable[[], object]] = []
        self.capped: list[tuple[float, int]] = []
        self.backends = SimpleNamespace(cuda=SimpleNamespace(is_built=lambda: built))
        self.cuda = SimpleNamespace(
            _lazy_call=self.queued.append,
            set_per_process_memory_fraction=lambda fraction, device: self.capped.append((fraction, device)),
        )


@pytest.mark.parametrize("built", [True, False])
def test_the_cap_waits_for_the_first_touch_of_cuda(monkeypatch: pytest.MonkeyPatch, built: bool) -> None:
    torch = FakeTorch(built=built)
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]
    rank._share_gpu(None)
    assert torch.queued == []
    rank._share_gpu(0.25)
    assert torch.capped == []  # CUDA is not initialised for it
    for call in torch.queued:  # as torch does when it comes up
        call()
    assert torch.capped == ([(0.25, 0)] if built else [])


@pytest.mark.gpu
def test_a_rank_is_held_to_its_part_of_a_real_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as the launcher has it: no fork survives CUDA
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pid = os.fork()
    if pid == 0:
        rank._share_gpu(assignment(tmp_path, gpu_fraction=0.1)["gpu_fraction"])
        total = torch.cuda.get_device_properties(0).total_memory
        try:
            torch.empty(int(0.2 * total), dtype=torch.uint8, device="cuda")
        except torch.cuda.OutOfMemoryError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@pytest.mark.parametrize(("declared", "seen"), [("0,-1,1", ["0"]), ("-1", []), ("", []), (" 2, 3", ["2", "3"])])
def test_what_stands_after_minus_1_is_hidden(declared: str, seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", declared)
    assert visible_gpus() == seen
