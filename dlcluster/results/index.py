"""The aggregator's index: one file with how far each journal has been read and all metrics up to there.

A cache: without it everything is read again. It is replaced as a whole, so offsets and metrics always agree:
    line 1              the length of line 2, as 15 digits
    line 2              JSON: format, objective, and an entry a trial (n_rows rows each, in order)
    the rest            Arrow IPC stream: step, time, attempt, and a column m:NAME a metric (null: not logged)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from dlcluster.files import make_dir_exclusively, replace_when_done
from dlcluster.journal import State, TrialState
from dlcluster.results.reading import AttemptMark, TrialReading
from dlcluster.results.series import Objective, Series, has_nonfinite, last_values, names_of, score_of, stack
from dlcluster.run_dir import SweepDir

INDEX_FORMAT = 1
PREAMBLE_BYTES = 16
PREFIX = "m:"
# Written in pieces: memory that a process has not had before takes longer to get than to fill.
BATCH_ROWS = 1 << 15
# what a damaged or foreign file may raise while it is taken apart
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, pa.ArrowException)


class IndexLost(Exception):
    """The index can not be read any more, or never could."""


@dataclass
class TrialEntry:
    """What is known of a trial after reading it: how far, and what follows from it. `score` is None if unranked."""

    id: str
    marks: list[AttemptMark]
    n_rows: int
    n_dropped: int
    seconds: float
    snapshot: str
    score: float | None
    score_step: int | None
    last: dict[str, float | None]
    nonfinite: bool
    n_bad_lines: int
    first_bad: tuple[int, int] | None
    state: str = ""
    reason: str = ""

    @property
    def is_final(self) -> bool:
        """A completed trial never changes: one look at its journal is enough."""
        return self.state == State.COMPLETED.value

    def set_state(self, state: TrialState) -> None:
        """From now on the trial has this state; the facts of a completed one are needed no more."""
        self.state, self.reason = state.state.value, state.reason
        if self.is_final:
            for mark in self.marks:
                mark.forget_facts()

    def reading(self, series: Series) -> TrialReading:
        return TrialReading(self.marks, series, self.n_dropped)


def entry_of(trial_id: str, reading: TrialReading, objective: Objective) -> TrialEntry:
    """Everything that the table of trials needs, from what was read."""
    marks, score = reading.marks, score_of(reading.series, objective)
    snapshots = dict.fromkeys(
        mark.start["snapshot"] or "live" for mark in marks if mark.start and "snapshot" in mark.start
    )
    bad = [(mark.number, mark.first_bad_offset) for mark in marks if mark.first_bad_offset is not None]
    return TrialEntry(
        trial_id,
        marks,
        len(reading.series),
        reading.n_dropped,
        sum(mark.seconds() for mark in marks),
        "+".join(snapshots),
        *(score or (None, None)),
        last_values(reading.series),
        has_nonfinite(reading.series),
        sum(mark.n_bad_lines for mark in marks),
        bad[0] if bad else None,
    )


def index_file(sweep: SweepDir) -> Path:
    return sweep.results_dir / "index.arrows"


@dataclass
class Index:
    """Entries by trial, and the metrics of all of them, loaded when they are first asked for."""

    entries: dict[str, TrialEntry] = field(default_factory=dict)
    source: Any = None
    start: int = 0
    _rows: Series | None = None
    _first_row: dict[str, int] = field(default_factory=dict)

    def series(self, entry: TrialEntry) -> Series:
        """The metrics of one trial. Raises IndexLost, once another process has replaced the file on a network disk."""
        if self._rows is None:
            self._rows = self._load_rows()
            first = 0
            for known in self.entries.values():
                self._first_row[known.id] = first
                first += known.n_rows
        first = self._first_row[entry.id]
        return self._rows.take(slice(first, first + entry.n_rows))

    def _load_rows(self) -> Series:
        try:
            self.source.seek(self.start)
            reader = pa.ipc.open_stream(pa.py_buffer(self.source.read()))
            return _series_from_arrow(reader, sum(entry.n_rows for entry in self.entries.values()))
        except BROKEN as error:
            raise IndexLost(str(error)) from error


def load_index(sweep: SweepDir, objective: Objective) -> Index:
    """The index, or an empty one if there is none that is readable, of this format and made for this objective."""
    file = index_file(sweep)
    try:
        if not file.is_file():
            return Index()
        source = pa.OSFile(str(file), "rb")
        n_bytes = int(source.read(PREAMBLE_BYTES))
        header = orjson.loads(source.read(min(n_bytes, source.size())))
        is_ours = header["format"] == INDEX_FORMAT and header["objective"] == asdict(objective)
        if not is_ours:
            return Index()
        entries = {row["id"]: _entry_from_json(row) for row in header["entries"]}
    except BROKEN:
        return Index()
    return Index(entries, source, PREAMBLE_BYTES + n_bytes)


def _entry_from_json(row: dict[str, Any]) -> TrialEntry:
    row["marks"] = [AttemptMark(*mark) for mark in row["marks"]]
    row["first_bad"] = row["first_bad"] and tuple(row["first_bad"])
    return TrialEntry(**row)


def _entry_to_json(entry: TrialEntry) -> dict[str, Any]:
    return {**vars(entry), "marks": [tuple(vars(mark).values()) for mark in entry.marks]}


def save_index(sweep: SweepDir, objective: Objective, entries: Sequence[TrialEntry], parts: Sequence[Series]) -> bool:
    """Replace the index; `parts` are the metrics of the entries, in order. False if that is not possible here."""
    header = {"format": INDEX_FORMAT, "objective": asdict(objective), "entries": list(map(_entry_to_json, entries))}
    line, names = orjson.dumps(header) + b"\n", names_of(parts)
    options = pa.ipc.IpcWriteOptions(compression="lz4")  # metrics hardly shrink any further with zstd
    try:
        make_dir_exclusively(sweep.results_dir)  # this folder only: a run directory that is gone is not made again
        with replace_when_done(index_file(sweep)) as scratch, pa.OSFile(str(scratch), "wb") as sink:
            sink.write(b"%015d\n" % len(line))
            sink.write(line)
            with pa.ipc.new_stream(sink, _schema(names), options=options) as writer:
                for batch in _batches(parts):
                    writer.write_batch(_series_to_arrow(stack(batch, names)))
    except OSError:  # read-only, full, another owner, gone: a cache is not worth an error
        return False
    return True


def _schema(names: Sequence[str]) -> pa.Schema:
    metrics = [(PREFIX + name, pa.float64()) for name in names]
    return pa.schema([("step", pa.int64()), ("time", pa.float64()), ("attempt", pa.int32()), *metrics])


def _batches(parts: Sequence[Series]) -> Iterator[list[Series]]:
    batch, n_rows = [], 0
    for part in parts:
        batch.append(part)
        n_rows += len(part)
        if n_rows >= BATCH_ROWS:
            yield batch
            batch, n_rows = [], 0
    yield batch


def _series_to_arrow(rows: Series) -> pa.RecordBatch:
    columns = [pa.array(rows.step), pa.array(rows.time), pa.array(rows.attempt)]
    for k in range(len(rows.names)):
        present = np.ascontiguousarray(rows.present[:, k])
        mask = None if present.all() else ~present
        columns.append(pa.array(np.ascontiguousarray(rows.values[:, k]), mask=mask, from_pandas=False))
    return pa.record_batch(columns, schema=_schema(rows.names))


def _series_from_arrow(reader: pa.RecordBatchReader, n_rows: int) -> Series:
    """Raises ValueError, among others, if there are not as many rows."""
    names = [name for name in reader.schema.names if name.startswith(PREFIX)]
    step, time, attempt = (np.empty(n_rows, dtype=kind) for kind in (np.int64, np.float64, np.int32))
    values, present = np.empty((n_rows, len(names))), np.ones((n_rows, len(names)), dtype=bool)
    at = 0
    for batch in reader:
        rows = slice(at, at + len(batch))
        step[rows], time[rows], attempt[rows] = (batch.column(name).to_numpy() for name in ("step", "time", "attempt"))
        for k, name in enumerate(names):
            column = batch.column(name)
            values[rows, k] = column.to_numpy(zero_copy_only=False)
            if column.null_count:
                present[rows, k] = column.is_valid().to_numpy(zero_copy_only=False)
        at += len(batch)
    if at != n_rows:
        raise ValueError("entries and metrics disagree")
    return Series(tuple(name[len(PREFIX) :] for name in names), step, time, attempt, values, present)
