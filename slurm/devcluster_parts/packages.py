"""The programs a cluster needs, from the packages of Debian or Ubuntu."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .commands import SYSTEM_PATH
from .errors import DevClusterError

PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacctmgr")
PACKAGES = ("munge", "mariadb-server", "slurm-wlm", "slurmdbd")
POLICY = Path("/usr/sbin/policy-rc.d")  # asked by packages before they start a service; 101 means no
NO_SERVICES = "#!/bin/sh\nexit 101\n"
NOT_ALLOWED = 101


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program, path=SYSTEM_PATH) is None]


def check_programs() -> None:
    if missing := missing_programs():
        raise DevClusterError(f"not installed: {', '.join(missing)}", "run: devcluster install")


def check_root() -> None:
    if os.geteuid() != 0:
        raise DevClusterError(
            "only root can do this: the daemons start jobs for other users, and GPUs are device nodes",
            "run it with sudo, or in a container or a virtual machine",
        )


def install() -> str:
    """Install what is missing, without starting any service. Returns what was done."""
    missing = missing_programs()
    if not missing:
        return "everything is installed"
    check_root()
    if shutil.which("apt-get") is None:
        raise DevClusterError(
            "this is neither Debian nor Ubuntu: there is no apt-get",
            f"install the programs {', '.join(missing)} in the way of this system",
        )
    with no_services_started():
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", "--no-upgrade", *PACKAGES)
    check_programs()
    return f"installed: {', '.join(missing)}"


def _apt_get(*arguments: str) -> None:
    argv = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l"}
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DevClusterError(f"`{' '.join(argv)}` ended with {done.returncode}:\n{done.stderr.strip()}")


@contextmanager
def no_services_started() -> Iterator[None]:
    """Packages start nothing and restart nothing meanwhile. A policy that is there already stays as it is."""
    if POLICY.exists():
        answer = subprocess.run([str(POLICY), "munge", "start"], capture_output=True, check=False).returncode
        if answer != NOT_ALLOWED:
            raise DevClusterError(
                f"{POLICY} of this machine lets packages start services", f"install {', '.join(PACKAGES)} by hand"
            )
        yield
        return
    POLICY.write_text(NO_SERVICES)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
