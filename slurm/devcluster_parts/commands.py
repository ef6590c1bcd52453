"""Short programs that are run to their end, and waiting."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from .errors import DevClusterError

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POLL_S = 0.02
Found = TypeVar("Found")


def clean_environment(slurm_conf: object, user: str = "root", home: object = "/root") -> dict[str, str]:
    """Nothing of the caller: SLURM_* and SBATCH_* of a shell would change what the tools do."""
    return {
        "PATH": SYSTEM_PATH,
        "LANG": "C.UTF-8",
        "SHELL": "/bin/bash",
        "USER": user,
        "LOGNAME": user,
        "HOME": str(home),
        "SLURM_CONF": str(slurm_conf),
    }


def run(
    argv: Sequence[str], environment: Mapping[str, str] | None = None, *, check: bool = True, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """A program to its end; what it prints is kept."""
    try:
        done = subprocess.run(
            argv,
            env=dict(os.environ if environment is None else environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise DevClusterError(f"the program {argv[0]} is not installed", "run: devcluster install") from None
    except subprocess.TimeoutExpired:
        raise DevClusterError(f"`{' '.join(argv)}` gave no answer within {timeout_s:g} s") from None
    if check and done.returncode:
        raise DevClusterError(f"`{' '.join(argv)}` ended with {done.returncode}: {(done.stderr + done.stdout).strip()}")
    return done


def wait_for(condition: Callable[[], Found], timeout_s: float) -> Found:
    """Poll until it is true or the time is over; returns the last answer."""
    end = time.monotonic() + timeout_s
    while not (found := condition()) and time.monotonic() < end:
        select.select([], [], [], POLL_S)
    return found
