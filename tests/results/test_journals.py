"""Reading journals: torn at any byte, in pieces, while they are written; always what a full reading gives."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlcluster.files import AppendFile, make_dir, write_bytes
from dlcluster.journal import merge_attempts
from dlcluster.results import pile
from dlcluster.results.aggregate import aggregate
from dlcluster.results.index import index_file
from dlcluster.results.reading import list_journals, read_on, read_trial
from dlcluster.results.series import series_from_records, stack
from dlcluster.run_dir import TrialDir
from tests.support import history_of

from .builder import T0, Sweep, line, state_of


def as_rows(series):
    """Rows as `merge_attempts` has them."""
    return [
        {
            "step": int(series.step[i]),
            "attempt": int(series.attempt[i]),
            "time": float(series.time[i]),
            "metrics": {n: series.values[i, k] for k, n in enumerate(series.names) if series.present[i, k]},
        }
        for i in range(len(series))
    ]


def like_merge(rows):
    return [
        {
            "step": row["step"],
            "attempt": row["attempt"],
            "time": float(row["time"]),
            "metrics": {
                name: float(row.get("nonfinite", {}).get(name, "nan")) if value is None else float(value)
                for name, value in row["metrics"].items()
            },
        }
        for row in rows
    ]


def assert_same_rows(left, right):
    np.testing.assert_equal(left, right)


def assert_same_reading(left, right):
    assert left.marks == right.marks
    assert left.n_dropped == right.n_dropped
    assert_same_rows(as_rows(left.series), as_rows(right.series))


# -- torn at every byte -------------------------------------------------------------------------------------------

JOURNAL = b"".join([
    line(kind="start", time=T0, trial="t", config="c", seed=0, params={"näme": "a\n,\"{}[]"}, attempt=1, snapshot="s"),
    line(kind="metrics", step=1, time=T0 + 1, metrics={"val_acc": 0.5, "loss": 1e-7}),
    line(kind="metrics", step=2, time=T0 + 2, metrics={"val_acc": 0.75, "loss": None}, nonfinite={"loss": "inf"}),
    line(kind="checkpoint", time=T0 + 3, step=2, file="f", bytes=1, sha256="0"),
    line(kind="metrics", step=3, time=T0 + 4, metrics={"val_acc": 0.625}),
    line(kind="end", time=T0 + 5, state="completed", reason="", message="ok", seconds=5.0, exit=0),
])  # fmt: skip


def trial_with(path, *journals):
    trial = TrialDir(path)
    for number, data in enumerate(journals, 1):
        make_dir(trial.attempt(number).path)
        write_bytes(trial.attempt(number).journal, data, durable=False)
    return trial


def read(trial):
    return read_trial(list_journals(trial.path))


def complete_rows(data):
    records = [json.loads(text) for text in data[: data.rfind(b"\n") + 1].splitlines()]
    return like_merge(merge_attempts({1: records}, []).metrics)


@pytest.mark.parametrize("tail", [b"", b"\0" * 7, b"\0" * 4096])
def test_any_prefix_is_read_up_to_its_last_whole_line(tmp_path, tail):
    journal = trial_with(tmp_path, b"").attempt(1).journal
    for size in range(len(JOURNAL) + 1):
        write_bytes(journal, JOURNAL[:size] + tail, durable=False)
        reading = read(TrialDir(tmp_path))
        assert_same_rows(as_rows(reading.series), complete_rows(JOURNAL[:size]))
        assert reading.marks[0].n_bad_lines == 0


def test_a_writer_that_goes_on_after_a_tear_costs_one_line_at_most(tmp_path):
    journal = trial_with(tmp_path, b"").attempt(1).journal
    more = line(kind="metrics", step=9, time=T0 + 9, metrics={"val_acc": 0.9})
    for size in range(len(JOURNAL) + 1):
        write_bytes(journal, JOURNAL[:size], durable=False)
        file = AppendFile(journal)
        file.write(more)
        file.close()
        reading = read(TrialDir(tmp_path))
        assert reading.marks[0].n_bad_lines <= 1
        rows = as_rows(reading.series)
        assert rows[-1]["step"] == 9
        whole = complete_rows(JOURNAL[:size])
        assert_same_rows(rows[: len(whole)], whole)


def test_a_page_of_zeros_in_the_middle(tmp_path):
    journal = trial_with(tmp_path, b"").attempt(1).journal
    for size in range(len(JOURNAL)):
        write_bytes(journal, JOURNAL[:size] + b"\0" * 4096 + JOURNAL[size:], durable=False)
        reading = read(TrialDir(tmp_path))
        assert reading.marks[0].n_bad_lines <= 1
        assert len(reading.series) >= 2
        whole = complete_rows(JOURNAL[:size])
        assert_same_rows(as_rows(reading.series)[: len(whole)], whole)


def test_zeros_between_lines_cost_nothing(tmp_path):
    journal = trial_with(tmp_path, JOURNAL.replace(b"\n", b"\n" + b"\0" * 4096)).attempt(1).journal
    reading = read(TrialDir(tmp_path))
    assert_same_rows(as_rows(reading.series), complete_rows(JOURNAL))
    assert (reading.marks[0].n_bad_lines, journal.exists()) == (0, True)


def test_any_byte_flipped_never_raises_and_costs_one_line(tmp_path):
    journal = trial_with(tmp_path, b"").attempt(1).journal
    for position in range(len(JOURNAL)):
        damaged = bytearray(JOURNAL)
        damaged[position] ^= 0x80
        write_bytes(journal, bytes(damaged), durable=False)
        assert len(read(TrialDir(tmp_path)).series) >= 1  # a newline that is gone costs two lines


@pytest.mark.parametrize(
    "bad",
    [b"{}}", b"[1]", b"7", b"null", b'"text"', b"{", b'{"a":1},{"b":2}',
     b'{"kind":"note"},{"kind":"note"}', b"\xff\xfe", b"[" * 100_000,
     b'{"kind":"metrics","step":1,"time":1,"metrics":{"\\ud800":1.0}}', b'{"kind":"metrics","step":1e400}'],
)  # fmt: skip
def test_bad_lines_are_counted_with_their_place(tmp_path, bad):
    lines = JOURNAL.splitlines(keepends=True)
    reading = read(trial_with(tmp_path, b"".join([*lines[:2], bad, b"\n", *lines[2:]])))
    mark = reading.marks[0]
    assert (mark.n_bad_lines, mark.first_bad_offset) == (1, len(lines[0]) + len(lines[1]))
    assert_same_rows(as_rows(reading.series), complete_rows(JOURNAL))


def test_two_lines_that_would_be_one_record_are_none(tmp_path):
    journal = line(kind="note", message="a") + b'{"kind":"note","a":[1\n2]}\n' + JOURNAL
    reading = read(trial_with(tmp_path, journal))
    assert reading.marks[0].n_bad_lines == 2
    assert_same_rows(as_rows(reading.series), complete_rows(JOURNAL))


def test_numbers_that_json_does_not_have_become_missing(tmp_path):
    journal = line(kind="metrics", step=1, time=1, metrics={"a": 1.5}) + (
        b'{"kind":"metrics","step":2,"time":2,"metrics":{"a":NaN,"b":1e999}}\n'
    )
    series = read(trial_with(tmp_path, journal)).series
    assert len(series) == 2
    assert not np.isfinite(series.values[1]).any()
    assert series.present[1].all()


def test_truth_values_beside_missing_ones_are_numbers(tmp_path):
    journal = line(kind="metrics", step=1, time=1, metrics={"a": True}) + (
        b'{"kind":"metrics","step":2,"time":2,"metrics":{"a":null}}\n'
    )
    reading = read(trial_with(tmp_path, journal))
    assert (reading.series.values[0, 0], reading.marks[0].n_bad_lines) == (1.0, 0)
    assert np.isnan(reading.series.values[1, 0])


def test_attempts_of_one_length_share_no_row_with_another_layout(tmp_path):
    """Columns that are the same for all attempts of one length are one array: no layout may write into it."""
    same = b"".join(line(kind="metrics", step=i, time=i, metrics={"a": 0.5, "b": 1.5}) for i in (1, 2))
    mixed = line(kind="metrics", step=1, time=1, metrics={"a": 0.5}) + (
        line(kind="metrics", step=2, time=2, metrics={"b": 1.5})
    )
    before, other = read(trial_with(tmp_path / "1", same)), read(trial_with(tmp_path / "2", mixed))
    after = read(trial_with(tmp_path / "3", same))
    assert before.series.present.all() and after.series.present.all()
    assert other.series.present.tolist() == [[True, False], [False, True]]


def test_an_end_wins_over_what_came_before_and_facts_are_the_newest(tmp_path):
    facts = read(trial_with(tmp_path, JOURNAL)).marks[0].facts()
    assert facts.end["state"] == "completed"
    assert facts.start["seed"] == 0
    assert facts.committed_step == 2
    assert facts.last_metrics["step"] == 3


# -- merging, and reading in pieces -------------------------------------------------------------------------------

value = st.one_of(st.floats(0, 1, width=32), st.integers(-3, 3), st.sampled_from([math.nan, math.inf, -math.inf]))
metrics = st.dictionaries(st.sampled_from(["val_acc", "loss", "é"]), value, max_size=3)
step = st.integers(0, 7)
record = st.one_of(
    st.tuples(st.just("metrics"), step, metrics),
    st.tuples(st.just("metrics"), step, metrics),
    st.tuples(st.just("resume"), step, st.none()),
    st.tuples(st.just("checkpoint"), step, st.none()),
    st.tuples(st.just("note"), st.none(), st.none()),
    st.tuples(st.just("bad"), st.none(), st.none()),
)


def encode(i, kind, at, values):
    if kind == "bad":
        return b'{"kind":"metrics","st\n'
    fields = {"kind": kind, "time": T0 + i, **({} if at is None else {"step": at})}
    if values is not None:
        fields["metrics"] = {k: v if math.isfinite(v) else None for k, v in values.items()}
        words = {k: repr(float(v)) for k, v in values.items() if not math.isfinite(v)}
        fields |= {"nonfinite": words} if words else {}
    return line(**fields)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attempts=st.lists(st.lists(record, max_size=8), min_size=1, max_size=4))
def test_columns_merge_like_records(tmp_path_factory, attempts):
    """Against `journal.merge_attempts`, which is the definition."""
    journals = [b"".join(encode(i, *r) for i, r in enumerate(rows)) for rows in attempts]
    trial = trial_with(tmp_path_factory.mktemp("t"), *journals)
    reading, want = read(trial), history_of(trial)
    assert_same_rows(as_rows(reading.series), like_merge(want.metrics))
    assert reading.n_dropped == want.n_dropped
    assert sum(mark.n_bad_lines for mark in reading.marks) == sum(d.n_bad_lines for d in want.damages)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attempts=st.lists(st.lists(record, max_size=6), min_size=1, max_size=3), data=st.data())
def test_reading_in_pieces_is_reading_at_once(tmp_path_factory, attempts, data):
    """Bytes arrive in pieces that end anywhere, also in older attempts; some pieces are looked at, some are not."""
    trial = trial_with(tmp_path_factory.mktemp("t"))
    known = read(trial)
    journals = [b"".join(encode(i, *r) for i, r in enumerate(rows)) for rows in attempts]
    files = {}
    left = {number: journal for number, journal in enumerate(journals, 1)}
    while left:
        number = data.draw(st.sampled_from(sorted(left)[:2]))
        size = data.draw(st.integers(0, len(left[number])))
        make_dir(trial.attempt(number).path)
        file = files.get(number) or files.setdefault(number, open_plain(trial.attempt(number).journal))
        file.write(left[number][:size])
        left[number] = left[number][size:]
        if not left[number]:
            del left[number]
        if data.draw(st.booleans()):
            known = read_on(known, list_journals(trial.path))
            assert_same_reading(known, read(trial))
    for file in files.values():
        file.close()
    assert_same_reading(read_on(known, list_journals(trial.path)), read(trial))


def open_plain(path):
    return AppendFile(path)


def test_only_what_is_new_is_read(tmp_path):
    trial = trial_with(tmp_path, JOURNAL)
    known = read(trial)
    more = line(kind="note", time=T0 + 7, message="x")
    file = AppendFile(trial.attempt(1).journal)
    file.write(more)
    file.close()
    assert read_on(known, list_journals(trial.path)).n_bytes == len(more)


def test_a_pile_gives_back_what_was_put_in(monkeypatch):
    rng = random.Random(0)
    monkeypatch.setattr(pile, "PIECE_ROWS", 100)
    parts = []
    for _ in range(300):
        names = rng.sample("abc", rng.randint(1, 3))
        rows = [
            {"step": k, "time": rng.random(), "metrics": dict.fromkeys(names, 0.5)} for k in range(rng.randint(0, 9))
        ]
        parts.append(series_from_records(rows, rng.randint(1, 3)))
    whole, piled = stack(parts), pile.Pile()
    for part in parts:
        piled.add(part)
    for _ in range(100):
        first, end = sorted((rng.randint(0, len(whole)), rng.randint(0, len(whole))))
        assert_same_rows(as_rows(stack(list(piled.take(first, end)))), as_rows(whole.take(slice(first, end))))


# -- while others write and read ----------------------------------------------------------------------------------


def write_trials(path, numbers, seed):
    sweep, rng = Sweep.opened(path), random.Random(seed)
    for k in numbers:
        for number in (1, 2):
            attempt = sweep.attempt(k, number)
            for at in range(1, 40):
                attempt.log(at, val_acc=rng.random(), loss=rng.random())
            attempt.end(*(("interrupted", "deadline") if number == 1 else ("completed", "")))


def read_again_and_again(path, stop_file):
    sweep, n_before, is_last = Sweep.opened(path), 0, False
    while not is_last:
        is_last = stop_file.exists()
        results = aggregate(sweep.dir, state_of)
        assert len(results.metrics) == results.trials["steps"].sum()
        assert not results.warnings, results.warnings
        n_now = int((results.trials["state"] == "completed").sum())
        assert n_now >= n_before
        n_before = n_now


def start(call):
    here = Path(__file__).parent
    code = f"from pathlib import Path; from results.test_journals import *; {call}"
    environment = {**os.environ, "PYTHONPATH": f"{here.parents[1]}:{here.parent}"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


@pytest.mark.slow
def test_readers_and_writers_at_once(tmp_path):
    """Every reader sees old or new, never half; and at the end all agree, with and without an index."""
    sweep = Sweep(tmp_path / "lr", params=[{"lr": i} for i in range(8)])
    path, stop = str(sweep.dir.path), tmp_path / "stop"
    readers = [start(f"read_again_and_again(Path({path!r}), Path({str(stop)!r}))") for _ in range(2)]
    writers = [start(f"write_trials(Path({path!r}), range({i}, 24, 3), {i})") for i in range(3)]
    codes = [process.wait(120) for process in writers]
    write_bytes(stop, b"")
    assert codes + [process.wait(120) for process in readers] == [0] * 5
    results, plain = aggregate(sweep.dir, state_of), aggregate(sweep.dir, state_of, use_index=False)
    pd.testing.assert_frame_equal(results.trials, plain.trials)
    pd.testing.assert_frame_equal(results.metrics, plain.metrics)
    assert set(results.trials["state"]) == {"completed"}
    assert [file.name for file in sweep.dir.results_dir.iterdir()] == [index_file(sweep.dir).name]
