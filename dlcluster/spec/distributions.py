"""Distributions: each maps a unit number u in [0, 1) to a value, vectorised, and knows its values when they are finite.

Sampled floats have 12 significant digits, so that the id of a trial does not depend on the last bit of a machine's exp
and log. `Stepped` and `Integers` with a logarithmic scale take floor(exp(uniform in log)), as `lograndint` in Hydra and
`methods.md` 1.11 do: every value has its share of the logarithmic range that starts at it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

SMALLEST_UNIT = 2.0**-54
LARGEST_UNIT = 1.0 - 2.0**-53


class Distribution(Protocol):
    """`n_values` is None for a continuous distribution."""

    @property
    def n_values(self) -> int | None: ...

    def values(self, units: np.ndarray) -> list[Any]: ...

    def value_at(self, k: int) -> Any: ...

    def to_json(self) -> Any: ...


def round_12(values: np.ndarray) -> list[float]:
    """The values with 12 significant digits; never a negative zero."""
    return [float(f"{value:.12g}") + 0.0 for value in values.tolist()]


def _clipped(values: Sequence[float], low: float, high: float) -> list[float]:
    return [low if value < low else high if value > high else value for value in values]


def _between(units: np.ndarray, low: float, high: float, log: bool) -> np.ndarray:
    if log:
        return np.exp(math.log(low) + units * (math.log(high) - math.log(low)))
    # halves, because high - low may be larger than the largest float
    return 2.0 * (low / 2 + units * (high / 2 - low / 2))


@dataclass(frozen=True)
class Constant:
    value: Any
    n_values: int = 1

    def values(self, units: np.ndarray) -> list[Any]:
        return [self.value] * len(units)

    def value_at(self, k: int) -> Any:
        return self.value

    def to_json(self) -> Any:
        return self.value


@dataclass(frozen=True)
class Choice:
    options: tuple[Any, ...]

    @property
    def n_values(self) -> int:
        return len(self.options)

    def values(self, units: np.ndarray) -> list[Any]:
        return [self.options[k] for k in np.floor(units * len(self.options)).astype(int).tolist()]

    def value_at(self, k: int) -> Any:
        return self.options[k]

    def to_json(self) -> dict[str, Any]:
        return {"choice": list(self.options)}


@dataclass(frozen=True)
class Uniform:
    low: float
    high: float
    log: bool

    n_values = None

    def values(self, units: np.ndarray) -> list[float]:
        return _clipped(round_12(_between(units, self.low, self.high, self.log)), self.low, self.high)

    def value_at(self, k: int) -> float:
        raise TypeError("a continuous distribution has no list of values")

    def to_json(self) -> dict[str, Any]:
        return {"loguniform" if self.log else "uniform": [self.low, self.high]}


@dataclass(frozen=True)
class Stepped:
    """low, low + step, ... up to high at most."""

    low: float
    high: float
    step: float
    log: bool

    @property
    def n_values(self) -> int:
        return math.floor((self.high - self.low) / self.step * (1 + 1e-12) + 1e-9) + 1

    def values(self, units: np.ndarray) -> list[float]:
        end = self.low + self.n_values * self.step
        steps = np.floor((_between(units, self.low, end, self.log) - self.low) / self.step)
        return self._at(np.clip(steps, 0, self.n_values - 1))

    def _at(self, steps: np.ndarray) -> list[float]:
        return _clipped(round_12(self.low + steps * self.step), self.low, self.high)

    def value_at(self, k: int) -> float:
        return self._at(np.array([float(k)]))[0]

    def to_json(self) -> dict[str, Any]:
        return {"qloguniform" if self.log else "quniform": [self.low, self.high, self.step]}


@dataclass(frozen=True)
class Integers:
    """Both ends included."""

    low: int
    high: int
    log: bool

    @property
    def n_values(self) -> int:
        return self.high - self.low + 1

    def values(self, units: np.ndarray) -> list[int]:
        if not self.log:
            offsets = np.floor(units * float(self.n_values)).astype(np.int64)
            return np.clip(self.low + offsets, self.low, self.high).tolist()
        drawn = np.floor(_between(units, self.low, self.high + 1, True))
        return np.clip(drawn.astype(np.int64), self.low, self.high).tolist()

    def value_at(self, k: int) -> int:
        return self.low + k

    def to_json(self) -> dict[str, Any]:
        return {"lograndint" if self.log else "randint": [self.low, self.high]}


@dataclass(frozen=True)
class Normal:
    """Mean and sd, of the logarithm when `log`; `within` bounds the value itself."""

    mean: float
    sd: float
    log: bool
    within: tuple[float, float] | None = None

    n_values = None

    def values(self, units: np.ndarray) -> list[float]:
        if self.within is None:
            return round_12(self._value(self._scores(units, 0.0, 1.0, 1.0)))
        first, last, sign = self._mass()
        drawn = self._value(self._scores(units, first, last, sign))
        return _clipped(round_12(drawn), *self.within)

    def _value(self, scores: np.ndarray) -> np.ndarray:
        values = self.mean + self.sd * scores
        return np.exp(values) if self.log else values

    @staticmethod
    def _scores(units: np.ndarray, first: float, last: float, sign: float) -> np.ndarray:
        """Standard normal scores; `sign` -1 mirrors, because only the lower tail is exact in floating point."""
        from scipy.special import ndtri

        inside = np.clip(units if sign > 0 else 1.0 - units, SMALLEST_UNIT, LARGEST_UNIT)
        return sign * ndtri(first + inside * (last - first))

    def _mass(self) -> tuple[float, float, float]:
        from scipy.special import ndtr

        assert self.within is not None  # noqa: S101 - asked for by values() and has_mass() only
        ends = [math.log(end) if self.log else end for end in self.within]
        low, high = ((end - self.mean) / self.sd for end in ends)
        sign = -1.0 if low > 0 else 1.0
        low, high = (-high, -low) if sign < 0 else (low, high)
        return float(ndtr(low)), float(ndtr(high)), sign

    def has_mass(self) -> bool:
        """Whether `within` holds enough of the distribution to draw from it."""
        if self.within is None:
            return True
        first, last, _ = self._mass()
        return last - first > 1e-250

    def value_at(self, k: int) -> float:
        raise TypeError("a continuous distribution has no list of values")

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"lognormal" if self.log else "normal": [self.mean, self.sd]}
        return row | ({"within": list(self.within)} if self.within else {})
