"""On which file system a path lies, and what that means for a run directory: read from /proc/self/mountinfo."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# A type `fuse.NAME` counts as NAME.
SHARED_TYPES = frozenset(
    (
        *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cephfs", "panfs", "wekafs", "glusterfs", "afs"),
        *("orangefs", "pvfs2", "cifs", "smb3", "daos", "dfuse", "quobyte", "juicefs", "moosefs", "lizardfs"),
        *("acfs", "ocfs2", "gfs2"),
    )
)
LOCAL_TYPES = frozenset(
    (
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "overlay"),
        *("vfat", "exfat", "tmpfs", "ramfs"),
    )
)
MEMORY_TYPES = frozenset(("tmpfs", "ramfs"))
# Object stores that look like folders: a rename copies, and nothing can be appended.
UNSUITED_TYPES = frozenset(("s3fs", "goofys", "rclone", "gcsfuse", "blobfuse", "blobfuse2", "mount-s3", "s3ql"))


class Reach(Enum):
    """Who sees the files."""

    SHARED = "shared"
    THIS_MACHINE = "this machine only"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class FileSystem:
    """A mount: its type (without `fuse.`), where it is mounted, from where, and its options."""

    kind: str
    mount_point: str
    source: str = ""
    options: tuple[str, ...] = ()

    @property
    def reach(self) -> Reach:
        if self.kind in SHARED_TYPES or self.kind in UNSUITED_TYPES:
            return Reach.SHARED
        return Reach.THIS_MACHINE if self.kind in LOCAL_TYPES else Reach.UNKNOWN

    @property
    def is_in_memory(self) -> bool:
        return self.kind in MEMORY_TYPES

    @property
    def is_unsuited(self) -> bool:
        return self.kind in UNSUITED_TYPES

    @property
    def gives_up(self) -> bool:
        """An NFS mount with `soft`: a slow server becomes an I/O error instead of a pause."""
        return self.kind in ("nfs", "nfs4") and ("soft" in self.options or "softerr" in self.options)

    @property
    def blind_s(self) -> int:
        """For how long NFS may not show a name that another machine has just made; 0 elsewhere."""
        if self.kind not in ("nfs", "nfs4") or "noac" in self.options:
            return 0
        named = dict(option.partition("=")[::2] for option in self.options)
        text = named.get("actimeo") or named.get("acdirmax") or "60"
        return int(text) if text.isdigit() else 60


def file_system_of(path: Path, mounts: str | None = None) -> FileSystem | None:
    """The file system that holds a path (or would, if it does not exist yet); None if the system does not say."""
    if mounts is None:
        try:
            mounts = MOUNTS.read_text(errors="replace")
        except OSError:
            return None
    where = Path(path).resolve()
    found = None
    for line in mounts.splitlines():
        mount = _parse_mount(line)
        if mount is None or not where.is_relative_to(mount.mount_point):
            continue
        # of several on the same point, the last one mounted hides the others
        if found is None or len(mount.mount_point) >= len(found.mount_point):
            found = mount
    return found


def _parse_mount(line: str) -> FileSystem | None:
    """`36 35 98:0 /root /mount/point rw,noatime shared:1 - nfs4 server:/home rw,soft`."""
    before, dash, after = line.partition(" - ")
    left, right = before.split(), after.split()
    if not dash or len(left) < 6 or len(right) < 2:
        return None
    options = (*left[5].split(","), *(right[2].split(",") if len(right) > 2 else ()))
    kind = right[0].removeprefix("fuse.").removeprefix("fuseblk.")
    return FileSystem(kind, _plain(left[4]), _plain(right[1]), options)


def _plain(text: str) -> str:
    r"""Spaces and the like are written as \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
