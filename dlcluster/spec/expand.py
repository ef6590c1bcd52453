"""A spec -> its trials: configs from the sampler, each with all seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dlcluster.errors import SpecError
from dlcluster.spec.document import E_SAMPLER, E_WHERE
from dlcluster.spec.samplers import Accepts, Drawn, HopelessError, draw_configs
from dlcluster.spec.schema import Spec
from dlcluster.spec.where import WhereError
from dlcluster.trial import Trial


@dataclass(frozen=True)
class Expansion:
    """All trials of a search, configs in the order of their index, for each config all seeds.

    `n_drawn` counts draws, those that `where:` refused included; `n_duplicates` configs repeated an earlier one and
    were dropped, so that indices may have gaps.
    """

    trials: list[Trial]
    n_configs: int
    n_drawn: int
    n_rejected: int
    n_duplicates: int

    @property
    def acceptance(self) -> float:
        """The share of draws that `where:` let through."""
        return 1.0 - self.n_rejected / self.n_drawn if self.n_drawn else 1.0

    def summary(self) -> str:
        n_seeds = len(self.trials) // self.n_configs if self.n_configs else 0
        parts = [f"{_count(len(self.trials), 'trial')}: {_count(self.n_configs, 'config')} x {_count(n_seeds, 'seed')}"]
        if self.n_rejected:
            parts.append(f"where: refused {self.n_rejected} of {self.n_drawn} draws ({self.acceptance:.1%} accepted)")
        if self.n_duplicates:
            parts.append(f"{_count(self.n_duplicates, 'repeated config')} dropped")
        return "; ".join(parts)


def expand(spec: Spec) -> Expansion:
    """All trials of the spec; SpecError when `where:` leaves nearly nothing or cannot be computed."""
    sampler = spec.sampler
    try:
        drawn = draw_configs(spec.space, sampler.kind, sampler.seed, sampler.trials or 0, _acceptance_test(spec))
    except HopelessError as error:
        raise SpecError([_hopeless(spec, *error.args)]) from None
    trials, n_configs = _trials(spec, drawn)
    return Expansion(
        trials=trials,
        n_configs=n_configs,
        n_drawn=drawn.n_drawn,
        n_rejected=drawn.n_drawn - len(drawn.configs),
        n_duplicates=len(drawn.configs) - n_configs,
    )


def _trials(spec: Spec, drawn: Drawn) -> tuple[list[Trial], int]:
    trials: list[Trial] = []
    known: set[str] = set()
    first, *others = spec.seeds
    job = spec.job_name
    for index, config in enumerate(drawn.configs):
        trial = Trial.of(job, config, first, index)
        if trial.config in known:
            continue
        known.add(trial.config)
        trials.append(trial)
        trials.extend(Trial.of(job, config, seed, index) for seed in others)
    return trials, len(known)


def _acceptance_test(spec: Spec) -> Accepts | None:
    if not spec.constraints:
        return None

    def accepts(config: dict[str, Any]) -> bool:
        for k, constraint in enumerate(spec.constraints):
            try:
                if not constraint.holds(config):
                    return False
            except WhereError as error:
                raise SpecError([spec.problem(("where", k), E_WHERE, error.message, error.hint)]) from None
        return True

    return accepts


def _hopeless(spec: Spec, n_drawn: int, n_accepted: int) -> Any:
    if spec.sampler.kind == "grid":
        message = f"none of the {_count(n_drawn, 'config')} of the grid satisfies the constraints"
    else:
        rate = n_accepted / n_drawn
        share = "none" if not n_accepted else f"{n_accepted}, 1 in {math.ceil(1 / rate)},"
        message = f"the constraints refuse nearly everything: of {n_drawn} draws {share} were accepted"
    return spec.problem(("where",), E_SAMPLER, message, "make the space smaller, so that most of it is allowed")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
