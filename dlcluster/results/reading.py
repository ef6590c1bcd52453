"""Reading the journals of one trial, all of them or only what has been added since the last time."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from dlcluster.file_reading import again_if_stale, open_to_read
from dlcluster.files import parse_json_line
from dlcluster.journal import AttemptFacts, is_sound
from dlcluster.results.series import EMPTY, Series, is_valid, merge, series_from_records
from dlcluster.run_dir import ATTEMPT_PATTERN, AttemptDir, TrialDir

NOT_A_ROW = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
ATTEMPTS, JOURNAL = TrialDir(Path()).attempts_dir.name, AttemptDir(Path()).journal.name
NEWLINE = ord("\n")


class Unreadable(Exception):
    """Something of a trial can not be read: not ours, not allowed, or gone. `path` and `problem` go into a warning."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path, self.problem = path, problem


@dataclass(slots=True)
class AttemptMark:
    """How far an attempt's journal has been read, and what it said up to there: all that later calls need.

    `offset` is in bytes and lies behind a newline. `began`: it has replaced what older attempts had logged later.
    """

    number: int
    inode: int = 0
    size: int = 0
    mtime_ns: int = 0
    offset: int = 0
    began: bool = False
    n_bad_lines: int = 0
    first_bad_offset: int | None = None
    first_time: float | None = None
    last_time: float | None = None
    start: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    last_metrics: dict[str, Any] | None = None
    committed_step: int = 0

    def facts(self) -> AttemptFacts:
        return AttemptFacts(self.number, self.start, self.end, self.last_metrics, self.committed_step)

    def is_same_or_longer(self, now: os.stat_result) -> bool:
        is_same_file = self.inode == now.st_ino and max(self.offset, self.size) <= now.st_size
        return is_same_file and (now.st_size > self.size or now.st_mtime_ns == self.mtime_ns)

    def is_unchanged(self, now: os.stat_result | None) -> bool:
        if now is None:
            return self.inode == 0
        return (self.inode, self.size, self.mtime_ns) == (now.st_ino, now.st_size, now.st_mtime_ns)

    def forget_facts(self) -> None:
        self.start = self.end = self.last_metrics = None

    def seconds(self) -> float:
        """Wall time of the attempt: what its end says, else from its first to its last record (never below 0)."""
        told = (self.end or {}).get("seconds")
        if isinstance(told, (int, float)) and told >= 0:
            return float(told)
        if self.first_time is None or self.last_time is None:
            return 0.0
        return max(0.0, self.last_time - self.first_time)


class Journal(NamedTuple):
    """Where an attempt's journal is, or will be. As text: ten thousand `Path`s take as long as all the looks."""

    number: int
    path: str


@dataclass
class TrialReading:
    """All attempts of a trial: marks, merged metrics, rows that were done again, and bytes read to get here."""

    marks: list[AttemptMark] = field(default_factory=list)
    series: Series = EMPTY
    n_dropped: int = 0
    n_bytes: int = 0


def list_journals(trial_folder: str | Path) -> list[Journal]:
    """The journals of all attempts, oldest first. Raises Unreadable; a folder that is not there yet has none."""
    folder = f"{trial_folder}/{ATTEMPTS}"
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise Unreadable(Path(folder), error.strerror or "unreadable") from error
    journals = [Journal(int(name), f"{folder}/{name}/{JOURNAL}") for name in names if ATTEMPT_PATTERN.fullmatch(name)]
    return sorted(journals) if len(journals) > 1 else journals


