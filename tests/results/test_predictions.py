"""Results per item: what fits is used, what does not is named."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest

from dlcluster.files import make_dir, write_bytes
from dlcluster.results.predictions import aligned_items, read_predictions

from .builder import Sweep


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path / "lr")


def test_the_same_items_for_every_seed(sweep):
    for k in range(3):
        sweep.predictions(k, 5 + k, correct=[1, 0, k == 2])
    items, warning = aligned_items(sweep.dir, sweep.trials[:3], [5, 6, 7])
    assert warning == ""
    np.testing.assert_array_equal(items, [[1, 0, 0], [1, 0, 0], [1, 0, 1]])


def test_nothing_stored_is_nothing_to_say(sweep):
    assert aligned_items(sweep.dir, sweep.trials[:3], [5, 5, 5]) == (None, "")


def test_other_items_and_missing_files_are_named(sweep):
    sweep.predictions(0, 5, correct=[1, 0])
    sweep.predictions(1, 5, correct=[1, 0], ids=["a", "b"])
    items, warning = aligned_items(sweep.dir, sweep.trials[:2], [5, 5])
    assert items is None
    assert sweep.trials[1].id in warning
    items, warning = aligned_items(sweep.dir, sweep.trials[:3:2], [5, 5])
    assert items is None
    assert sweep.trials[2].id in warning


def test_the_step_of_the_score_counts(sweep):
    sweep.predictions(0, 5, correct=[1, 0])
    assert aligned_items(sweep.dir, sweep.trials[:1], [6]) == (None, "")


def test_scores_are_real_numbers(sweep):
    sweep.predictions(0, 5, scores=[0.5, 2.5])
    items, _ = aligned_items(sweep.dir, sweep.trials[:1], [5])
    assert items.tolist() == [[0.5, 2.5]]


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


GOOD = npz(ids=np.arange(3), correct=np.array([True, False, True]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x05\x06" + b"\0" * 18,
        GOOD[:-30],
        GOOD[:100],
        npz(ids=np.arange(3)),
        npz(ids=np.arange(3), correct=np.ones(2)),
        npz(ids=np.array([2, 1, 3]), correct=np.ones(3)),
        npz(ids=np.array([1, 1, 3]), correct=np.ones(3)),
        npz(ids=np.arange(0), correct=np.ones(0)),
        npz(ids=np.arange(2), scores=np.array([1.0, np.nan])),
        npz(ids=np.array([{"a": 1}], dtype=object), correct=np.ones(1)),
        npz(ids=np.arange(1), scores=np.array(["text"])),
    ],
)
def test_what_is_no_such_file_is_none(tmp_path, content):
    write_bytes(tmp_path / "p.npz", content)
    assert read_predictions(tmp_path / "p.npz") is None


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    write_bytes(tmp_path / "p.npz", npz(ids=np.arange(1), correct=np.array([Trap()], dtype=object)))
    assert read_predictions(tmp_path / "p.npz") is None
    assert not (tmp_path / "sprung").exists()


def test_folders_and_fifos(tmp_path):
    make_dir(tmp_path / "d.npz")
    os.mkfifo(tmp_path / "f.npz")
    assert read_predictions(tmp_path / "d.npz") is None
    assert read_predictions(tmp_path / "f.npz") is None
