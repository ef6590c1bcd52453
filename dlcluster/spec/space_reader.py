"""The raw values of `space:` and `fixed:` -> `Space`; what is wrong is noted in the document, all of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dlcluster.spec.distributions import Choice, Constant, Distribution, Integers, Normal, Stepped, Uniform
from dlcluster.spec.document import E_KEY, E_NAME, E_VALUE, Document, KeyPath, plain
from dlcluster.spec.names import did_you_mean, name_problem
from dlcluster.spec.reporting import got
from dlcluster.spec.scalars import Unclear
from dlcluster.spec.space import Condition, Parameter, Space, order_of_conditions

MAX_PARAMETERS = 300
MAX_EXACT = 2**53
LARGEST_LOG = 700.0  # exp(709) is the largest float; unit numbers reach 8.3 standard deviations
TAIL = 8.3

_RANGE_HINT = "the form is {name}: [low, high]"
_STEP_HINT = "the form is {name}: [low, high, step]"


def read_space(
    document: Document, space: Mapping[str, Any], fixed: Mapping[str, Any], for_command: bool
) -> Space | None:
    """None when a parameter is wrong."""
    before = len(document.problems)
    _check_names(document, space, fixed, for_command)
    reader = _Reader(document)
    fixed_values = {name: reader.value(raw, ("fixed", name)) for name, raw in fixed.items()}
    distributions = {name: reader.distribution(raw, ("space", name)) for name, raw in space.items()}
    known = {name: Constant(value) for name, value in fixed_values.items()} | distributions
    parameters = [
        Parameter(name, distribution, reader.conditions(space[name], name, known))
        for name, distribution in distributions.items()
        if distribution is not None
    ]
    _check_circles(document, parameters)
    return Space(tuple(parameters), fixed_values) if len(document.problems) == before else None


def _check_names(document: Document, space: Mapping[str, Any], fixed: Mapping[str, Any], for_command: bool) -> None:
    for path in [*(("space", name) for name in space), *(("fixed", name) for name in fixed)]:
        if problem := name_problem(path[1], for_command):
            document.add(path, E_NAME, *problem, of_key=True)
    for name in space.keys() & fixed.keys():
        document.add(("fixed", name), E_KEY, f"'{name}' is in space: as well", "remove one of them", of_key=True)
    if len(space) + len(fixed) > MAX_PARAMETERS:
        document.add(
            ("space",), E_VALUE, f"expected at most {MAX_PARAMETERS} parameters, got {len(space) + len(fixed)}"
        )


def _check_circles(document: Document, parameters: list[Parameter]) -> None:
    try:
        order_of_conditions(parameters)
    except ValueError as error:
        names = error.args[0]
        message = f"the conditions go in a circle: {', '.join(names)}"
        document.add(("space", names[0], "when"), E_VALUE, message)


class _Reader:
    """Reads one parameter after the other; a wrong one is noted and read as None."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def wrong(self, path: KeyPath, message: str, hint: str = "") -> None:
        self.document.add(path, E_VALUE, message, hint)

    # --- values

    def value(self, raw: Any, path: KeyPath, null: bool = False) -> Any:
        """Any JSON value, without scalars whose meaning is unclear."""
        if isinstance(raw, Unclear):
            self.wrong(path, f"{raw.reason}, {got(raw)}", raw.hint)
        elif isinstance(raw, list):
            return [self.value(item, (*path, k), True) for k, item in enumerate(raw)]
        elif isinstance(raw, Mapping):
            return {str(key): self.value(item, (*path, key), True) for key, item in raw.items()}
        elif raw is None and not null:
            self.wrong(path, "null is not allowed: expected a value, got null", "for None write choice: [null]")
        return plain(raw)

    def number(self, raw: Any, path: KeyPath, expected: str = "a finite number") -> float | None:
        if isinstance(raw, Unclear):
            self.wrong(path, f"expected {expected}, {got(raw)}: {raw.reason}", raw.hint)
        elif isinstance(raw, bool) or not isinstance(raw, int | float):
            hint = "remove the quotes" if isinstance(raw, str) and _is_number(raw) else ""
            self.wrong(path, f"expected {expected}, {got(raw)}", hint)
        else:
            return raw
        return None

    def numbers(self, raw: Any, path: KeyPath, count: int, form: str) -> list[Any] | None:
        """Exactly `count` numbers, or None."""
        if not isinstance(raw, list) or len(raw) != count:
            found = f"got a list of {len(raw)}" if isinstance(raw, list) else got(raw)
            self.wrong(path, f"expected a list of {count} numbers, {found}", form)
            return None
        values = [self.number(item, (*path, k)) for k, item in enumerate(raw)]
        return None if None in values else values

    # --- distributions

    def distribution(self, raw: Any, path: KeyPath) -> Distribution | None:
        if isinstance(raw, list):
            return self._choice(raw, path, has_condition=False)
        if not isinstance(raw, Mapping):
            before = len(self.document.problems)
            value = self.value(raw, path)
            return Constant(value) if len(self.document.problems) == before else None
        kinds = [key for key in raw if key not in ("when", "within")]
        for key in kinds:
            if key not in _READERS:
                hint = did_you_mean(key, _READERS) or f"known: {', '.join(_READERS)}"
                self.document.add((*path, key), E_KEY, f"unknown distribution '{plain(key)[:64]}'", hint, of_key=True)
        if len(kinds) != 1:
            self.wrong(
                path,
                f"expected exactly one distribution, {got(dict(raw)) if not kinds else 'got ' + ', '.join(kinds)[:60]}",
            )
        if "within" in raw and not set(kinds) & {"normal", "lognormal"}:
            self.wrong(
                (*path, "within"), "expected within: only beside normal or lognormal", "give low and high instead"
            )
        if len(kinds) != 1 or kinds[0] not in _READERS:
            return None
        return _READERS[kinds[0]](self, kinds[0], raw, path)

    def _choice(self, raw: Any, path: KeyPath, has_condition: bool) -> Choice | None:
        if not isinstance(raw, list) or not raw:
            found = "got an empty list" if isinstance(raw, list) else got(raw)
            self.wrong(path, f"expected a list of at least one choice, {found}")
            return None
        before = len(self.document.problems)
        options = tuple(self.value(item, (*path, k), True) for k, item in enumerate(raw))
        first: dict[Any, int] = {}
        for k, option in enumerate(options):
            same = first.setdefault(_comparable(option), k)
            if same != k:
                self.wrong((*path, k), f"expected distinct choices, {got(option)}, equal to choice {same}")
        if len(options) == 1 and not has_condition:
            self.document.warn(path, "there is only one choice")
        return Choice(options) if len(self.document.problems) == before else None

    def choice(self, kind: str, raw: Mapping[str, Any], path: KeyPath) -> Choice | None:
        return self._choice(raw[kind], (*path, kind), "when" in raw)

    def real(self, kind: str, raw: Mapping[str, Any], path: KeyPath) -> Distribution | None:
        """uniform, loguniform, quniform, qloguniform."""
        log, stepped, path = "log" in kind, kind.startswith("q"), (*path, kind)
        form = (_STEP_HINT if stepped else _RANGE_HINT).format(name=kind)
        bounds = self.numbers(raw[kind], path, 3 if stepped else 2, form)
        if bounds is None or not self._ordered(bounds, path, log):
            return None
        low, high, *steps = (float(bound) for bound in bounds)
        if not steps:
            return Uniform(low, high, log)
        if not 0 < steps[0] <= high - low or (high - low) / steps[0] > MAX_EXACT:
            self.wrong((*path, 2), f"expected a step > 0 and at most high - low, {got(bounds[2])}", form)
            return None
        return Stepped(low, high, steps[0], log)

    def integers(self, kind: str, raw: Mapping[str, Any], path: KeyPath) -> Distribution | None:
        log, path = "log" in kind, (*path, kind)
        bounds = self.numbers(raw[kind], path, 2, _RANGE_HINT.format(name=kind) + ", both ends included")
        if bounds is None:
            return None
        for k, bound in enumerate(bounds):
            if not isinstance(bound, int):
                self.wrong((*path, k), f"expected an integer, {got(bound)}")
                return None
            if abs(bound) > MAX_EXACT:
                self.wrong((*path, k), f"out of range: expected an integer of at most 2^53, {got(bound)}")
                return None
        return Integers(*bounds, log) if self._ordered(bounds, path, log) else None

    def _ordered(self, bounds: list[Any], path: KeyPath, log: bool) -> bool:
        low, high = bounds[:2]
        bad = [k for k in (0, 1) if log and bounds[k] <= 0]
        for k in bad:
            self.wrong((*path, k), f"expected a number > 0 because the scale is logarithmic, {got(bounds[k])}")
        if low == high and not bad:
            self.wrong(
                path, f"expected low < high, got {low} twice", f"for a constant write the value: {path[1]}: {low}"
            )
        elif low > high and not bad:
            self.wrong(path, f"expected low < high, got low {low} > high {high}", "swap them")
        return low < high and not bad

    def normal(self, kind: str, raw: Mapping[str, Any], path: KeyPath) -> Distribution | None:
        log, values_path = kind == "lognormal", (*path, kind)
        values = self.numbers(
            raw[kind], values_path, 2, f"the form is {kind}: [mean, sd], optionally within: [low, high]"
        )
        within = self._within(raw, path, log)
        if values is None or ("within" in raw and within is None):
            return None
        if values[1] <= 0:
            self.wrong((*values_path, 1), f"expected a standard deviation > 0, {got(values[1])}")
            return None
        mean, sd = float(values[0]), float(values[1])
        if not math.isfinite(abs(mean) + TAIL * sd) or (log and abs(mean) + TAIL * sd > LARGEST_LOG):
            what = "mean and sd are of the logarithm of the value" if log else ""
            self.wrong(values_path, f"out of range: values would not be finite, {got(values)}", what)
            return None
        distribution = Normal(mean, sd, log, within)
        if not distribution.has_mass():
            self.wrong((*path, "within"), f"expected bounds that hold a part of the distribution, {got(raw['within'])}")
            return None
        return distribution

    def _within(self, raw: Mapping[str, Any], path: KeyPath, log: bool) -> tuple[float, float] | None:
        if "within" not in raw:
            return None
        bounds = self.numbers(raw["within"], (*path, "within"), 2, "the form is within: [low, high]")
        if bounds is None or not self._ordered(bounds, (*path, "within"), log):
            return None
        return float(bounds[0]), float(bounds[1])

    # --- conditions

    def conditions(self, raw: Any, name: str, known: Mapping[str, Distribution | None]) -> tuple[Condition, ...]:
        if not isinstance(raw, Mapping) or "when" not in raw:
            return ()
        path: KeyPath = ("space", name, "when")
        if not isinstance(raw["when"], Mapping) or not raw["when"]:
            self.wrong(
                path, f"expected a mapping of parameters to values, {got(raw['when'])}", "for example {optimizer: sgd}"
            )
            return ()
        return tuple(self._condition(other, values, (*path, other), known) for other, values in raw["when"].items())

    def _condition(self, other: str, raw: Any, path: KeyPath, known: Mapping[str, Distribution | None]) -> Condition:
        values = raw if isinstance(raw, list) else [raw]
        values = [self.value(v, (*path, k) if isinstance(raw, list) else path, True) for k, v in enumerate(values)]
        if other not in known:
            hint = did_you_mean(other, known) or f"parameters: {', '.join(known)}"
            self.document.add(path, E_KEY, f"unknown parameter '{plain(other)[:64]}'", hint, of_key=True)
        elif not values:
            self.wrong(path, "expected at least one value, got an empty list")
        else:
            self._check_reachable(other, values, path, known[other])
        return (str(other), tuple(values))

    def _check_reachable(self, other: str, values: list[Any], path: KeyPath, distribution: Distribution | None) -> None:
        """A condition on a value that the other parameter never takes would remove this one silently."""
        if isinstance(distribution, Uniform | Normal | Stepped):
            self.wrong(path, f"expected a condition on a choice or an integer; '{other}' is continuous")
        if isinstance(distribution, Integers):
            wrong = [v for v in values if type(v) is not int or not distribution.low <= v <= distribution.high]
        elif isinstance(distribution, Choice | Constant):
            options = distribution.options if isinstance(distribution, Choice) else (distribution.value,)
            wrong = [
                v for v in values if _comparable(v, strict=True) not in {_comparable(o, strict=True) for o in options}
            ]
        else:
            return
        for value in wrong:
            words = [o for o in getattr(distribution, "options", ()) if isinstance(o, str)]
            hint = did_you_mean(value, words) if isinstance(value, str) else ""
            self.wrong(path, f"expected a value that '{other}' can take, {got(value)}", hint)


def _comparable(value: Any, strict: bool = False) -> Any:
    """Hashable; equal for 1, 1.0 and true unless `strict`, which tells true from 1."""
    if isinstance(value, list | tuple):
        return ("list", *(_comparable(item, strict) for item in value))
    if isinstance(value, Mapping):
        return ("map", frozenset((key, _comparable(item, strict)) for key, item in value.items()))
    return ("bool", value) if strict and isinstance(value, bool) else value


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


_READERS: dict[str, Callable[[_Reader, str, Mapping[str, Any], KeyPath], Distribution | None]] = {
    "uniform": _Reader.real,
    "loguniform": _Reader.real,
    "quniform": _Reader.real,
    "qloguniform": _Reader.real,
    "randint": _Reader.integers,
    "lograndint": _Reader.integers,
    "normal": _Reader.normal,
    "lognormal": _Reader.normal,
    "choice": _Reader.choice,
}
