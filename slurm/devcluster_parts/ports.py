"""Free TCP ports, so that several clusters can run side by side."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import DevClusterError

FIRST_PORT = 17000
BLOCK = 8
N_BLOCKS = 1900  # all below 32768, where the kernel takes ports for outgoing connections from
NAMES = ("slurmctld", "slurmdbd", "mariadb", "n1", "n2", "n3", "n4")
JOBS_PER_BLOCK = 30000  # cgroups of two clusters must differ, and their names hold only node and job id


def port_of(block: int, name: str) -> int:
    return FIRST_PORT + BLOCK * block + NAMES.index(name)


def first_job_id(block: int) -> int:
    return 1 + block * JOBS_PER_BLOCK


@contextmanager
def reserved_block(preferred: int | None) -> Iterator[int]:
    """A block of which all ports are free. No other cluster takes it until the `with` ends.

    The search goes upwards from the preferred one: job ids never fall, and must not get into the range of others.
    """
    first = preferred or 0
    for block in (*range(first, N_BLOCKS), *range(first)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
            if _claimed(claim, block) and all(_is_free(port_of(block, name)) for name in NAMES):
                yield block
                return
    last = FIRST_PORT + BLOCK * N_BLOCKS
    raise DevClusterError(f"no {BLOCK} free ports in a row from {FIRST_PORT} to {last}", "stop another cluster")


def _claimed(claim: socket.socket, block: int) -> bool:
    """By an abstract socket: only one process can have it, and it is gone with that process."""
    try:
        claim.bind(f"\0dlcluster-devcluster-{block}")
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    """Connections that ended a moment ago do not count, nor do they for the daemons."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def is_open(port: int) -> bool:
    """Whether somebody on this machine listens there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_open_unix(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        return probe.connect_ex(path) == 0
