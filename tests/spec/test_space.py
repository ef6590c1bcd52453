from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcluster.spec.distributions import Choice, Integers, Normal, Stepped, Uniform
from dlcluster.spec.samplers import draw_units

UNITS = draw_units("random", 0, 20_000, 1)[:, 0]
EDGES = np.array([0.0, 2.0**-53, 0.5, 1 - 2.0**-53])
FINITE = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(1e-300, 1e300)
UNIT_ARRAYS = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5).map(np.array)


def test_the_widest_range_of_all():
    largest = 1.7976931348623157e308
    values = Uniform(-largest, largest, log=False).values(UNITS[:100])
    assert len(set(values)) == 100
    assert np.isfinite(values).all()


def ordered(values):
    return st.tuples(values, values).map(sorted).filter(lambda bounds: bounds[0] < bounds[1])


@given(bounds=ordered(FINITE), units=UNIT_ARRAYS)
@settings(deadline=None)
def test_uniform_stays_in_range(bounds, units):
    values = Uniform(*bounds, log=False).values(np.append(units, EDGES))
    assert all(bounds[0] <= value <= bounds[1] for value in values)


@given(bounds=ordered(POSITIVE), units=UNIT_ARRAYS)
@settings(deadline=None)
def test_loguniform_stays_in_range(bounds, units):
    values = Uniform(*bounds, log=True).values(np.append(units, EDGES))
    assert all(bounds[0] <= value <= bounds[1] for value in values)


@given(bounds=ordered(st.integers(-(2**53), 2**53)), units=UNIT_ARRAYS)
@settings(deadline=None)
def test_integers_stay_in_range(bounds, units):
    values = Integers(*bounds, log=False).values(np.append(units, EDGES))
    assert all(type(value) is int and bounds[0] <= value <= bounds[1] for value in values)


@given(bounds=ordered(st.integers(1, 2**53)), units=UNIT_ARRAYS)
@settings(deadline=None)
def test_log_integers_stay_in_range(bounds, units):
    values = Integers(*bounds, log=True).values(np.append(units, EDGES))
    assert all(type(value) is int and bounds[0] <= value <= bounds[1] for value in values)


@given(
    low=st.floats(0.01, 100), n=st.integers(1, 1000), step=st.floats(0.001, 10), log=st.booleans(), units=UNIT_ARRAYS
)
@settings(deadline=None)
def test_steps_stay_on_the_grid(low, n, step, log, units):
    distribution = Stepped(low, low + n * step, step, log)
    assert distribution.n_values == n + 1
    for value in distribution.values(np.append(units, EDGES)):
        assert low <= value <= low + n * step
        assert abs((value - low) / step - round((value - low) / step)) < 1e-6


@given(mean=st.floats(-100, 100), sd=st.floats(0.01, 50), log=st.booleans(), units=UNIT_ARRAYS)
@settings(deadline=None)
def test_normal_values_are_finite(mean, sd, log, units):
    values = Normal(mean, sd, log).values(np.append(units, EDGES))
    assert np.isfinite(values).all()


@given(bounds=ordered(st.floats(-30, 30)), units=UNIT_ARRAYS)
@settings(deadline=None)
def test_truncated_normals_stay_within(bounds, units):
    distribution = Normal(0.0, 1.0, False, tuple(bounds))
    if distribution.has_mass():
        values = distribution.values(np.append(units, EDGES))
        assert all(bounds[0] <= value <= bounds[1] for value in values)


def test_the_upper_tail_is_as_exact_as_the_lower():
    upper = Normal(0.0, 1.0, False, (20.0, 21.0)).values(UNITS)
    lower = Normal(0.0, 1.0, False, (-21.0, -20.0)).values(1 - UNITS)
    assert len(set(upper)) > 19_000
    assert np.allclose(upper, -np.array(lower))
    assert 20.04 < np.mean(upper) < 20.06  # the tail falls like exp(-20 x)


