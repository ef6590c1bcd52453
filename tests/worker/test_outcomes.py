"""How the supervisor judges an end: codes that mean something to it may as well be a program's own."""

from __future__ import annotations

import signal

import pytest

from tests.support import check_files, end_of, processes_with, run_worker, start_worker, submit, wait_until

JOB = "import os, sys\n\n\ndef train(run, **_params):\n    run.log(loss=1.0)\n    {}\n"


def ends_of_the_only_trial(project, **spec):
    project.write_spec(space={"start": [1.0]}, launch={"parallel": 1}, **spec)
    done = run_worker(project, submit(project))
    (trial,) = project.trials()
    return done.code, project.ends(trial)


@pytest.mark.parametrize("code", [74, 75, 76])
@pytest.mark.parametrize("leave", ["sys.exit", "os._exit"])
def test_a_job_that_leaves_with_a_code_of_ours_has_failed_with_it_once(project, leave, code):
    (project.root / "counter.py").write_text(JOB.format(f"{leave}({code})"))
    assert ends_of_the_only_trial(project, fixed={}) == (0, [f"failed exit({code})"])


@pytest.mark.parametrize("code", [74, 76])
def test_a_program_that_leaves_with_a_code_of_ours_has_failed_with_it_once(project, code):
    command = ["sh", "-c", f"exit {code}"]
    assert ends_of_the_only_trial(project, job=None, command=command, fixed={}) == (0, [f"failed exit({code})"])


DYING_ZYGOTE = """
import os, pathlib, signal, time

root = pathlib.Path({root!r})
if (root / "imported").exists():
    (root / "again").touch()
    time.sleep(60)
(root / "imported").touch()


def train(run, **_params):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
"""


def test_a_stop_while_the_job_is_imported_anew_ends_the_worker(project):
    (project.root / "counter.py").write_text(DYING_ZYGOTE.format(root=str(project.root)))
    project.write_spec(space={"start": [1.0, 2.0]}, fixed={}, launch={"parallel": 1})
    worker = start_worker(project, submit(project))
    wait_until((project.root / "again").exists, "the second import")
    worker.send_signal(signal.SIGTERM)
    assert end_of(worker, timeout=10).code == 75
    assert [project.ends(trial) for trial in project.trials()] == [
        ["failed killed(9)"],
        ["interrupted stop_requested"],
    ]
    check_files(project.sweep.path)
    assert not processes_with(str(project.root))
