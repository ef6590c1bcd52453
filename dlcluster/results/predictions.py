"""Results per validation item, as trials left them: read without pickle, aligned over the seeds of a config."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlcluster.file_reading import read_bytes
from dlcluster.run_dir import SweepDir
from dlcluster.trial import Trial

BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError, NotImplementedError)


@dataclass(frozen=True)
class Predictions:
    """`ids` (n,) sorted and distinct; `values` (n,): 0 or 1 where `correct` was stored, else real scores."""

    ids: NDArray[Any]
    values: NDArray[np.float64]


def read_predictions(file: Path) -> Predictions | None:
    """The arrays of one file; None if it is missing, damaged, or not what its format says."""
    try:
        with np.load(io.BytesIO(read_bytes(file)), allow_pickle=False) as arrays:
            ids = arrays["ids"]
            values = arrays["correct" if "correct" in arrays else "scores"].astype(np.float64)
    except BROKEN:
        return None
    if ids.ndim != 1 or ids.shape != values.shape or not len(ids) or not np.isfinite(values).all():
        return None
    return Predictions(ids, values) if (ids[1:] > ids[:-1]).all() else None


def aligned_items(
    sweep: SweepDir, trials: Sequence[Trial], steps: Sequence[int], split: str = "validation"
) -> tuple[NDArray[np.float64] | None, str]:
    """Values (S, n) of the same items for all trials, each at its own step; and what prevents it, if anything does.

    Without a single file there is nothing to say; with some the trials that do not fit are named.
    """
    files = [sweep.trial(t).predictions_file(split, step) for t, step in zip(trials, steps, strict=True)]
    found = [read_predictions(file) for file in files]
    first = next((predictions for predictions in found if predictions is not None), None)
    if first is None:
        return None, ""
    missing = [trial.id for trial, predictions in zip(trials, found, strict=True) if predictions is None]
    if missing:
        return None, f"no readable results per item for {', '.join(missing)}: interval over seeds only"
    whole = [predictions for predictions in found if predictions is not None]
    others = [t.id for t, p in zip(trials, whole, strict=True) if not np.array_equal(p.ids, first.ids)]
    if others:
        return None, f"other validation items in {', '.join(others)} than in {trials[0].id}: interval over seeds only"
    return np.stack([predictions.values for predictions in whole]), ""
