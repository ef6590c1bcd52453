"""Whether a folder can hold a sweep, asked before anything is written: permission, owner, space, name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dlcluster.errors import PreconditionError

MAX_PATH = 200


def check_place(path: Path, min_free_bytes: int, min_free_inodes: int) -> None:
    """Raise PreconditionError with numbers and what to do if a run directory cannot be made or used at `path`."""
    _check_name(path)
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    _check_owner(path)
    if not there.is_dir():
        raise PreconditionError(f"{there}: is not a folder", "choose another --runs-dir")
    _check_space(there, min_free_bytes, min_free_inodes)
    if not os.access(there, os.W_OK | os.X_OK):
        raise PreconditionError(f"{there}: no permission to write", "choose another --runs-dir")


def _check_name(path: Path) -> None:
    text = str(path)
    bad = [c for c in text if c == "%" or not c.isprintable()]
    if bad:
        raise PreconditionError(f"{text!a}: {bad[0]!a} is not allowed in the path of a run directory")
    if len(text) > MAX_PATH:
        raise PreconditionError(f"{text[:60]}...: a path of {len(text)} characters; at most {MAX_PATH} are allowed")


def _check_owner(path: Path) -> None:
    """A run directory of somebody else, or one that anybody may write or replace, would run foreign code as us."""
    _check_parents(path)
    if not path.exists():
        return
    info = path.stat()
    if info.st_uid != os.getuid():
        raise PreconditionError(f"{path}: belongs to another user (uid {info.st_uid})", "choose another --runs-dir")
    if info.st_mode & stat.S_IWOTH:
        raise PreconditionError(f"{path}: everybody may write in it", f"chmod o-w {path}")


def _check_parents(path: Path) -> None:
    """Up to the home folder or the mount: where everybody may rename, the run directory can be exchanged."""
    for parent in path.parents:
        if not parent.exists():
            continue
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise PreconditionError(
                f"{parent}: everybody may write in it, and so exchange what lies below", f"chmod o-w {parent}"
            )
        if parent == Path.home() or parent.is_mount():
            return


def _check_space(there: Path, min_free_bytes: int, min_free_inodes: int) -> None:
    try:
        space = os.statvfs(there)
    except OSError as error:
        raise PreconditionError(f"{there}: {error.strerror}") from error
    if os.ST_RDONLY & space.f_flag:
        raise PreconditionError(f"{there}: the file system is read-only", "choose another --runs-dir")
    free = space.f_bavail * space.f_frsize
    if free < min_free_bytes:
        raise PreconditionError(
            f"{there}: {free >> 20} MiB free, at least {min_free_bytes >> 20} MiB are needed", "free some space"
        )
    if space.f_files and space.f_favail < min_free_inodes:
        raise PreconditionError(
            f"{there}: {space.f_favail} inodes free, at least {min_free_inodes} are needed", "delete some files"
        )
