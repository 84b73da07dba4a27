"""torchrun's environment, and a port that nobody else is given."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hpsearch.events import Seat
from hpsearch.rendezvous import environment, hold_port, master_address

# About torchrun's own log files and handlers; threads, which the launcher sets; and what any shell sets.
OF_ITS_OWN = {"TORCHELASTIC_ERROR_FILE", "TORCHELASTIC_SIGNALS_TO_HANDLE", "OMP_NUM_THREADS", "COLUMNS", "LINES"}


def seats(*hosts: str) -> list[Seat]:
    local = [hosts[:rank].count(host) for rank, host in enumerate(hosts)]
    return [
        Seat(worker=f"tcp://10.0.0.{ord(host) - ord('a')}:4000", host=host, slot=0, rank=rank, local_rank=local[rank])
        for rank, host in enumerate(hosts)
    ]


def of(gang: list[Seat], rank: int, attempt: int = 1) -> dict[str, str]:
    return environment(gang, rank, run_id="s-0-1", attempt=attempt, max_attempts=3)


def test_ranks_are_numbered_as_torchrun_does() -> None:
    env = of(seats("b", "b", "c"), 2, attempt=2)
    assert env.items() >= {
        "RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "TORCHELASTIC_RESTART_COUNT": "1",
    }.items()  # fmt: skip


def test_one_host_meets_on_its_loopback_and_several_where_rank_0_is_reached() -> None:
    assert master_address(seats("b", "b")) == "127.0.0.1"
    assert master_address(seats("b", "c")) == "10.0.0.1"
    assert master_address([Seat(worker="tcp://[fe80::1]:1", host="a", slot=0, rank=0, local_rank=0), *seats("b")]) == (
        "fe80::1"
    )


@pytest.mark.timeout(120)
def test_every_variable_of_torchrun_is_set(tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text("import os\nprint(' '.join(os.environ))\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", str(script)]
    command[3:3] = ["--master-port", "0"]
    shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    theirs = set(shown.split()) - set(os.environ) - OF_ITS_OWN
    assert theirs <= of(seats("a"), 0).keys()


def test_a_held_port_is_given_to_torch_and_to_nobody_who_asks_for_any() -> None:
    held = [hold_port() for _ in range(200)]
    try:
        ports = {holder.getsockname()[1] for holder in held}
        assert len(ports) == 200
        with socket.socket() as store:
            store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's store does
            store.bind(("", held[0].getsockname()[1]))
            store.listen()
            with socket.create_connection(("127.0.0.1", held[0].getsockname()[1]), timeout=5):
                pass
    finally:
        for holder in held:
            holder.close()
