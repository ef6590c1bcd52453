"""The code as it was at submission: a read-only copy of the project, named by the hash of its content.

Jobs run from the copy, so that an edit, another branch or a deleted folder cannot change what has been submitted.
Equal content is copied once. What belongs to the code: `project_files.py`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dlcluster.errors import PreconditionError
from dlcluster.files import file_sha256, make_dir, sync_dir, tree_sha256, write_bytes
from dlcluster.launch.project_files import IGNORE_HINT, ProjectFile, Selection, select_files
from dlcluster.run_dir import SweepDir

HASH_DIGITS = 16


@dataclass(frozen=True)
class Snapshot:
    """`hash` is the first 16 digits of `tree_sha256(path)` and the folder's name.

    `ignored` are the files left out because they look like secrets; `notes` are sentences for the user.
    """

    hash: str
    path: Path
    n_files: int
    n_bytes: int
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def take_snapshot(root: Path, sweep: SweepDir, runs_dir: Path) -> Snapshot:
    """Copy the project to `code/<hash>` unless that content is there already.

    Raises UsageError for a project that is too large or has links that leave it, PreconditionError for one that cannot
    be read or a run directory that cannot be written. Nothing is written before the project has been looked through.
    """
    root = root.resolve()
    try:
        selection = _select(root, sweep, runs_dir)
        found = _content_hash(selection.files)
        if not verify_snapshot(sweep.code_dir / found, found):
            found = _copy(selection, sweep.code_dir, found)
    except OSError as error:
        raise PreconditionError(
            f"{error.filename or root}: cannot take the snapshot of the code: {error.strerror or error}",
            f"the project must be readable and {sweep.path} writable; {IGNORE_HINT}",
        ) from error
    n_bytes = sum(file.n_bytes for file in selection.files)
    return Snapshot(
        found, sweep.code_dir / found, len(selection.files), n_bytes, selection.ignored, sorted(set(selection.notes))
    )


def hash_of_code(root: Path, sweep: SweepDir, runs_dir: Path) -> str:
    """The hash that a snapshot taken now would have. Raises what `take_snapshot` raises for an unusable project."""
    return _content_hash(_select(root.resolve(), sweep, runs_dir).files)


def _select(root: Path, sweep: SweepDir, runs_dir: Path) -> Selection:
    # with `--runs-dir .` runs lie among the code: only those that are recognised as runs are left out then
    return select_files(root, frozenset({runs_dir.resolve(), sweep.path.resolve()} - {root}))


def verify_snapshot(path: Path, expected_hash: str) -> bool:
    """Whether the folder holds exactly the content that its hash stands for; False if it is missing."""
    return path.is_dir() and tree_sha256(path)[:HASH_DIGITS] == expected_hash


def _content_hash(files: list[ProjectFile]) -> str:
    """What `tree_sha256` will say of a copy, computed on the originals."""
    digest = hashlib.sha256()
    for file in files:
        if file.link is not None:
            digest.update(f"link {file.name}\0{file.link}\0".encode())
        else:
            executable = "x" if file.executable else "-"
            with suppress(FileNotFoundError):  # deleted just now: then it will not be in the copy either
                digest.update(f"file {file.name}\0{executable}{file_sha256(file.source)}\0".encode())
    return digest.hexdigest()[:HASH_DIGITS]


def _copy(selection: Selection, code_dir: Path, expected: str) -> str:
    """Copy into a scratch folder and give it its name: the hash of what was copied, whatever was expected."""
    make_dir(code_dir)
    scratch = code_dir / f".copy.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        make_dir(scratch)
        _copy_files(selection.files, scratch)
        found = tree_sha256(scratch)[:HASH_DIGITS]
        _make_read_only(scratch)
        _move_into_place(scratch, code_dir / found, found, selection.notes)
    finally:
        remove_snapshot(scratch)
    if found != expected:
        selection.notes.append("the code changed while it was copied: the snapshot holds what was read")
    sync_dir(code_dir)
    return found


def _copy_files(files: list[ProjectFile], target: Path) -> None:
    for file in files:
        copy = target / file.name
        make_dir(copy.parent)
        if file.link is not None:
            os.symlink(file.link, copy)
            continue
        try:
            content = file.source.read_bytes()
        except FileNotFoundError:
            continue
        # Not synced one by one: a power cut can leave holes, but whoever uses a snapshot checks its hash first.
        write_bytes(copy, content, durable=False)
        if file.executable:
            copy.chmod(0o100 | copy.stat().st_mode | (copy.stat().st_mode & 0o440) >> 2)


def _make_read_only(folder: Path) -> None:
    """0500 for folders and programs, 0400 for other files (with the group's bits if runs are shared with it)."""
    for path, folders, names in os.walk(folder):
        for entry in [path, *(os.path.join(path, name) for name in (*folders, *names))]:
            if not os.path.islink(entry):
                os.chmod(entry, stat.S_IMODE(os.stat(entry).st_mode) & ~0o222)


def _move_into_place(scratch: Path, target: Path, expected: str, notes: list[str]) -> None:
    """Rename, unless another command was first with the same content; a damaged snapshot is moved out of the way."""
    if target.exists() and not verify_snapshot(target, expected):
        with suppress(FileNotFoundError):  # another command has just done so
            os.rename(target, target.with_name(f".damaged.{target.name}.{secrets.token_hex(4)}"))
        notes.append(f"{target} had been changed since it was taken: it was moved aside and taken again")
    try:
        os.rename(scratch, target)
    except OSError:
        if not verify_snapshot(target, expected):
            raise


def remove_snapshot(path: Path) -> None:
    """Delete a snapshot, whose folders are read-only; no error if it is not there."""
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path, ignore_errors=True)
