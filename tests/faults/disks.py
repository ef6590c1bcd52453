"""File systems that a test mounts for itself: small ones that fill up, and two views of one folder with stale caches."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting file systems needs root")
needs_bindfs = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("bindfs") is None or not Path("/dev/fuse").exists(),
    reason="two views of one folder need root, bindfs and /dev/fuse",
)


@contextmanager
def small_disk(folder: Path, size: str, options: str = "") -> Iterator[Path]:
    """A tmpfs of this size (`1m`), unmounted at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(filter(None, [f"size={size}", "mode=0700", options])), "tmpfs"]
    made = subprocess.run([*mount, str(folder)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"mounting a tmpfs is not possible here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        unmount(folder)


@contextmanager
def stale_view(source: Path, folder: Path, cache_s: int) -> Iterator[Path]:
    """The same folder as another NFS client would see it: look-ups and attributes are remembered for `cache_s`."""
    folder.mkdir(parents=True, exist_ok=True)
    caches = f"attr_timeout={cache_s},entry_timeout={cache_s},negative_timeout={cache_s}"
    made = subprocess.run(["bindfs", "-o", caches, source, folder], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"mounting with bindfs is not possible here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Also if something still uses it: then it goes as soon as that ends."""
    done = subprocess.run(["umount", str(folder)], capture_output=True, check=False)
    if done.returncode:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def fill(folder: Path, leave: int = 0) -> Path:
    """Take all bytes of a small disk but `leave`. Returns the file to delete for having them back."""
    ballast = folder / "ballast"
    with open(ballast, "ab", buffering=0) as file:
        for chunk in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * chunk)
        if leave:
            file.truncate(max(0, file.tell() - leave))
    return ballast
