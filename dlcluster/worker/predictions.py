"""Per-item results as a compact `.npz` without objects. The only part of the worker that needs numpy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

COMPRESS_FROM_BYTES = 65_536


def npz_bytes(ids: Sequence[Any], correct: Sequence[Any] | None, scores: Sequence[float] | None) -> bytes:
    """`ids` (n,) sorted, with `correct` (n,) bool or `scores` (n,) float32. Raises ValueError naming what is wrong."""
    import numpy as np

    if (correct is None) == (scores is None):
        raise ValueError("run.predictions: give either correct=... or scores=...")
    ids_array = _as_array(ids)
    values = _as_array(correct if correct is not None else scores)
    if ids_array.ndim != 1 or values.shape != ids_array.shape:
        raise ValueError(f"run.predictions: ids {ids_array.shape} and values {values.shape} must have one shape (n,)")
    if ids_array.dtype.kind not in "iuU":
        raise ValueError(f"run.predictions: ids must be integers or text, got {ids_array.dtype}")
    order = np.argsort(ids_array, kind="stable")
    ids_array, values = ids_array[order], values[order]
    if len(ids_array) and (ids_array[1:] == ids_array[:-1]).any():
        raise ValueError("run.predictions: ids must be distinct")
    if ids_array.dtype.kind in "iu" and len(ids_array):
        ids_array = ids_array.astype(
            np.result_type(np.min_scalar_type(ids_array[0]), np.min_scalar_type(ids_array[-1]))
        )
    values = _checked_correct(values) if correct is not None else values.astype(np.float32)
    buffer = io.BytesIO()
    write = np.savez_compressed if ids_array.nbytes + values.nbytes >= COMPRESS_FROM_BYTES else np.savez
    write(buffer, ids=ids_array, **{"correct" if correct is not None else "scores": values})
    return buffer.getvalue()


def _as_array(values: Any) -> Any:
    import numpy as np

    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _checked_correct(values: Any) -> Any:
    if values.dtype.kind == "b":
        return values
    if not ((values == 0) | (values == 1)).all():
        raise ValueError("run.predictions: correct=... takes 0 and 1 (or False and True); use scores=... for numbers")
    return values.astype(bool)