def test_distributions_have_their_shape():
    assert np.mean(Uniform(0.0, 10.0, False).values(UNITS)) == pytest.approx(5, abs=0.1)
    assert np.median(Uniform(1e-4, 1.0, True).values(UNITS)) == pytest.approx(1e-2, rel=0.1)
    assert np.std(Normal(3.0, 2.0, False).values(UNITS)) == pytest.approx(2, rel=0.05)
    assert np.mean(np.log(Normal(3.0, 2.0, True).values(UNITS))) == pytest.approx(3, abs=0.1)
    counts = np.bincount(Integers(0, 4, False).values(UNITS))
    assert all(abs(count / 20_000 - 0.2) < 0.02 for count in counts)
    log_counts = np.bincount(Integers(1, 7, True).values(UNITS))
    assert log_counts[1] / 20_000 == pytest.approx(math.log(2) / math.log(8), abs=0.02)
    first = np.mean([value == 1 for value in Stepped(1.0, 7.0, 1.0, True).values(UNITS)])
    assert first == pytest.approx(math.log(2) / math.log(8), abs=0.02)
    assert set(Choice(("a", "b")).values(UNITS)) == {"a", "b"}


def test_both_ends_of_integers_are_drawn():
    assert Integers(3, 5, False).values(EDGES) == [3, 3, 4, 5]
    assert Integers(3, 5, True).values(EDGES)[-1] == 5


def test_floats_have_twelve_digits_and_no_negative_zero():
    for value in Uniform(0.0, 1.0, False).values(UNITS[:1000]):
        assert value == float(f"{value:.12g}")
    assert str(Uniform(-1.0, 1.0, False).values(np.array([0.5]))[0]) == "0.0"


def test_bounds_with_more_digits_are_kept():
    low, high = 0.1234567890123456, 0.1234567890123457
    assert all(low <= value <= high for value in Uniform(low, high, False).values(UNITS[:100]))


SPACE = """
sampler: {kind: random, trials: 200}
space:
  momentum: {uniform: [0.8, 0.99], when: {optimizer: sgd}}
  nesterov: {choice: [true, false], when: {optimizer: sgd, depth: [2, 3]}}
  warm: {choice: [1, 2], when: {nesterov: true}}
  optimizer: {choice: [sgd, adam]}
  depth: {randint: [1, 3]}
  width: 64
"""


def test_a_parameter_is_absent_when_its_condition_is_false(load):
    spec = load(SPACE)
    configs = spec.space.configs(draw_units("random", 0, 200, 5))
    for config in configs:
        assert ("momentum" in config) == (config["optimizer"] == "sgd")
        assert ("nesterov" in config) == (config["optimizer"] == "sgd" and config["depth"] >= 2)
        assert ("warm" in config) == (config.get("nesterov") is True)
        assert config["width"] == 64
    assert {len(config) for config in configs} == {3, 4, 5, 6}
    assert [*configs[0]] == [name for name in spec.space.names if name in configs[0]]


def test_a_condition_can_name_a_fixed_parameter(load):
    body = "sampler: {kind: grid}\nspace: {a: {choice: [1, 2], when: {opt: adam}}}\nfixed: {opt: adam}\n"
    assert len(list(load(body).space.grid())) == 2


def test_the_order_of_the_file_changes_nothing_but_the_order_of_keys(load):
    a = load("sampler: {kind: random, trials: 5}\nspace: {x: {uniform: [0, 1]}, y: {randint: [1, 9]}, z: 1}\n")
    b = load("sampler: {kind: random, trials: 5}\nspace: {z: 1, y: {randint: [1, 9]}, x: {uniform: [0, 1.0]}}\n")
    units = draw_units("random", 0, 5, 2)
    assert a.space.configs(units) == b.space.configs(units)
    assert a.fingerprint == b.fingerprint


def test_the_canonical_form(load):
    body = """
sampler: {kind: random, trials: 5}
space:
  a: {uniform: [0, 1]}
  b: {loguniform: [1, 2]}
  c: {quniform: [0, 1, 0.5]}
  d: {qloguniform: [1, 2, 0.5]}
  e: {randint: [1, 2]}
  f: {lograndint: [1, 2]}
  g: {normal: [0, 1], within: [-1, 1]}
  h: {lognormal: [0, 1]}
  i: [x, y]
  j: {choice: [x, y], when: {i: x}}
  k: sgd
"""
    assert load(body).to_json()["space"] == {
        "a": {"uniform": [0.0, 1.0]},
        "b": {"loguniform": [1.0, 2.0]},
        "c": {"quniform": [0.0, 1.0, 0.5]},
        "d": {"qloguniform": [1.0, 2.0, 0.5]},
        "e": {"randint": [1, 2]},
        "f": {"lograndint": [1, 2]},
        "g": {"normal": [0.0, 1.0], "within": [-1.0, 1.0]},
        "h": {"lognormal": [0.0, 1.0]},
        "i": {"choice": ["x", "y"]},
        "j": {"choice": ["x", "y"], "when": {"i": ["x"]}},
        "k": "sgd",
    }
