"""How many jobs there are, in which arrays, how many at once, and what they may cost."""

from __future__ import annotations

import itertools

import pytest

from dlcluster.launch.batch_script import array_text
from dlcluster.launch.job_plan import DEFAULT_JOBS, make_job_plan
from dlcluster.launch.site import site_of

LAUNCH = {"trials_per_job": "pull", "trials_per_gpu": 1, "parallel": None, "gpus": None, "nodes": 1, "time": None}
CHUNK = 17  # a site with MaxArraySize=17: the highest index is 16


def plan_for(n_trials, chunk=CHUNK, **launch):
    return make_job_plan({**LAUNCH, **launch}, n_trials, chunk)


@pytest.mark.parametrize(
    ("n_trials", "launch", "sizes"),
    [
        (100, {}, [DEFAULT_JOBS]),
        (3, {}, [3]),  # no more jobs than there are trials
        (100, {"parallel": 16}, [16]),
        (100, {"parallel": 17}, [17]),
        (100, {"parallel": 18}, [17, 1]),
        (100, {"parallel": 40}, [17, 17, 6]),
        (5, {"parallel": 40}, [5]),
        (100, {"parallel": 40, "trials_per_gpu": 4}, [10]),
        (100, {"parallel": 41, "trials_per_gpu": 4}, [11]),
        (7, {"parallel": 40, "trials_per_gpu": 4}, [2]),
        (1, {"parallel": 40, "trials_per_gpu": 4}, [1]),
        (40, {"trials_per_job": 1}, [17, 17, 6]),
        (34, {"trials_per_job": 1}, [17, 17]),
        (17, {"trials_per_job": 1}, [17]),
        (40, {"trials_per_job": 3}, [14]),
        (100, {"trials_per_job": 3}, [17, 17]),
        (103, {"trials_per_job": 3}, [17, 17, 1]),
        (2, {"trials_per_job": 50}, [1]),
        (5, {"trials_per_job": 1, "parallel": 99}, [5]),
    ],
)
def test_sizes_of_arrays(n_trials, launch, sizes):
    assert [batch.size for batch in plan_for(n_trials, **launch).batches] == sizes


def test_elements_follow_one_another_without_a_gap_and_indices_stay_below_the_limit():
    for n_trials, chunk, per_job in itertools.product((1, 2, 16, 17, 18, 35, 100), (1, 2, 17, 1000), ("pull", 1, 3)):
        plan = plan_for(n_trials, chunk, trials_per_job=per_job, parallel=50)
        elements = [batch.first + index for batch in plan.batches for index in range(batch.size)]
        assert elements == list(range(plan.n_jobs))
        assert all(1 <= batch.size <= chunk for batch in plan.batches)
        if per_job != "pull":
            assert plan.n_jobs * per_job >= n_trials > (plan.n_jobs - 1) * per_job


@pytest.mark.parametrize(
    ("n_trials", "launch", "arrays", "waits"),
    [
        (40, {"parallel": 5}, ["0-16%5", "0-16%5", "0-5%5"], [None, 0, 1]),
        (40, {"parallel": 17}, ["0-16", "0-16", "0-5"], [None, 0, 1]),
        (40, {"parallel": 20}, ["0-16", "0-16", "0-5"], [None, 0, 1]),
        (80, {"parallel": 34}, ["0-16"] * 4 + ["0-11"], [None, None, 0, 1, 2]),
        (40, {"parallel": 40}, ["0-16", "0-16", "0-5"], [None, None, None]),
        (40, {"parallel": 400}, ["0-16", "0-16", "0-5"], [None, None, None]),
        (40, {}, ["0-16", "0-16", "0-5"], [None, None, None]),
        (40, {"parallel": 6, "trials_per_gpu": 2}, ["0-16%3", "0-16%3", "0-5%3"], [None, 0, 1]),
        (19, {"parallel": 3}, ["0-16%3", "0-1"], [None, 0]),
    ],
)
def test_throttle_and_chains(n_trials, launch, arrays, waits):
    plan = plan_for(n_trials, trials_per_job=1, **launch)
    assert [array_text(batch.size, plan.throttle_of(batch)) for batch in plan.batches] == arrays
    assert [plan.waits_for(number) for number in range(len(plan.batches))] == waits


def test_never_more_jobs_at_once_than_parallel_says():
    """In the worst case: each array begins as soon as it may, and all its jobs that may run do."""
    for n_trials, parallel in itertools.product(range(1, 90), range(1, 90, 4)):
        plan = plan_for(n_trials, trials_per_job=1, parallel=parallel)
        ended: set[int] = set()
        while len(ended) < len(plan.batches):
            running = [
                number
                for number in range(len(plan.batches))
                if number not in ended and (plan.waits_for(number) is None or plan.waits_for(number) in ended)
            ]
            at_once = sum(plan.throttle_of(plan.batches[k]) or plan.batches[k].size for k in running)
            assert at_once <= parallel
            ended.add(running[0])


def test_what_it_may_cost():
    plan = plan_for(100, parallel=10, gpus=2, nodes=2, time=1800.0)
    assert plan.max_gpu_hours == 10 * 4 * 0.5
    assert plan.text() == "10 jobs in 1 array, at most 20.0 GPU-hours before anything is requeued"
    assert plan_for(100, gpus=2).max_gpu_hours is None
    assert plan_for(100, time=1800.0, gpus=0).text() == "8 jobs in 1 array"
    text = plan_for(100, trials_per_job=1, parallel=5).text()
    assert text == "100 jobs in 6 arrays, at most 5 at once"
    assert plan_for(1).text() == "1 job in 1 array"


def test_the_first_jobs_where_a_site_lets_in_no_more():
    plan = plan_for(40, trials_per_job=1)
    some = plan.first_jobs(20)
    assert [batch.size for batch in some.batches] == [17, 3]
    assert (some.n_jobs, some.n_left) == (20, 20)
    assert some.text() == "20 jobs in 2 arrays (20 more when the site lets them in)"
    assert [batch.size for batch in some.first_jobs(17).batches] == [17]
    assert some.first_jobs(17).n_left == 23
    assert plan.first_jobs(40) == plan
    assert plan_for(40).first_jobs(3).n_left == 0  # any job may take any trial


@pytest.mark.parametrize(
    ("n_jobs", "max_array_size", "max_tasks", "sizes"),
    [
        (500, 1001, None, [500]),
        (1001, 1001, None, [1001]),
        (1002, 1001, None, [1001, 1]),
        (25_000, 100_001, None, [10_000, 10_000, 5000]),
        (250, 101, None, [101, 101, 48]),
        (250, 1001, 100, [100, 100, 50]),
        (3, 1, None, [1, 1, 1]),
        (3, 0, None, [1, 1, 1]),
    ],
)
def test_arrays_are_as_large_as_the_site_allows(n_jobs, max_array_size, max_tasks, sizes):
    parameters = "" if max_tasks is None else f"max_array_tasks={max_tasks}"
    site = site_of({"MaxArraySize": str(max_array_size), "SchedulerParameters": parameters})
    jobs = plan_for(n_jobs, site.chunk_size, trials_per_job=1)
    assert [batch.size for batch in jobs.batches] == sizes
