"""The search space: parameters with their distributions and conditions.

A parameter with `when: {optimizer: sgd}` is absent from a config in which the condition is false, or in which
`optimizer` itself is absent. Every parameter that is no constant has a dimension of the unit cube; dimensions are in
the order of the names, so that the order of the lines in the file changes neither trials nor identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dlcluster.spec.distributions import Constant, Distribution

Condition = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Parameter:
    """`when` holds pairs of another parameter and the values of it for which this one exists; all must hold."""

    name: str
    distribution: Distribution
    when: tuple[Condition, ...] = ()

    def exists(self, config: Mapping[str, Any]) -> bool:
        return all(name in config and config[name] in values for name, values in self.when)

    def to_json(self) -> Any:
        row = self.distribution.to_json()
        return row | {"when": {name: list(values) for name, values in self.when}} if self.when else row


@dataclass(frozen=True)
class Space:
    """`parameters` as they stand in the file; `fixed` are values that all configs share."""

    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def dimensions(self) -> tuple[Parameter, ...]:
        varying = (p for p in self.parameters if not isinstance(p.distribution, Constant))
        return tuple(sorted(varying, key=lambda parameter: parameter.name))

    @property
    def has_conditions(self) -> bool:
        return any(parameter.when for parameter in self.parameters)

    @cached_property
    def in_order_of_conditions(self) -> tuple[Parameter, ...]:
        """Sorted by name, but every parameter after those that its condition names."""
        return order_of_conditions(self.parameters)

    def configs(self, units: np.ndarray) -> list[dict[str, Any]]:
        """The config of each row of unit numbers (shape n x dimensions), fixed parameters included."""
        columns = {p.name: p.distribution.values(units[:, k]) for k, p in enumerate(self.dimensions)}
        for parameter in self.parameters:
            if parameter.name not in columns:  # a constant
                columns[parameter.name] = parameter.distribution.values(units)
        # fixed first, then the space in the order of the file
        names = (*self.fixed, *self.names)
        fixed = [[value] * len(units) for value in self.fixed.values()]
        rows = zip(*fixed, *(columns[name] for name in self.names), strict=True) if names else [()] * len(units)
        configs = [dict(zip(names, row, strict=True)) for row in rows]
        return [self._existing(config) for config in configs] if self.has_conditions else configs

    def _existing(self, config: dict[str, Any]) -> dict[str, Any]:
        for parameter in self.in_order_of_conditions:
            if parameter.when and not parameter.exists(config):
                del config[parameter.name]
        return config

    def grid_size(self) -> int:
        """The product of the numbers of values: conditions make the grid smaller, never larger."""
        size = 1
        for parameter in self.parameters:
            size *= parameter.distribution.n_values or 1
        return size

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every config once; the last parameter changes fastest. Parameters that do not exist multiply nothing."""
        order = self.in_order_of_conditions
        position = {name: k for k, name in enumerate((*self.fixed, *self.names))}
        for config in _grid(order, dict(self.fixed)):
            yield dict(sorted(config.items(), key=lambda item: position[item[0]]))

    def to_json(self) -> dict[str, Any]:
        return {parameter.name: parameter.to_json() for parameter in self.parameters}


def _grid(order: Sequence[Parameter], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not order:
        yield dict(config)
        return
    parameter, rest = order[0], order[1:]
    if not parameter.exists(config):
        yield from _grid(rest, config)
        return
    for k in range(parameter.distribution.n_values or 0):
        config[parameter.name] = parameter.distribution.value_at(k)
        yield from _grid(rest, config)
    del config[parameter.name]


def order_of_conditions(parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """Sorted by name, each after those that its `when` names; ValueError(names) when conditions go in a circle."""
    waiting = {parameter.name: parameter for parameter in sorted(parameters, key=lambda p: p.name)}
    order: list[Parameter] = []
    while waiting:
        ready = [p for p in waiting.values() if not any(name in waiting for name, _ in p.when)]
        if not ready:
            raise ValueError(tuple(waiting))
        for parameter in ready:
            order.append(parameter)
            del waiting[parameter.name]
    return tuple(order)
