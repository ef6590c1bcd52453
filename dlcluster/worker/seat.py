"""Which of the processes of a trial this one is, and what training code finds about it in its environment."""

from __future__ import annotations

import re
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"
FIRST_PORT, N_PORTS = 20_000, 10_000  # below those that Linux gives to outgoing connections


@dataclass(frozen=True)
class Seat:
    """The default is that of a trial which is one process."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node: int = 0
    master_address: str = LOOPBACK
    master_port: int = 0

    @property
    def is_first(self) -> bool:
        """Of all the processes, the one that reports."""
        return self.rank == 0

    def environment(self) -> dict[str, str]:
        """The names of torchrun; CUDA_VISIBLE_DEVICES stays whole, so that a rank takes `cuda:LOCAL_RANK`."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "GROUP_RANK": str(self.node),
            "MASTER_ADDR": self.master_address,
            "MASTER_PORT": str(self.master_port),
        }


ALONE = Seat()


def seats_of_node(node: int, n_nodes: int, per_node: int, address: str, port: int) -> list[Seat]:
    """Ranks follow one another node by node, as torchrun and `srun --distribution=block` count them."""
    first, size = node * per_node, n_nodes * per_node
    return [Seat(first + local, size, local, per_node, node, address, port) for local in range(per_node)]


def master_address(environ: Mapping[str, str], n_nodes: int) -> str:
    """Where the other nodes reach the first one, on which the supervisor runs and rank 0 too.

    srun ran there, and SLURM_LAUNCH_NODE_IPADDR is the address from which it reached the node that asks: it needs no
    name service (the node names of a small cluster may not resolve at all), and it has just worked. Without it, the
    first name of the node list if that can be resolved, else this host's own address.
    """
    if n_nodes == 1:
        return LOOPBACK
    if address := environ.get("SLURM_LAUNCH_NODE_IPADDR", ""):
        return address
    for name in (first_name(environ.get("SLURM_JOB_NODELIST", "")), socket.gethostname()):
        try:
            return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
        except (OSError, UnicodeError, IndexError):
            continue
    return LOOPBACK


def first_name(nodes: str) -> str:
    """`n[1-2,5]` -> `n1`."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    return match[1] + (match[2] or "") if match else ""


def free_port(seed: str) -> int:
    """A port that nobody listens on now; other trials of this machine, with other seeds, begin to look elsewhere.

    Nobody reserves it: should another program take it before rank 0 does, the trial fails with torch's EADDRINUSE.
    """
    start = zlib.crc32(seed.encode())
    for i in range(N_PORTS):
        port = FIRST_PORT + (start + i) % N_PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port from {FIRST_PORT} to {FIRST_PORT + N_PORTS - 1}")
