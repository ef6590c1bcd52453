"""The only place that opens files for writing.

Three ways to write, and each survives a kill, a full disk and a power cut at any moment:
* `replace_when_done`: a uniquely named scratch file, fsync, rename, fsync of the folder. Readers see old or new.
* `AppendFile`: one writer, one `write()` per line; an unfinished last line of an earlier crash is closed first.
* `make_dir_exclusively`: `mkdir`, the one claim that is exclusive on every file system worth supporting.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcluster.file_reading import appears, give_name, named, read_bytes

DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_file_mode, _dir_mode = 0o600, 0o700


def share_with_group() -> None:
    """From now on this process writes for its group too (0640, 0750 and set-group-id) instead of for its owner only."""
    global _file_mode, _dir_mode
    _file_mode, _dir_mode = 0o640, 0o2750


def is_disk_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS


def write_all(fd: int, data: bytes) -> None:
    """`os.write` may write less than asked and only fail the next time: loop until all is written or it raises."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_dir(path: Path) -> None:
    """Make the entries of a folder (new names, renames) survive a power cut."""
    with named(path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_file(path: Path) -> None:
    """Make what any process has written to a file survive a power cut."""
    with named(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def make_dir(path: Path) -> None:
    """Make a folder and its missing parents, readable by us only (or by the group); existing ones are left alone."""
    if not path.is_dir():
        if path.parent != path:
            make_dir(path.parent)
        _mkdir(path, exist_ok=True)


def make_dir_exclusively(path: Path) -> bool:
    """Claim `path` by making it: True for exactly one of all who try, on any file system.

    Raises FileNotFoundError if the folder that it shall lie in is gone.
    """
    try:
        return _claim(path)
    except FileNotFoundError:
        if not appears(path.parent):
            raise
        return _claim(path)


def _claim(path: Path) -> bool:
    try:
        _mkdir(path, exist_ok=False)
    except FileExistsError:
        return False
    return True


def _mkdir(path: Path, *, exist_ok: bool) -> None:
    try:
        os.mkdir(path, _dir_mode & 0o777)
    except FileExistsError:
        if not exist_ok:
            raise
        return
    if _dir_mode & 0o2000:
        os.chmod(path, _dir_mode)  # mkdir ignores the set-group-id bit, and the umask may be stricter than `share`


@contextmanager
def replace_when_done(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a scratch path; move it over `target` only if the body succeeds.

    With `durable` the new content has reached the disk before its name does. A scratch file that a hard kill leaves
    behind starts with a dot and is ignored by every reader.
    """
    name = f".{target.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    scratch = target.with_name(name)
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _file_mode)
    try:
        with named(scratch):
            os.close(fd)
        if _file_mode != 0o600:
            os.chmod(scratch, _file_mode)
        yield scratch
        if durable:
            sync_file(scratch)
        os.replace(scratch, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(scratch)
        raise
    if durable:
        sync_dir(target.parent)


def write_bytes(target: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a file's content as a whole."""
    with replace_when_done(target, durable=durable) as scratch, named(target):
        fd = os.open(scratch, os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)


def write_text(target: Path, text: str, *, durable: bool = True) -> None:
    write_bytes(target, text.encode(errors="replace"), durable=durable)


def write_json(target: Path, value: Any, *, durable: bool = True) -> None:
    write_text(target, json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n", durable=durable)


def json_line(row: dict[str, Any]) -> bytes:
    """One record as strict JSON (never NaN or Infinity, nor half a surrogate pair) with its newline."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="replace") + b"\n"


def write_json_lines(target: Path, rows: list[dict[str, Any]]) -> None:
    """Replace a JSON-lines file as a whole."""
    write_bytes(target, b"".join(map(json_line, rows)))


class AppendFile:
    """An append-only file with one writer at a time. A line is either written whole or cut off again."""

    def __init__(self, path: Path) -> None:
        self.path, self._is_torn = path, False
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.fd = os.open(path, flags, _file_mode)
        try:
            self._start_on_a_fresh_line()
        except OSError as error:
            give_name(error, path)
            os.close(self.fd)
            raise

    def _start_on_a_fresh_line(self) -> None:
        size = os.fstat(self.fd).st_size
        if size and os.pread(self.fd, 1, size - 1) != b"\n":
            self.write(b"\n")

    def write(self, data: bytes) -> None:
        """Append in one `write()`; when the disk fills in the middle, cut the torn tail off again and raise."""
        if self._is_torn:
            data = b"\n" + data
        try:
            written = os.write(self.fd, data)
            if written != len(data):
                self._write_rest(data, written)
        except OSError as error:
            give_name(error, self.path)
            raise
        self._is_torn = False

    def _write_rest(self, data: bytes, written: int) -> None:
        was_torn, self._is_torn = self._is_torn, True
        begin = os.fstat(self.fd).st_size - written
        try:
            write_all(self.fd, data[written:])
        except OSError:
            with suppress(OSError):  # if not even that works, the next line starts with a newline
                os.ftruncate(self.fd, begin)
                self._is_torn = was_torn
            raise

    def write_row(self, row: dict[str, Any]) -> None:
        self.write(json_line(row))

    def sync(self) -> None:
        with named(self.path):
            os.fsync(self.fd)

    def close(self) -> None:
        with named(self.path):
            os.close(self.fd)


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    """Append one record to a file that nobody else is writing now."""
    file = AppendFile(path)
    try:
        file.write_row(row)
    finally:
        file.close()


def open_log(path: Path) -> int:
    """A file descriptor to which a trial's output is appended."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _file_mode)


def reserve_space(path: Path, n_bytes: int) -> None:
    """Occupy real blocks, so that there is room for a last record when the disk is full."""
    write_bytes(path, os.urandom(n_bytes), durable=False)


@dataclass
class Damage:
    """What could not be read in one file: complete lines that are no record."""

    path: Path
    n_bad_lines: int = 0
    first_bad_offset: int | None = None

    def add(self, offset: int) -> None:
        self.n_bad_lines += 1
        if self.first_bad_offset is None:
            self.first_bad_offset = offset


def read_json_lines(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], Damage, int]:
    """Every readable record from a byte offset on, what was not readable, and the offset to go on from.

    A live writer's unfinished last line is no damage and is left for the next call. Bytes of zero, as file systems
    leave them after a power cut, are dropped around a record.
    """
    data, damage = read_bytes(path, offset), Damage(path)
    rows = list(each_json_line(data, damage, offset))
    return rows, damage, offset + data.rfind(b"\n") + 1


def each_json_line(data: bytes, damage: Damage, offset: int = 0) -> Iterator[dict[str, Any]]:
    """The records on the complete lines of a piece of a file that begins at an offset; the others go to `damage`."""
    begin = 0
    while end := data.find(b"\n", begin) + 1:
        row = parse_json_line(line := data[begin : end - 1])
        if row is not None:
            yield row
        elif line.strip(b"\0 \r"):
            damage.add(offset + begin)
        begin = end


def parse_json_line(line: bytes) -> dict[str, Any] | None:
    """The record on a line, or None if there is none."""
    try:
        row = json.loads(line.strip(b"\0"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def read_json(path: Path) -> Any:
    """A JSON file, or None if it is missing or damaged: files that are replaced as a whole are whole or absent."""
    try:
        return json.loads(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tree_sha256(root: Path) -> str:
    """The hash of a folder's content: names, executable bits, link targets and bytes of everything below it."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*"), key=lambda p: p.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            digest.update(f"link {name}\0{os.readlink(path)}\0".encode())
        elif path.is_file():
            executable = "x" if path.stat().st_mode & 0o100 else "-"
            digest.update(f"file {name}\0{executable}{file_sha256(path)}\0".encode())
    return digest.hexdigest()
