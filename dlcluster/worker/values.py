"""What may be logged: numbers, and what can be turned into one number without a guess."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LARGEST_INTEGER = 2**63 - 1
MAX_NAME_LENGTH = 200


def as_number(name: str, value: Any) -> int | float:
    """A Python number (possibly NaN or infinite) from a number, a numpy scalar or a tensor with one element.

    Raises TypeError or ValueError that names the metric.
    """
    kind = type(value)
    if kind is float:
        return value
    if kind is int:
        if -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
            return value
        raise ValueError(f"metric {name!r}: {value.bit_length()}-bit integer does not fit into 64 bits")
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return _from_array(name, value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return as_number(name, float(value) if isinstance(value, float) else int(value))
    raise TypeError(_not_a_number(name, value))


def _from_array(name: str, value: Any) -> int | float:
    """numpy scalars and arrays, torch tensors: recognised by `.item()`, so that neither has to be imported."""
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1:
        raise TypeError(f"metric {name!r}: expected one number, got an array of shape {shape}; log its mean or sum")
    number = value.item()
    if type(number) not in (int, float):
        raise TypeError(_not_a_number(name, number))
    return as_number(name, number)


def _not_a_number(name: str, value: Any) -> str:
    hint = "; log int(value)" if isinstance(value, bool) else ""
    return f"metric {name!r}: expected a number, got {type(value).__name__}{hint}"


def is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable()


def check_name(name: Any) -> None:
    if not is_name(name):
        raise ValueError(f"metric name {ascii(name)[:80]}: expected 1 to {MAX_NAME_LENGTH} printable characters")


def split_nonfinite(metrics: Mapping[str, Any]) -> tuple[dict[str, int | float | None], dict[str, str]]:
    """Metrics as strict JSON has them, null for what is not finite, and what those were: "nan", "inf" or "-inf"."""
    numbers: dict[str, int | float | None] = {}
    nonfinite: dict[str, str] = {}
    for name, value in metrics.items():
        number = value if type(value) is float else as_number(name, value)
        if math.isfinite(number):
            numbers[name] = number
        else:
            numbers[name] = None
            nonfinite[name] = repr(float(number))
    return numbers, nonfinite
