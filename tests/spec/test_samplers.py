from __future__ import annotations

import numpy as np
import pytest

from dlcluster.spec.distributions import Uniform
from dlcluster.spec.samplers import HopelessError, draw_configs, draw_units

# scipy 1.11.4 and 1.17.1; golden cases sobol-s1 to s3
UNSCRAMBLED = [
    [0, 0],
    [0.5, 0.5],
    [0.75, 0.25],
    [0.25, 0.75],
    [0.375, 0.375],
    [0.875, 0.875],
    [0.625, 0.125],
    [0.125, 0.625],
]
VALUES_1D = [
    1e-5,
    1e-3,
    1e-2,
    1e-4,
    0.00031622776601683783,
    0.0316227766016838,
    0.003162277660168382,
    3.16227766016838e-05,
]
SCRAMBLED = [
    [0.40994958858937025, 0.9641202185302973],
    [0.7219116594642401, 0.10752477683126926],
    [0.9048664066940546, 0.5285515235736966],
    [0.21716429200023413, 0.41444470454007387],
    [0.08928089030086994, 0.6938291881233454],
    [0.7769524967297912, 0.3624401930719614],
    [0.5997960073873401, 0.7500224160030484],
    [0.2878644596785307, 0.17711373139172792],
]
SCRAMBLED_LR = [
    0.00043631320225562536, 0.007720521520128062, 0.04163567662185329, 7.39021661147393e-05,
    2.2757448112522613e-05, 0.01281769658445708, 0.0025071714260608176, 0.0001417287114604069,
]  # fmt: skip
SCRAMBLED_WD = [
    0.007185895117463847, 2.6921490904649144e-06, 0.0001300786719473238, 4.547563982742815e-05,
    0.0005960967479269185, 2.8168308746204396e-05, 0.0010002064803319862, 5.1104003660580735e-06,
]  # fmt: skip


def test_golden_sobol_without_scrambling():
    one = draw_units("sobol", 0, 8, 1, scramble=False)
    assert one[:, 0].tolist() == [row[0] for row in UNSCRAMBLED]
    assert draw_units("sobol", 0, 8, 2, scramble=False).tolist() == UNSCRAMBLED
    assert Uniform(1e-5, 0.1, log=True).values(one[:, 0]) == pytest.approx(VALUES_1D, rel=1e-9)


def test_golden_sobol_scrambled():
    units = draw_units("sobol", 0, 8, 2)
    assert units == pytest.approx(np.array(SCRAMBLED), rel=1e-9)
    assert Uniform(1e-5, 0.1, log=True).values(units[:, 0]) == pytest.approx(SCRAMBLED_LR, rel=1e-9)
    assert Uniform(1e-6, 0.01, log=True).values(units[:, 1]) == pytest.approx(SCRAMBLED_WD, rel=1e-9)


def test_random_numbers_are_the_same_on_every_machine():
    units = draw_units("random", 7, 2, 3, 1)
    assert units.tolist() == PHILOX_7_1


PHILOX_7_1 = [
    [0.8824668302545412, 0.3690383346754841, 0.5170696944527113],
    [0.3317897507720009, 0.718174498323604, 0.7172490982624806],
]


@pytest.mark.parametrize("kind", ["random", "sobol"])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (5, 8), (7, 100), (64, 65), (0, 3)])
def test_more_points_extend_the_list(kind, n, m):
    assert draw_units(kind, 3, m, 4)[:n].tolist() == draw_units(kind, 3, n, 4).tolist()


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_points_lie_in_the_cube_and_depend_on_the_seed(kind):
    units = draw_units(kind, 0, 1000, 3)
    assert units.shape == (1000, 3)
    assert units.min() >= 0
    assert units.max() < 1
    assert abs(units.mean() - 0.5) < 0.03
    assert units.tolist() != draw_units(kind, 1, 1000, 3).tolist()


def test_attempts_are_independent_streams():
    first, second = draw_units("random", 0, 5000, 1), draw_units("random", 0, 5000, 1, 1)
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.05


CONSTRAINED = """
sampler: {kind: %s, trials: 1, seed: %d}
space: {x: {uniform: [0, 1]}, y: {randint: [1, 100]}, o: {choice: [a, b]}, m: {uniform: [0, 1], when: {o: a}}}
"""


@pytest.mark.parametrize("kind", ["random", "sobol"])
@pytest.mark.parametrize("limit", [1.0, 0.5, 0.01])
def test_the_first_trials_do_not_change_when_there_are_more(load, kind, limit):
    space = load(CONSTRAINED % (kind, 5)).space

    def accepts(config):
        return config["x"] < limit

    many = draw_configs(space, kind, 5, 300, accepts)
    for n in (1, 2, 10, 150):
        assert draw_configs(space, kind, 5, n, accepts).configs == many.configs[:n]
    assert len(many.configs) == 300
    assert all(accepts(config) for config in many.configs)
    assert many.n_drawn >= 300 / limit * 0.8


def test_sobol_skips_refused_points_and_nothing_else(load):
    space = load(CONSTRAINED % ("sobol", 5)).space
    plain = draw_configs(space, "sobol", 5, 16_384, None).configs
    accepted = [config for config in plain if config["x"] < 0.01]
    drawn = draw_configs(space, "sobol", 5, 100, lambda config: config["x"] < 0.01)
    assert drawn.configs == accepted[:100]
    assert drawn.n_drawn == plain.index(accepted[99]) + 1


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_a_constraint_that_accepts_everything_changes_nothing(load, kind):
    space = load(CONSTRAINED % (kind, 5)).space
    with_constraint = draw_configs(space, kind, 5, 40, lambda config: True)
    assert with_constraint == draw_configs(space, kind, 5, 40, None)
    assert with_constraint.n_drawn == 40


@pytest.mark.parametrize("kind", ["random", "sobol", "grid"])
@pytest.mark.parametrize("n", [1, 1000])
def test_hopeless_constraints_are_given_up(load, kind, n):
    space = load("sampler: {kind: grid}\nspace: {y: {randint: [1, 100]}}\n").space
    with pytest.raises(HopelessError) as caught:
        draw_configs(space, kind, 0, n, lambda config: False)
    n_drawn, n_accepted = caught.value.args
    assert n_accepted == 0
    assert n_drawn == 100 if kind == "grid" else 20_000 <= n_drawn <= 22_000


def test_the_number_of_draws_does_not_depend_on_batches(load, monkeypatch):
    space = load(CONSTRAINED % ("random", 0)).space
    drawn = draw_configs(space, "random", 0, 50, lambda config: config["x"] < 0.1)
    monkeypatch.setattr("dlcluster.spec.samplers.BATCH", 1)
    assert draw_configs(space, "random", 0, 50, lambda config: config["x"] < 0.1) == drawn
