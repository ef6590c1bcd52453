"""The aggregator's index: one file with how far each journal has been read and all metrics up to there.

A cache: without it everything is read again. It is replaced as a whole, so offsets and metrics always agree:
    line 1              the length of line 2, as 15 digits
    line 2              JSON: format, objective, and the lengths of the blocks
    blocks              JSON: entries of some trials (n_rows rows each, in order)
    the rest            Arrow IPC stream: step, time, attempt, and a column m:NAME a metric (null: not logged)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from dlcluster.files import make_dir_exclusively, replace_when_done
from dlcluster.journal import State, TrialState
from dlcluster.results.pile import PIECE_ROWS, Pile
from dlcluster.results.reading import AttemptMark, TrialReading
from dlcluster.results.series import Objective, Series, has_nonfinite, last_values, names_of, score_of, stack
from dlcluster.run_dir import SweepDir

INDEX_FORMAT = 2
PREAMBLE_BYTES = 16
PREFIX = "m:"
BLOCK_ENTRIES = 1000
# what a damaged or foreign file may raise while it is taken apart
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, pa.ArrowException)


class IndexLost(Exception):
    """The index can not be read any more, or never could."""


@dataclass(slots=True)
class TrialEntry:
    """What is known of a trial after reading it: how far, and what follows from it. `score` is None if unranked."""

    id: str
    marks: tuple[AttemptMark, ...]
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
        return TrialReading(list(self.marks), series, self.n_dropped)


def entry_of(trial_id: str, reading: TrialReading, objective: Objective) -> TrialEntry:
    """Everything that the table of trials needs, from what was read."""
    marks, score = tuple(reading.marks), score_of(reading.series, objective)
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
    _rows: Pile | None = None
    _first_row: dict[str, int] = field(default_factory=dict)

    def place(self, entry: TrialEntry) -> tuple[Pile, int]:
        """Where the metrics of a trial begin. Raises IndexLost, once another process has replaced the file on a network
        disk."""
        if self._rows is None:
            self._rows = self._load_rows()
        return self._rows, self._first_row[entry.id]

    def series(self, entry: TrialEntry) -> Series:
        """The metrics of one trial. Raises IndexLost."""
        rows, first = self.place(entry)
        return stack(list(rows.take(first, first + entry.n_rows)))

    def _load_rows(self) -> Pile:
        n_rows = 0
        for entry in self.entries.values():
            self._first_row[entry.id] = n_rows
            n_rows += entry.n_rows
        try:
            self.source.seek(self.start)
            pieces = list(map(_series_from_arrow, pa.ipc.open_stream(self.source)))
        except BROKEN as error:
            raise IndexLost(str(error)) from error
        if sum(map(len, pieces)) != n_rows:
            raise IndexLost("entries and metrics disagree")
        return Pile(pieces)


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
        blocks = (orjson.loads(source.read(min(size, source.size()))) for size in header["blocks"])
        entries = {entry.id: entry for block in blocks for entry in map(_entry_from_json, block)}
        return Index(entries, source, source.tell())
    except BROKEN:
        return Index()


def _entry_from_json(row: list[Any]) -> TrialEntry:
    entry = TrialEntry(*row)
    entry.marks = tuple(AttemptMark(*mark) for mark in entry.marks)
    entry.first_bad = entry.first_bad and tuple(entry.first_bad)
    return entry


entry_values = attrgetter(*(field.name for field in fields(TrialEntry)))
mark_values = attrgetter(*(field.name for field in fields(AttemptMark)))


def _entry_to_json(entry: TrialEntry) -> list[Any]:
    trial_id, marks, *others = entry_values(entry)
    return [trial_id, list(map(mark_values, marks)), *others]


def save_index(sweep: SweepDir, objective: Objective, entries: Sequence[TrialEntry], parts: Sequence[Series]) -> bool:
    """Replace the index; `parts` are the metrics of the entries, in order. False if that is not possible here."""
    starts = range(0, len(entries), BLOCK_ENTRIES)
    blocks = [orjson.dumps(list(map(_entry_to_json, entries[at : at + BLOCK_ENTRIES]))) for at in starts]
    header = {"format": INDEX_FORMAT, "objective": asdict(objective), "blocks": list(map(len, blocks))}
    line, names = orjson.dumps(header) + b"\n", names_of(parts)
    options = pa.ipc.IpcWriteOptions(compression="lz4")  # metrics hardly shrink any further with zstd
    try:
        make_dir_exclusively(sweep.results_dir)  # this folder only: a run directory that is gone is not made again
        with replace_when_done(index_file(sweep)) as scratch, pa.OSFile(str(scratch), "wb") as sink:
            sink.write(b"%015d\n" % len(line))
            sink.write(line)
            for block in blocks:
                sink.write(block)
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
        if n_rows >= PIECE_ROWS:
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


def _series_from_arrow(batch: pa.RecordBatch) -> Series:
    names = [name for name in batch.schema.names if name.startswith(PREFIX)]
    step, time, attempt = (batch.column(name).to_numpy() for name in ("step", "time", "attempt"))
    values, present = np.empty((len(batch), len(names))), np.ones((len(batch), len(names)), dtype=bool)
    for k, name in enumerate(names):
        column = batch.column(name)
        values[:, k] = column.to_numpy(zero_copy_only=False)
        if column.null_count:
            present[:, k] = column.is_valid().to_numpy(zero_copy_only=False)
    return Series(tuple(name[len(PREFIX) :] for name in names), step, time, attempt, values, present)
