"""Reading regular files, also from a network disk: replaced while they are open, or there before they are seen."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
# NFS clients remember for up to 60 s that a name did not exist.
NEGATIVE_CACHE_S = 90.0


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of calls that know a file descriptor only are given the name of the file."""
    try:
        yield
    except OSError as error:
        give_name(error, path)
        raise


def give_name(error: OSError, path: Path) -> None:
    if error.filename is None:
        error.filename = str(path)


@contextmanager
def open_to_read(path: Path) -> Iterator[int]:
    """A file descriptor of a regular file. Raises OSError for anything else: a FIFO would make us wait for ever."""
    with named(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            yield fd
        finally:
            os.close(fd)


def again_if_stale(read: Callable[[], T]) -> T:
    """What `read` returns. On a network disk a file may be replaced while it is open: then it is opened once more."""
    try:
        return read()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return read()


def read_bytes(path: Path, offset: int = 0) -> bytes:
    """All bytes of a regular file from an offset on."""
    return again_if_stale(lambda: _read_bytes(path, offset))


def _read_bytes(path: Path, offset: int) -> bytes:
    with open_to_read(path) as fd:
        blocks = []
        size = max(os.fstat(fd).st_size - offset + 1, 65_536)  # more than expected: a short read is the end
        while block := os.pread(fd, size, offset):
            blocks.append(block)
            offset += len(block)
            if len(block) < size:
                break
    return b"".join(blocks)


def read_ends(path: Path, n_bytes: int) -> tuple[bytes, bytes, bool]:
    """The first and the last `n_bytes` of a file, and whether that is all of it (then both are the same)."""
    return again_if_stale(lambda: _read_ends(path, n_bytes))


def _read_ends(path: Path, n_bytes: int) -> tuple[bytes, bytes, bool]:
    with open_to_read(path) as fd:
        head = os.pread(fd, n_bytes, 0)
        if len(head) < n_bytes:
            return head, head, True
        size = os.fstat(fd).st_size
        return head, os.pread(fd, n_bytes, max(0, size - n_bytes)), size <= n_bytes


def find_last_line(path: Path, text: bytes, block: int = 65_536) -> bytes:
    """The last complete line with this text, read from the end backwards; empty if there is none."""
    with open_to_read(path) as fd:
        position, seen = os.fstat(fd).st_size, b""
        while position > 0:
            n_bytes = min(block, position)
            position -= n_bytes
            seen = os.pread(fd, n_bytes, position) + seen
            at = seen.rfind(text, 0, seen.rfind(b"\n") + 1)
            begin = seen.rfind(b"\n", 0, max(at, 0)) + 1
            if at >= 0 and (begin or position == 0):
                return seen[begin : seen.index(b"\n", at)]
            if at < 0:
                seen = seen[: seen.find(b"\n") + 1] or seen
    return b""


def appears(path: Path, timeout_s: float = NEGATIVE_CACHE_S) -> bool:
    """Whether something has this name; for decisions that must not rest on a single failed look-up.

    A network disk remembers for a while that a name did not exist. The list of its folder decides, and what is listed
    but cannot be looked at yet is waited for.
    """
    end = time.monotonic() + timeout_s
    while not os.path.lexists(path):
        if not _is_listed(path) or time.monotonic() >= end:
            return False
        time.sleep(0.2)
    return True


def _is_listed(path: Path) -> bool:
    """Whether the list of its folder has the name; for a folder that cannot be found either, whether its own has."""
    folder = path.parent
    try:
        return path.name in os.listdir(folder)
    except FileNotFoundError:
        return folder != path and not os.path.islink(folder) and _is_listed(folder)
    except (NotADirectoryError, PermissionError):
        return False
