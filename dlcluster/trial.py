"""A trial: one point of the search space with one seed. Its id follows from its content."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

ID_PATTERN = re.compile(r"[0-9a-f]{12}")
CONFIGS_PER_SHARD = 64
SEEDS_PER_SHARD = 15  # 64 x 15 = 960 trials: no folder of a run directory holds more than 1000 entries


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value from which identities are computed (sorted keys, no spaces, no NaN)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(*parts: Any) -> str:
    """12 hexadecimal digits that follow from the content: equal content, equal id, on every machine."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Trial:
    """`params` are all parameters the job receives (sampled and fixed ones), without the seed.

    `index` counts the configs of a role (0, 1, ...); all seeds of a config share it. `config` is the id of the
    config, `id` that of the trial; `role` is "search" for the trials of the search itself.
    """

    id: str
    index: int
    config: str
    seed: int
    params: Mapping[str, Any] = field(hash=False)
    role: str = "search"

    @classmethod
    def of(cls, job: str, params: Mapping[str, Any], seed: int, index: int, role: str = "search") -> Trial:
        config = content_id(job, params)
        return cls(content_id(job, params, seed), index, config, seed, params, role)

    @property
    def shard(self) -> str:
        """The folder of the run directory under `trials/` that holds this trial: a pure function of the trial."""
        block, seed_block = self.index // CONFIGS_PER_SHARD, self.seed // SEEDS_PER_SHARD
        return f"{block:04d}" if seed_block == 0 else f"{block:04d}-{seed_block}"

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "index": self.index,
            "config": self.config,
            "seed": self.seed,
            "role": self.role,
            "params": dict(self.params),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Trial:
        return cls(row["id"], row["index"], row["config"], row["seed"], row["params"], row["role"])


OF_ITS_CONFIG = itemgetter("index", "config", "params", "role")


def trials_from_json(rows: Iterable[Mapping[str, Any]]) -> tuple[Trial, ...]:
    """No more objects than needed, for plans of a hundred thousand trials: the seeds of a config share its parameters.

    Raises KeyError, TypeError or AttributeError if a row is no trial.
    """
    trials, configs = [], dict[str, tuple[Any, ...]]()
    for row in rows:
        index, config, params, role = of_its_config = OF_ITS_CONFIG(row)
        if configs.get(config) != of_its_config:
            named = {sys.intern(name): value for name, value in params.items()}
            configs[config] = index, config, named, sys.intern(role)
        index, config, params, role = configs[config]
        trials.append(Trial(row["id"], index, config, row["seed"], params, role))
    return tuple(trials)
