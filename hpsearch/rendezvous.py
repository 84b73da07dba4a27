"""How the ranks of a gang find each other: the environment that torchrun would set, and a port that stays free.

``torch.distributed.init_process_group`` and every library over it read this environment (``env://``).
"""

import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from hpsearch.events import Seat

LOOPBACK = "127.0.0.1"


def hold_port() -> socket.socket:
    """Bind a free port of this host, on all its interfaces, until the socket is closed.

    It does not listen, and both sides say SO_REUSEADDR: torch may listen there at any time, while the kernel deals the
    port to nobody who asks for just any.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("", 0))
    return holder


def master_address(seats: Sequence[Seat]) -> str:
    """Where rank 0 is found: the loopback if nobody looks from another host, else the address of its worker."""
    if len({seat.host for seat in seats}) == 1:
        return LOOPBACK
    return urlsplit(seats[0].worker).hostname or seats[0].host


def environment(seats: Sequence[Seat], rank: int, *, run_id: str, attempt: int, max_attempts: int) -> dict[str, str]:
    """What torchrun sets for this rank, but for the number of the port, which only rank 0's host can choose.

    Args:
        seats: of the whole gang, in the order of ranks; those of one host stand together.
        run_id: of the attempt; torch only shows it.

    A rank alone gets port 0: it is its own master, at whatever port is free when it asks.
    """
    hosts = list(dict.fromkeys(seat.host for seat in seats))
    seat = seats[rank]
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(seat.local_rank),
        "WORLD_SIZE": str(len(seats)),
        "LOCAL_WORLD_SIZE": str(sum(other.host == seat.host for other in seats)),
        "GROUP_RANK": str(hosts.index(seat.host)),
        "GROUP_WORLD_SIZE": str(len(hosts)),
        "ROLE_RANK": str(rank),
        "ROLE_NAME": "default",
        "ROLE_WORLD_SIZE": str(len(seats)),
        "MASTER_ADDR": master_address(seats),
        "MASTER_PORT": "0",
        "TORCHELASTIC_RESTART_COUNT": str(attempt - 1),
        "TORCHELASTIC_MAX_RESTARTS": str(max_attempts - 1),
        "TORCHELASTIC_RUN_ID": run_id,
        "TORCHELASTIC_USE_AGENT_STORE": "False",  # rank 0 holds the store
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }
