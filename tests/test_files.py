"""The three ways to write, the two ways to read, and what is left after each of them is disturbed."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlcluster import file_reading, files
from dlcluster.file_reading import appears, find_last_line, read_bytes, read_ends
from dlcluster.files import (
    AppendFile,
    append_json_line,
    json_line,
    make_dir,
    make_dir_exclusively,
    read_json,
    read_json_lines,
    replace_when_done,
    write_json,
    write_text,
)
from tests.support import wait_until

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=8)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "journal.jsonl"


def fresh(folder: Path) -> Path:
    """One file name an example: hypothesis calls a test many times with one `tmp_path`."""
    fresh.count = getattr(fresh, "count", 0) + 1
    return folder / f"{fresh.count}.jsonl"


# -- appending ------------------------------------------------------------------------------------------------------


@quick
@given(rows=ROWS)
def test_what_is_appended_is_read_back(tmp_path, rows):
    path = fresh(tmp_path)
    file = AppendFile(path)
    for row in rows:
        file.write_row(row)
    file.close()
    found, damage, position = read_json_lines(path)
    assert found == rows
    assert damage.n_bad_lines == 0
    assert position == path.stat().st_size


@quick
@given(
    rows=ROWS, cut=st.integers(0, 10_000), zeros=st.integers(0, 40), later=st.dictionaries(st.text(), JSON, max_size=2)
)
def test_any_cut_leaves_what_was_before_it_and_the_next_line_is_whole(tmp_path, rows, cut, zeros, later):
    whole = b"".join(map(json_line, rows))
    cut = min(cut, len(whole))
    path = fresh(tmp_path)
    path.write_bytes(whole[:cut] + b"\0" * zeros)
    n_whole = whole[:cut].count(b"\n")
    assert read_json_lines(path)[0][:n_whole] == rows[:n_whole]
    append_json_line(path, later)
    found, damage, _ = read_json_lines(path)
    assert found[:n_whole] == rows[:n_whole]
    assert found[-1] == later
    assert len(found) + damage.n_bad_lines in (n_whole + 1, n_whole + 2)
    assert damage.n_bad_lines <= 1


@quick
@given(rows=ROWS, at=st.integers(0, 10_000), n=st.integers(1, 4096))
def test_a_page_of_zeros_in_the_middle_costs_the_lines_it_covers(tmp_path, rows, at, n):
    whole = b"".join(map(json_line, rows))
    at = min(at, len(whole))
    path = fresh(tmp_path)
    path.write_bytes(whole[:at] + b"\0" * min(n, len(whole) - at) + whole[at + n :])
    found, damage, _ = read_json_lines(path)
    before, after = whole[:at].count(b"\n"), whole[at + n :].count(b"\n")
    assert found[:before] == rows[:before]
    assert damage.n_bad_lines <= 1
    kept_behind = max(0, after - 1)
    assert found[len(found) - kept_behind :] == rows[len(rows) - kept_behind :]


@quick
@given(rows=ROWS, data=st.data())
def test_reading_on_from_the_offset_gives_the_same_as_reading_at_once(tmp_path, rows, data):
    whole = b"".join(map(json_line, rows))
    path = fresh(tmp_path)
    found, offset = [], 0
    for cut in sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5))) + [len(whole)]:
        path.write_bytes(whole[:cut])
        more, damage, offset = read_json_lines(path, offset)
        found += more
        assert damage.n_bad_lines == 0
    assert found == rows


@quick
@given(junk=st.binary(max_size=300))
def test_junk_never_raises(tmp_path, junk):
    path = fresh(tmp_path)
    path.write_bytes(junk)
    rows, damage, position = read_json_lines(path)
    assert all(isinstance(row, dict) for row in rows)
    assert position == junk.rfind(b"\n") + 1
    assert len(rows) + damage.n_bad_lines <= junk.count(b"\n")
    read_json(path)


def test_a_bad_line_is_counted_with_the_offset_of_the_first(target):
    target.write_bytes(b'{"a":1}\n{"b":\n[1]\n\n{"c":3}\n{"torn"')
    rows, damage, position = read_json_lines(target)
    assert rows == [{"a": 1}, {"c": 3}]
    assert (damage.n_bad_lines, damage.first_bad_offset, damage.path) == (2, 8, target)
    assert position == target.stat().st_size - len(b'{"torn"')


def test_deep_nesting_is_a_bad_line(target):
    target.write_bytes(b"[" * 100_000 + b"\n" + b'{"a":' * 100_000 + b"\n")
    assert read_json_lines(target)[1].n_bad_lines == 2
    assert read_json(target) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_no_json_are_refused(target, value):
    with pytest.raises(ValueError, match="Out of range"):
        append_json_line(target, {"loss": value})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(target, {"loss": value})
    assert not target.exists() or target.read_bytes() == b""


class SmallDisk:
    """`os.write` and `os.ftruncate` as on a disk with so many bytes left, which gives a short write first."""

    def __init__(self, monkeypatch, free, chunk=10**9, truncate_works=True):
        self.free, self.chunk, self.truncate_works = free, chunk, truncate_works
        self.write, self.ftruncate = os.write, os.ftruncate
        monkeypatch.setattr(files.os, "write", self.short_write)
        monkeypatch.setattr(files.os, "ftruncate", self.maybe_truncate)

    def short_write(self, fd, data):
        n = min(len(data), self.free, self.chunk)
        if n == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.free -= n
        return self.write(fd, bytes(data[:n]))

    def maybe_truncate(self, fd, size):
        if not self.truncate_works:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.free += os.fstat(fd).st_size - size
        self.ftruncate(fd, size)


@pytest.mark.parametrize("chunk", [1, 3, 7, 10**9])
@pytest.mark.parametrize("free", range(25))
def test_a_line_is_whole_or_not_there_when_the_disk_fills(target, monkeypatch, free, chunk):
    append_json_line(target, {"n": 1})
    before = target.read_bytes()
    file = AppendFile(target)
    disk = SmallDisk(monkeypatch, free, chunk)
    row = {"text": "0123456789"}
    if free < len(json_line(row)):
        with pytest.raises(OSError, match=r"journal\.jsonl") as raised:
            file.write_row(row)
        assert raised.value.errno == errno.ENOSPC
        assert target.read_bytes() == before
    disk.free = 1000
    file.write_row({"n": 2})
    file.close()
    assert read_json_lines(target)[0][-1] == {"n": 2}
    assert read_json_lines(target)[1].n_bad_lines == 0


def test_a_tail_that_cannot_be_cut_off_is_closed_by_the_next_line(target, monkeypatch):
    file = AppendFile(target)
    file.write_row({"n": 1})
    disk = SmallDisk(monkeypatch, free=5, truncate_works=False)
    for _ in range(2):
        with pytest.raises(OSError, match=r"journal\.jsonl"):
            file.write_row({"n": 2})
        disk.free = 1
    disk.free = 1000
    file.write_row({"n": 3})
    file.write_row({"n": 4})
    file.close()
    rows, damage, _ = read_json_lines(target)
    assert rows == [{"n": 1}, {"n": 3}, {"n": 4}]
    assert damage.n_bad_lines <= 2


def test_append_does_not_follow_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="link"):
        AppendFile(tmp_path / "link")
    assert not (tmp_path / "victim").exists()


# -- replacing ------------------------------------------------------------------------------------------------------


def test_replace_keeps_the_old_file_when_the_body_fails(target):
    target.write_text("old")
    with pytest.raises(RuntimeError, match="body"), replace_when_done(target) as scratch:
        scratch.write_text("half of the new")
        raise RuntimeError("body")
    assert target.read_text() == "old"
    assert os.listdir(target.parent) == [target.name]


def test_replace_syncs_the_file_before_its_name_and_the_folder_after(target, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd):
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def noted_replace(source, destination):
        calls.append(("replace", str(destination)))
        replace(source, destination)

    monkeypatch.setattr(files.os, "fsync", noted_fsync)
    monkeypatch.setattr(files.os, "replace", noted_replace)
    write_text(target, "new")
    assert [name for name, _ in calls] == ["fsync", "replace", "fsync"]
    assert calls[0][1].startswith(str(target.parent / f".{target.name}."))
    assert calls[1:] == [("replace", str(target)), ("fsync", str(target.parent))]
    calls.clear()
    write_text(target, "newer", durable=False)
    assert [name for name, _ in calls] == ["replace"]


def test_two_writers_at_once_never_make_a_mixture(target):
    texts = {"a" * 100_000, "b" * 100_000}
    stop = threading.Event()

    def write_again_and_again(text):
        while not stop.is_set():
            write_text(target, text, durable=False)

    threads = [threading.Thread(target=write_again_and_again, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    try:
        wait_until(target.exists, "the first write")
        assert {target.read_text() for _ in range(200)} <= texts
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_modes_are_private_whatever_the_umask(tmp_path, umask):
    old = os.umask(umask & 0o077)
    try:
        make_dir(tmp_path / "a" / "b")
        write_text(tmp_path / "a" / "b" / "file", "x")
        append_json_line(tmp_path / "a" / "b" / "lines", {})
    finally:
        os.umask(old)
    for path in (tmp_path / "a").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_claim_is_won_once(tmp_path):
    assert [make_dir_exclusively(tmp_path / "0001") for _ in range(3)] == [True, False, False]
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for parent in ("gone", "nowhere"):
        with pytest.raises(FileNotFoundError):
            make_dir_exclusively(tmp_path / parent / "0001")


# -- reading --------------------------------------------------------------------------------------------------------


def test_reading_something_else_than_a_file_raises_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("fifo", "folder", "loop"):
        with pytest.raises(OSError, match=name):
            read_bytes(tmp_path / name)
    assert read_json(tmp_path / "missing") is None


def test_a_file_that_went_stale_is_opened_once_more(target, monkeypatch):
    target.write_text('{"a":1}\n')
    pread, stale = os.pread, [True, True, False]

    def stale_pread(*arguments):
        if stale.pop(0):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return pread(*arguments)

    monkeypatch.setattr(file_reading.os, "pread", stale_pread)
    with pytest.raises(OSError, match="journal"):
        read_bytes(target)
    stale[:] = [True, False, False]
    assert read_bytes(target) == b'{"a":1}\n'


@quick
@given(
    lines=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=30), tail=st.binary(max_size=9)
)
def test_the_last_line_with_a_text_is_found_from_the_end(tmp_path, lines, tail):
    path = fresh(tmp_path)
    tail = tail.replace(b"\n", b"")
    path.write_bytes(b"".join(line + b"\n" for line in lines) + tail)
    text = b"\x00" if lines and b"\x00" in lines[0] else b"a"
    expected = next((line for line in reversed(lines) if text in line), b"")
    for block in (1, 2, 7, 64, 65_536):
        assert find_last_line(path, text, block) == expected


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 199, 200, 201, 1000])
def test_the_ends_of_a_file(target, size):
    data = bytes(range(256)) * 4
    target.write_bytes(data[:size])
    head, tail, is_all = read_ends(target, 100)
    assert head == data[:size][:100]
    assert tail == data[:size][-100:]
    assert is_all == (size <= 100)


def test_only_the_list_of_a_folder_counts_as_a_no(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("")
    lexists, n_noes = os.path.lexists, [2]

    def forgetful(path):
        if n_noes[0]:
            n_noes[0] -= 1
            return False
        return lexists(path)

    monkeypatch.setattr(file_reading.os.path, "lexists", forgetful)
    assert appears(tmp_path / "a" / "file")
    assert not appears(tmp_path / "a" / "other")
    assert not appears(tmp_path / "b" / "c" / "other")
    n_noes[0] = 10**9
    assert not appears(tmp_path / "a" / "file", timeout_s=0.3)


def test_half_a_surrogate_pair_in_a_message_costs_a_character_not_the_record(target):
    append_json_line(target, {"message": "file \udcff.txt"})
    assert read_json_lines(target)[0] == [{"message": "file ?.txt"}]
    write_json(target, {"message": "file \udcff.txt"})
    assert read_json(target) == {"message": "file ?.txt"}


def test_what_can_never_appear_is_not_waited_for(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    began = time.monotonic()
    for folder in ("file", "link", "missing"):
        assert not appears(tmp_path / folder / "a" / "b")
        assert not appears(tmp_path / folder / "a")
    assert time.monotonic() - began < 5


def test_every_record_is_strict_json_of_one_line():
    row = {"text": "line\nbreak \u2028 \0 \x85 ü", "n": 1}
    line = json_line(row)
    assert line.count(b"\n") == 1
    assert json.loads(line) == row
