"""A worker that `dlcluster cancel` comes too late for, or that is told to end only one of its trials."""

from __future__ import annotations

import pytest

from tests.support import end_of, start_worker, submit, wait_for_step, wait_until
from tests.worker.fake_job import FakeJob, last_ends

CANCELLED = "cancelled by_user"
# What the counter job does once it was asked to stop.
ASKED = "if run.should_stop() and not deaf:\n"


@pytest.fixture
def job(project):
    """In it or not, trials need a second to save, and say when they do."""
    counter = project.root / "counter.py"
    save = f'{ASKED}            print("saving", flush=True); time.sleep(1.0)\n'
    counter.write_text(counter.read_text().replace(ASKED, save))
    return FakeJob(project)


def begin(project, **rules):
    project.write_spec(fixed={"steps": 200, "every": 0, "pause": 0.05}, launch={"parallel": 1})
    return submit(project, **rules)


def wait_for_saving(project, trial):
    log = project.sweep.trial(trial).attempt(1).log
    wait_until(lambda: log.exists() and "saving" in log.read_text(), "a trial that saves")


def cancel(project, text):
    (worker,) = project.sweep.workers()
    worker.marker("cancel").write_text(text)


def test_cancelled_while_it_saves_at_its_deadline(project, job):
    submission = begin(project, time=4.0, margin=2.5)
    worker = job.start(submission)
    first = wait_until(lambda: project.trials()[0], "the plan")
    wait_for_saving(project, first)
    cancel(project, "")
    assert job.end_of(worker).code == 0
    assert last_ends(project) == [[CANCELLED], []]
    assert not job.calls()


def test_outside_of_a_job_too_a_trial_that_saves_at_its_deadline_is_cancelled(project, job):
    """No later command goes on with it."""
    worker = start_worker(project, begin(project, time=4.0, margin=2.5))
    wait_for_saving(project, project.trials()[0])
    cancel(project, "")
    assert end_of(worker).code == 0
    assert last_ends(project) == [[CANCELLED], []]


def test_called_off_while_it_saves_its_record_says_so(project, job):
    """The worker has not seen a marker: it had ended its trial before `cancel` looked for it."""
    submission = begin(project, time=4.0, margin=2.5)
    worker = job.start(submission)
    wait_for_saving(project, project.trials()[0])
    (project.sweep.submission(submission).path / "cancelled").write_text("")
    assert job.end_of(worker).code == 0
    assert last_ends(project) == [[CANCELLED], []]
    assert not job.calls()


def test_after_one_trial_was_cancelled_the_job_is_requeued_for_the_others(project, job):
    submission = begin(project, time=9.0, margin=2.5)
    worker = job.start(submission)
    wait_for_step(project, 3)
    first, second = project.trials()
    (project.sweep.submission(submission).path / "cancelled").write_text(f"{first.id}\n")
    cancel(project, first.id)
    wait_until(lambda: project.history(second), "the second trial")
    assert job.end_of(worker).code == 0
    assert last_ends(project) == [[CANCELLED], ["interrupted deadline"]]
    assert job.kinds_of_calls() == ["show", "requeue"]
