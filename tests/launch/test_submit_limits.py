"""A site that lets in fewer jobs than there are to be: what fits is submitted, and the rest is said to be left."""

from __future__ import annotations

import pytest

from dlcluster.errors import SubmissionError
from dlcluster.launch.jobs import check_order, make_order, place_order
from dlcluster.spec.launch_section import Launch
from tests.launch.pretend_slurm import PretendedSlurm
from tests.launch.sweeps import make_sweep


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return PretendedSlurm(tmp_path / "slurm").install().use(monkeypatch)


def make(made, **launch):
    settings = Launch(executor="slurm", **launch).model_dump()
    return make_order(made.sweep, settings, len(made.ids), 120.0, shared=False)


@pytest.mark.parametrize(("room", "n_in"), [(1, 1), (6, 6), (9, 9), (10, 10), (1000, 10)])
def test_of_a_single_array_as_much_is_submitted_as_the_site_lets_in(slurm, tmp_path, room, n_in):
    slurm.change(max_submit=room)
    made = make_sweep(tmp_path / "many", 10)
    order = check_order(make(made, trials_per_job=1))
    assert (order.jobs.n_jobs, order.jobs.n_left) == (n_in, 10 - n_in)
    submission, _scripts = place_order(order, [(trial_id, 1) for trial_id in made.ids], {}, None, checked=True)
    done = order.executor(submission).submit()
    assert (len(slurm.live_elements()), done.n_left) == (n_in, 10 - n_in)
    assert bool(done.problem) == (n_in < 10)
    assert [state.state.value for state in made.states()] == ["pending"] * n_in + ["waiting"] * (10 - n_in)


def test_where_any_job_may_take_any_trial_those_that_are_let_in_are_enough(slurm, tmp_path):
    slurm.change(max_submit=3)
    made = make_sweep(tmp_path / "many", 10)
    order = check_order(make(made, parallel=8))
    assert (order.jobs.n_jobs, order.jobs.n_left) == (3, 0)


def test_without_any_room_nothing_is_submitted(slurm, tmp_path):
    slurm.change(max_submit=0)
    made = make_sweep(tmp_path / "many", 3)
    with pytest.raises(SubmissionError, match="Job violates accounting/QOS policy"):
        check_order(make(made))
