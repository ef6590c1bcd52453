"""What `run.log` takes, and what it refuses by name (row L10)."""

from __future__ import annotations

import decimal
import fractions
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcluster.worker.values import LARGEST_INTEGER, MAX_NAME_LENGTH, as_number, check_name, split_nonfinite
from tests.support import strict_json


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (0.25, 0.25),
        (-LARGEST_INTEGER, -LARGEST_INTEGER),
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.float16(2), 2.0),
        (np.int8(-3), -3),
        (np.uint64(2**62), 2**62),
        (np.array(7), 7),
        (np.array([7.5]), 7.5),
        (np.array([[1]]), 1),
    ],
)
def test_numbers_and_what_holds_exactly_one_are_taken(value, expected):
    number = as_number("loss", value)
    assert number == expected
    assert type(number) in (int, float)


def test_tensors_with_one_element_are_taken():
    torch = pytest.importorskip("torch")
    assert as_number("loss", torch.tensor(0.5, requires_grad=True)) == 0.5
    assert as_number("loss", torch.tensor([3])) == 3
    assert as_number("loss", torch.tensor(0.5, dtype=torch.bfloat16)) == 0.5
    assert math.isnan(as_number("loss", torch.tensor(float("nan"))))
    for refused in (torch.tensor([1.0, 2.0]), torch.tensor(True), torch.tensor(1j), torch.empty(0)):
        with pytest.raises(TypeError, match="'loss'"):
            as_number("loss", refused)


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.bool_(True),
        "0.5",
        b"0.5",
        np.str_("0.5"),
        None,
        1j,
        np.complex64(1j),
        [1.0],
        (1.0,),
        {"a": 1},
        np.array([1.0, 2.0]),
        np.array([]),
        np.array([None]),
        np.datetime64("2024-01-01"),
        decimal.Decimal(1),
        fractions.Fraction(1, 2),
        print,
        object(),
    ],
    ids=lambda value: "an object" if type(value) is object else repr(value),
)
def test_everything_else_is_refused_with_the_name_of_the_metric(value):
    with pytest.raises(TypeError, match="metric 'val_loss'"):
        as_number("val_loss", value)


@pytest.mark.parametrize("value", [2**63, -(2**63), 10**400])
def test_integers_that_no_other_program_could_read_are_refused(value):
    with pytest.raises(ValueError, match=r"metric 'n': \d+-bit integer"):
        as_number("n", value)


def test_subclasses_of_numbers_become_plain_numbers():
    class Level(int):
        pass

    class Score(float):
        pass

    assert type(as_number("n", Level(3))) is int
    assert type(as_number("n", Score(0.5))) is float


@pytest.mark.parametrize(
    ("value", "word"),
    [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (1e400, "inf"), (np.float32("nan"), "nan")],
)
def test_what_is_not_finite_is_null_and_named(value, word):
    assert split_nonfinite({"loss": value, "n": 1}) == ({"loss": None, "n": 1}, {"loss": word})


@given(st.dictionaries(st.text(), st.floats() | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)))
def test_what_is_taken_is_strict_json_and_comes_back(metrics):
    numbers, nonfinite = split_nonfinite(metrics)
    assert strict_json(json.dumps(numbers, allow_nan=False)) == numbers
    assert {name for name, number in numbers.items() if number is None} == set(nonfinite)
    assert all(numbers[name] == value for name, value in metrics.items() if name not in nonfinite)


@pytest.mark.parametrize("name", ["loss", "val/accuracy", "größe", "a" * MAX_NAME_LENGTH, "top 5"])
def test_printable_names_are_taken(name):
    check_name(name)


@pytest.mark.parametrize("name", ["", "a" * (MAX_NAME_LENGTH + 1), "a\nb", "\0", "a\x1b[31m", 3, None, "\ud800"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="metric name"):
        check_name(name)
