"""Every file of a cluster, in one folder with a short path."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from .errors import DevClusterError

LONGEST_PATH = 60  # a Unix socket name holds 107 bytes, and slurmd adds spool/n1/n1_<job>.<step>
N_GPUS = 4
NULL_DEVICE = (1, 3)


def default_folder() -> Path:
    """Where the cluster is if nobody says otherwise."""
    return Path(os.environ.get("DEVCLUSTER_DIR") or f"/tmp/dlcluster-dev-{os.getuid()}")  # noqa: S108 - short, checked


@dataclass(frozen=True)
class Layout:
    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "cluster.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def password(self) -> Path:
        """Of the database; its only readers are slurmdbd.conf and the SQL that makes the database user."""
        return self.root / "secret" / "database-password"

    @property
    def munge_key(self) -> Path:
        return self.root / "secret" / "munge.key"

    @property
    def database_start(self) -> Path:
        return self.root / "secret" / "start.sql"

    @property
    def munge_socket(self) -> Path:
        return self.root / "munge" / "socket"

    @property
    def database(self) -> Path:
        return self.root / "mariadb"

    @property
    def database_scratch(self) -> Path:
        """Its own: a MariaDB that starts removes the temporary tables of all others from /tmp."""
        return self.root / "tmp"

    @property
    def slurm_conf(self) -> Path:
        return self.root / "slurm.conf"

    @property
    def slurm_conf_linuxproc(self) -> Path:
        return self.root / "slurm-linuxproc.conf"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def home(self) -> Path:
        """Of the ordinary user, and where jobs may write."""
        return self.root / "home"

    @property
    def cgroup_mounts(self) -> Path:
        """Only where the system has mounted no version 1 controllers itself."""
        return self.root / "cgroup"

    def record(self, daemon: str) -> Path:
        """Who was started as this daemon."""
        return self.run / f"{daemon}.json"

    def log(self, daemon: str) -> Path:
        return self.root / "log" / f"{daemon}.log"

    def output(self, daemon: str) -> Path:
        """What the daemon prints, which holds errors from before it opens its log."""
        return self.root / "log" / f"{daemon}.out"

    def gpu(self, number: int) -> Path:
        return self.root / "gpu" / f"gpu{number}"


def make_folders(layout: Layout, nodes: tuple[str, ...]) -> None:
    """The folders that daemons expect. Everybody may read them, except for the secrets."""
    for name in ("munge", "state", "spool", "run", "log", "gpu", "home", "tmp"):
        (layout.root / name).mkdir(mode=0o755, exist_ok=True)
    for private in (layout.munge_key.parent, layout.state):
        private.mkdir(mode=0o700, exist_ok=True)
        private.chmod(0o700)
    for node in nodes:
        (layout.spool / node).mkdir(exist_ok=True)
    make_gpus(layout)


def check_folder(layout: Layout) -> None:
    """Refuse a folder that other users could tamper with, that holds other things, or whose name is too long."""
    root = layout.root
    if len(str(root)) > LONGEST_PATH:
        raise DevClusterError(
            f"{root}: the path has {len(str(root))} characters, the sockets in it allow {LONGEST_PATH}",
            "choose a shorter one with --dir, such as /tmp/dlc",
        )
    if not root.exists():
        return
    found = root.lstat()
    if root.is_symlink() or not root.is_dir() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise DevClusterError(
            f"{root} is not a folder that only you can write to", "choose another one with --dir, or remove it"
        )
    if not layout.settings.exists() and any(entry != layout.lock for entry in root.iterdir()):
        raise DevClusterError(
            f"{root} is not empty and holds no cluster ({layout.settings.name} is missing)",
            "choose a new or empty folder with --dir",
        )


def make_gpus(layout: Layout) -> None:
    """Copies of /dev/null that gres.conf can list as GPUs."""
    for number in range(N_GPUS):
        path = layout.gpu(number)
        if path.exists():
            continue
        try:
            os.mknod(path, 0o20666, os.makedev(*NULL_DEVICE))
        except OSError as error:
            raise DevClusterError(
                f"cannot make the device node {path}: {error.strerror}",
                "containers need the right to do so (docker run --privileged, or --cap-add MKNOD)",
            ) from error


def delete(layout: Layout) -> None:
    """The whole folder; it must be one of ours."""
    check_folder(layout)
    shutil.rmtree(layout.root)