def stat_journal(journal: Journal) -> os.stat_result | None:
    """None if there is no journal (yet). Raises Unreadable if it is no file of ours, or can not be looked at."""
    try:
        now = os.stat(journal.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unreadable(Path(journal.path), error.strerror or "unreadable") from error
    if not stat.S_ISREG(now.st_mode):
        raise Unreadable(Path(journal.path), "not a regular file")
    return now


def read_trial(journals: Sequence[Journal]) -> TrialReading:
    """Everything from the beginning. Raises Unreadable."""
    reading = TrialReading()
    for journal in journals:
        _read_on(reading, journal, AttemptMark(journal.number))
    return reading


def read_on(known: TrialReading, journals: Sequence[Journal]) -> TrialReading:
    """What is known plus what has been appended; everything anew if anything but the end has changed.

    Raises Unreadable.
    """
    if not _only_the_end_changed(known.marks, journals):
        return read_trial(journals)
    reading = TrialReading(list(known.marks), known.series, known.n_dropped)
    n_known = len(known.marks)
    if n_known:
        mark = reading.marks.pop()
        _read_on(reading, journals[n_known - 1], copy(mark))
    for journal in journals[n_known:]:
        _read_on(reading, journal, AttemptMark(journal.number))
    return reading


def _only_the_end_changed(marks: Sequence[AttemptMark], journals: Sequence[Journal]) -> bool:
    """Are all known attempts there, all but the newest untouched, and that one the same file or longer?"""
    if [mark.number for mark in marks] != [journal.number for journal in journals[: len(marks)]]:
        return False
    for mark, journal in zip(marks[:-1], journals, strict=False):
        if not mark.is_unchanged(stat_journal(journal)):
            return False
    if not marks or marks[-1].inode == 0:
        return True
    now = stat_journal(journals[len(marks) - 1])
    return now is not None and marks[-1].is_same_or_longer(now)


def _read_on(reading: TrialReading, journal: Journal, mark: AttemptMark) -> None:
    """Append the attempt with all its complete lines from `mark.offset` on to the reading; `mark` is moved on."""
    if mark.inode and mark.is_unchanged(stat_journal(journal)):
        reading.marks.append(mark)
        return
    opened = _read_lines(Path(journal.path), mark.offset)
    if opened is None:
        reading.marks.append(mark)
        return
    data, now = opened
    found = _parse_lines(data, mark.offset, mark.number)
    mark.inode, mark.size, mark.mtime_ns = now.st_ino, now.st_size, now.st_mtime_ns
    mark.offset += len(data)
    mark.n_bad_lines += len(found.bad)
    if found.bad and mark.first_bad_offset is None:
        mark.first_bad_offset = found.bad[0]
    went_on_from = None if mark.began else _went_on_from(found.records)
    mark.began = mark.began or went_on_from is not None
    _note(mark, found)
    reading.series, n_dropped = merge(reading.series, found.rows, went_on_from)
    reading.n_dropped += n_dropped
    reading.n_bytes += len(data)
    reading.marks.append(mark)


def _read_lines(path: Path, offset: int) -> tuple[bytes, os.stat_result] | None:
    """Complete lines from an offset on and the stat from before they were read; None if there is no such file."""
    try:
        return again_if_stale(lambda: _read_open(path, offset))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unreadable(path, error.strerror or "unreadable") from error


def _read_open(path: Path, offset: int) -> tuple[bytes, os.stat_result]:
    with open_to_read(path) as fd:
        now = os.fstat(fd)
        data = _read_all(fd, offset, now.st_size - offset)
    return data[: data.rfind(b"\n") + 1], now


def _read_all(fd: int, offset: int, n_bytes: int) -> bytes:
    """Up to `n_bytes`; what is appended meanwhile is left for the next time, so that size and data agree."""
    blocks = []
    while n_bytes > 0 and (block := os.pread(fd, n_bytes, offset)):
        blocks.append(block)
        offset, n_bytes = offset + len(block), n_bytes - len(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


@dataclass
class Found:
    """What a piece of a journal holds: all records, those that are no metrics, metric rows, offsets of bad lines."""

    records: list[dict[str, Any]]
    others: list[dict[str, Any]]
    last_metrics: dict[str, Any] | None
    rows: Series
    bad: list[int]


def _parse_lines(data: bytes, offset: int, number: int) -> Found:
    """All lines as one JSON array, which is a third faster; line by line if that is not the same.

    A torn line makes one element of two lines or none at all, so the count tells.
    """
    try:
        records = orjson.loads(b"[%b]" % data[:-1].replace(b"\n", b","))
        if len(records) != np.count_nonzero(np.frombuffer(data, np.uint8) == NEWLINE):  # `bytes.count`: 3 times slower
            raise ValueError("a line is no record")
        return _found(records, [], number)
    except NOT_A_ROW:
        return _found(*_parse_carefully(data, offset), number)


def _found(records: list[dict[str, Any]], bad: list[int], number: int) -> Found:
    """Raises one of NOT_A_ROW if a record is not what its kind says."""
    metrics = [record for record in records if record["kind"] == "metrics"]
    others = [record for record in records if record["kind"] != "metrics"]
    if not all(map(is_sound, others)):
        raise ValueError("a record is not what its kind says")
    return Found(records, others, metrics[-1] if metrics else None, series_from_records(metrics, number), bad)


def _parse_carefully(data: bytes, offset: int) -> tuple[list[dict[str, Any]], list[int]]:
    """Line by line, as `files.read_json_lines` does: zeros around a record are dropped, empty lines are none."""
    records, bad = [], []
    for line in data.split(b"\n")[:-1]:
        record = _strict(parse_json_line(line))
        if record is not None and _is_good(record):
            records.append(record)
        elif line.strip(b"\0 \r"):
            bad.append(offset)
        offset += len(line) + 1
    return records, bad


def _strict(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """The record as strict JSON has it (NaN is null); None for what has no such form (half of a surrogate pair)."""
    try:
        return None if record is None else orjson.loads(orjson.dumps(record))
    except (TypeError, ValueError):
        return None


def _is_good(record: Mapping[str, Any]) -> bool:
    return is_sound(record) and (record.get("kind") != "metrics" or is_valid(record))


def _went_on_from(records: Sequence[Mapping[str, Any]]) -> int | None:
    """The step of the first record that counts: a resume tells it, metrics without one mean 0; None without either."""
    for record in records:
        if record.get("kind") == "metrics":
            return 0
        if record.get("kind") == "resume":
            return record["step"]
    return None


def _note(mark: AttemptMark, found: Found) -> None:
    """What the records say about the attempt, apart from its metrics. The newest of a kind counts."""
    ends = (*found.records[:1], *found.records[-1:])
    times = [record["time"] for record in ends if type(record.get("time")) in (int, float)]
    if times:
        mark.first_time = times[0] if mark.first_time is None else mark.first_time
        mark.last_time = times[-1]
    mark.last_metrics = found.last_metrics or mark.last_metrics
    for record in found.others:
        kind = record.get("kind")
        if kind == "start":
            mark.start = record
        elif kind == "end":
            mark.end = record
        elif kind == "checkpoint":
            mark.committed_step = record["step"]
