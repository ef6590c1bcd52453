"""Points of the unit cube, and the configs that satisfy `where:`. Trial i is a pure function of (space, seed, i).

random  row i takes the numbers of row i of a Philox stream keyed by (seed, attempt); while its config is refused by
        where:, the same row of the stream of the next attempt. Rows do not know of each other, so more trials extend.
sobol   one scrambled sequence; refused points are skipped, so the index counts accepted points.
grid    every config, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dlcluster.spec.space import Space

MIN_DRAWS_TO_GIVE_UP = 20_000
MIN_ACCEPTANCE = 1e-3
BATCH = 1024

Config = dict[str, Any]
Accepts = Callable[[Config], bool]


class HopelessError(ValueError):
    """Constraints refuse nearly everything: (drawn, accepted)."""


@dataclass
class Drawn:
    """Accepted configs by index, and how many draws they took."""

    configs: list[Config] = field(default_factory=list)
    n_drawn: int = 0

    def check_hope(self, n_accepted: int) -> None:
        if self.n_drawn >= MIN_DRAWS_TO_GIVE_UP and n_accepted < self.n_drawn * MIN_ACCEPTANCE:
            raise HopelessError(self.n_drawn, n_accepted)


def draw_units(kind: str, seed: int, n: int, dims: int, attempt: int = 0, *, scramble: bool = True) -> np.ndarray:
    """Unit numbers of shape (n, dims) in [0, 1); the first rows do not depend on n."""
    if dims == 0 or n == 0:
        return np.zeros((n, dims))
    if kind == "sobol":
        return _sobol_engine(seed, dims, scramble).random_base2((n - 1).bit_length())[:n]
    # raw 64-bit numbers of the bit generator are the same in every version of numpy; Generator's are not promised to be
    raw = np.random.Philox(key=np.array([seed, attempt], dtype=np.uint64)).random_raw(n * dims)
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(n, dims)


def _sobol_engine(seed: int, dims: int, scramble: bool) -> Any:
    from scipy.stats import qmc

    generator = np.random.default_rng(seed)
    try:
        return qmc.Sobol(dims, scramble=scramble, rng=generator)
    except TypeError:  # scipy before 1.15 calls it seed
        return qmc.Sobol(dims, scramble=scramble, seed=generator)


def draw_configs(space: Space, kind: str, seed: int, n: int, accepts: Accepts | None) -> Drawn:
    """`n` configs (all of them for a grid) that `accepts`; HopelessError when it refuses nearly all."""
    if kind == "grid":
        return _draw_grid(space, accepts)
    if accepts is None:
        units = draw_units(kind, seed, n, len(space.dimensions))
        return Drawn(space.configs(units), n)
    return _draw_sobol(space, seed, n, accepts) if kind == "sobol" else _draw_random(space, seed, n, accepts)


def _draw_grid(space: Space, accepts: Accepts | None) -> Drawn:
    drawn = Drawn()
    for config in space.grid():
        drawn.n_drawn += 1
        if accepts is None or accepts(config):
            drawn.configs.append(config)
    if not drawn.configs:
        raise HopelessError(drawn.n_drawn, 0)
    return drawn


def _draw_sobol(space: Space, seed: int, n: int, accepts: Accepts) -> Drawn:
    drawn = Drawn()
    for config in _sobol_configs(space, seed):
        drawn.n_drawn += 1
        if accepts(config):
            drawn.configs.append(config)
            if len(drawn.configs) == n:
                return drawn
        drawn.check_hope(len(drawn.configs))
    raise HopelessError(drawn.n_drawn, len(drawn.configs))


def _sobol_configs(space: Space, seed: int) -> Iterator[Config]:
    done, size = 0, BATCH
    while size <= 2**30:
        units = draw_units("sobol", seed, size, len(space.dimensions))
        for start in range(done, size, 8 * BATCH):
            yield from space.configs(units[start : min(size, start + 8 * BATCH)])
        done, size = size, size * 2


def _draw_random(space: Space, seed: int, n: int, accepts: Accepts) -> Drawn:
    """Attempt by attempt over the rows that have no config yet; several attempts at once when few rows are left."""
    accepted: dict[int, Config] = {}
    drawn, pending, attempt = Drawn(), list(range(n)), 0
    while pending:
        n_attempts = max(1, BATCH // len(pending))
        for row, config, tries in _first_accepted(space, seed, pending, range(attempt, attempt + n_attempts), accepts):
            drawn.n_drawn += tries
            if config is not None:
                accepted[row] = config
        pending = [row for row in pending if row not in accepted]
        attempt += n_attempts
        drawn.check_hope(len(accepted))
    drawn.configs = [accepted[row] for row in range(n)]
    return drawn


def _first_accepted(
    space: Space, seed: int, rows: list[int], attempts: range, accepts: Accepts
) -> Iterator[tuple[int, Config | None, int]]:
    """(row, its first accepted config or None, number of attempts used) for each row."""
    dims = len(space.dimensions)
    units = np.concatenate([draw_units("random", seed, rows[-1] + 1, dims, attempt)[rows] for attempt in attempts])
    configs = space.configs(units)
    for k, row in enumerate(rows):
        tries = configs[k :: len(rows)]
        found = next(((t + 1, config) for t, config in enumerate(tries) if accepts(config)), None)
        yield (row, found[1], found[0]) if found else (row, None, len(attempts))
