from __future__ import annotations

import pytest

from dlcluster.journal import AttemptFacts
from dlcluster.launch.usage import seconds_left, seconds_of, usage_of, wasted_seconds


def attempt(number, state="interrupted", seconds=10.0, step=0, **start):
    end = None if state is None else {"state": state, "reason": "", "seconds": seconds}
    metrics = {"step": step, "metrics": {}, "time": 107.0} if step else None
    return AttemptFacts(number, {"time": 100.0, **start}, end, metrics, step)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([], 0),
        ([attempt(1, "completed", 10)], 0),
        ([attempt(1, "failed", 10)], 10),
        ([attempt(1, "cancelled", 10, step=4)], 10),
        ([attempt(1, "interrupted", 10, step=4), attempt(2, "completed", 5)], 0),
        ([attempt(1, "interrupted", 10), attempt(2, "completed", 5)], 10),
        ([attempt(1, "interrupted", 10, step=4), attempt(2, "interrupted", 3, step=4), attempt(3, "completed", 5)], 3),
        ([attempt(1, "completed", 10), attempt(2, None, step=9)], 0),
    ],
)
def test_what_brought_nothing_is_wasted(attempts, expected):
    assert wasted_seconds(attempts) == expected


def test_seconds_of_an_attempt_without_an_end_go_up_to_its_last_row():
    assert seconds_of(attempt(1, None, step=3)) == 7.0
    assert seconds_of(attempt(1, None)) == 0.0


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        ({}, (2.0, 0.5, "trial")),
        ({"gpus": 4, "nodes": 2}, (16.0, 4.0, "GPU")),
        ({"gpus": 1, "trials_per_gpu": 4}, (0.5, 0.125, "GPU")),
    ],
)
def test_hours(launch, expected):
    usage = usage_of([(3600, 0), (3600, 1800)], launch)
    assert (usage.spent, usage.wasted, usage.unit) == expected


def test_hours_in_words():
    assert usage_of([(7200, 360)], {"gpus": 1}).text().startswith("2 GPU-hours spent, 0.1 of them wasted")
    assert usage_of([(0, 0)], {}).text() == ""


def test_time_left():
    assert seconds_left([10, 20, 90], 5, 2) == 60
    assert seconds_left([], 5, 2) is None
    assert seconds_left([10], 0, 2) is None
