"""`sweep`, `sbatch`, `resume`, `status` and `cancel` as a user types them, with a Slurm that only pretends."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.launch.children import Child, in_children
from tests.launch.pretend_slurm import IS_DOWN, PretendedSlurm
from tests.launch.sweeps import Made
from tests.support import Finished

DOWN = {"rc": 1, "out": "", "err": f"squeue: error: {IS_DOWN}\n", "always": True}
QUOTA = r"Job violates accounting/QOS policy"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return PretendedSlurm(tmp_path / "slurm").install().use(monkeypatch)


class User:
    """Types commands in the project's folder."""

    def __init__(self, project, tmp_path) -> None:
        self.project, self.tmp_path = project, tmp_path
        project.write_spec(
            space={"start": [1.0, 2.0, 3.0]}, code="live", launch={"executor": "slurm", "trials_per_job": 1}
        )

    def types(self, *arguments, code=0) -> Finished:
        out, err = self.tmp_path / "out.txt", self.tmp_path / "err.txt"
        found, _value = Child(lambda: self._command(arguments, out, err)).end()
        finished = Finished(found, out.read_text(), err.read_text())
        assert code is None or found == code, (arguments, finished)
        return finished

    def _command(self, arguments, out: Path, err: Path) -> None:
        for file, number in ((out, 1), (err, 2)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(self.project.root)
        sys.argv = ["dlcluster", *arguments]
        from dlcluster.cli import main

        try:
            main(list(arguments))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    def sweeps(self, *more, code=0) -> Finished:
        return self.types("sweep", "sweep.yaml", "--no-import-check", *more, code=code)

    @property
    def made(self) -> Made:
        return Made(self.project.sweep, [trial.id for trial in self.project.trials()])

    def states(self) -> list[str]:
        trials = json.loads(self.types("status", "count", "--json").out)["trials"]
        return [f"{trial['state']} {trial['reason']}".strip() for trial in trials]


@pytest.fixture
def user(project, slurm, tmp_path):
    return User(project, tmp_path)


def files_of(user):
    return sorted(str(path) for path in user.project.root.rglob("*"))


# -- sweep


def test_a_sweep_is_submitted_once(user, slurm):
    said = user.sweeps()
    assert f"count: 3 trials submitted as 3 job(s): {slurm.jobs[0]['id']}\n" in said.out
    again = user.sweeps()
    assert "count: nothing to do: 3 pending" in again.out
    assert len(slurm.submissions) == 1
    assert len(slurm.live_elements()) == 3
    assert set(user.states()) == {"pending waiting in the queue (Priority)"}


def test_what_a_user_types_in_a_shell(user, slurm):
    """One true process, with the import check."""
    user.project.env = {**slurm.environment()}
    assert "3 trials submitted" in user.project.run_sweep().out
    assert "nothing to do" in user.project.run_sweep().out
    assert len(slurm.submissions) == 1


def test_two_commands_at_the_same_moment_leave_nothing_out(user, slurm):
    """They may both submit; the claims of attempts let one of two jobs end. But they say so, and nothing is lost."""
    in_children([lambda: user.sweeps(code=None).code] * 2)
    assert set(user.states()) == {"pending waiting in the queue (Priority)"}
    n = len(slurm.submissions)
    user.sweeps()
    assert len(slurm.submissions) == n


def test_a_dry_run_submits_and_writes_nothing(user, slurm):
    before = files_of(user)
    said = user.sweeps("--dry-run")
    assert "jobs            3 jobs in 1 array" in said.out
    assert files_of(user) == before
    assert slurm.submissions == []
    assert [call["argv"] for call in slurm.calls("sbatch")] == [["--test-only"]]


def test_more_trials_are_more_jobs_and_no_others(user, slurm):
    user.sweeps()
    user.sweeps("--set", "seeds=2")
    assert len(slurm.submissions) == 2
    assert len(slurm.live_elements()) == 6
    assert set(user.states()) == {"pending waiting in the queue (Priority)"}  # an older answer would not know the new


def test_executor_and_parallel_from_the_command_line(user, slurm):
    user.project.write_spec(space={"start": [1.0, 2.0, 3.0]}, code="live", launch={})
    user.sweeps("--executor", "slurm", "--parallel", "2")
    assert slurm.jobs[0]["options"]["array"] == "0-1"


def test_completed_trials_are_not_submitted_again(user, slurm):
    user.sweeps()
    user.made.begin(0, {"kind": "end", "time": 2.0, "state": "completed", "reason": "", "seconds": 1.0})
    slurm.put("COMPLETED")
    user.sweeps()
    assert [len(job["states"]) for job in slurm.jobs] == [3, 2]


def test_a_job_that_is_held_in_the_queue_is_not_submitted_again(user, slurm):
    user.sweeps()
    slurm.put("PENDING", "JobHeldUser")
    assert "held" in user.sweeps().out
    assert len(slurm.submissions) == 1


# -- exit codes


def test_without_slurm_it_says_what_to_do(user, slurm):
    for program in ("sbatch", "squeue", "sacct", "scancel", "scontrol"):
        (slurm.folder / "bin" / program).unlink()
    said = user.sweeps(code=3)
    assert "Slurm not found" in said.err
    assert "hint: use --executor local" in said.err
    assert not user.project.runs.exists()


@pytest.mark.parametrize(
    ("complaint", "key"), [("Invalid partition name specified", "partition"), ("Invalid qos specification", "qos")]
)
def test_what_slurm_refuses_is_refused_before_anything_is_written(user, slurm, complaint, key):
    slurm.answer("sbatch", {"rc": 1, "out": "", "err": f"sbatch: error: {complaint}\n"})
    said = user.sweeps(code=4)
    assert complaint in said.err
    assert f"launch.{key}" in said.err
    assert not user.project.runs.exists()


def test_what_slurm_refuses_after_the_check(user, slurm):
    refused = {"rc": 1, "out": "", "err": "sbatch: error: Batch job submission failed: Invalid qos specification\n"}
    slurm.answer("sbatch", {}, refused)
    said = user.sweeps(code=4)
    assert "3 job(s) were not submitted" in said.err
    assert user.states() == ["waiting"] * 3
    user.sweeps()
    assert len(slurm.live_elements()) == 3


def test_a_quota_in_the_middle(user, slurm):
    slurm.configure(MaxArraySize="1")
    slurm.change(max_submit=1)
    said = user.sweeps(code=5)
    assert "2 job(s) were not submitted; the same command goes on with them" in said.err
    assert re.search(QUOTA, said.err)
    assert len(slurm.jobs) == 1
    slurm.change(max_submit=3)
    user.sweeps()
    assert sorted(index for _name, index in slurm.live_elements()) == [0, 0, 0]
    assert "nothing to do: 3 pending" in user.sweeps().out


def test_a_lost_answer_is_found_by_the_next_command(user, slurm):
    lost = {"rc": 1, "out": "", "err": "sbatch: error: Socket timed out on send/recv operation\n", "does_it": True}
    slurm.answer("sbatch", {}, lost)
    slurm.answer("squeue", DOWN)
    assert "may not have been submitted" in user.sweeps(code=4).err
    assert "whether a command that died has submitted jobs cannot be told" in user.sweeps(code=3).err
    slurm.come_back()
    said = user.sweeps()
    assert f"job {slurm.jobs[0]['id']} of an interrupted command was found again" in said.out + said.err
    assert "nothing to do: 3 pending" in said.out
    assert len(slurm.live_elements()) == 3


# -- a scheduler that does not answer


def test_nothing_is_submitted_while_nobody_can_say_what_waits(user, slurm):
    user.sweeps()
    slurm.go_down()
    slurm.let_caches_expire()
    before = files_of(user)
    assert re.search(r"scheduler unreachable since \d\d:\d\d", user.sweeps(code=3).err)
    assert re.search(r"scheduler unreachable since \d\d:\d\d", user.types("resume", "count", code=3).err)
    assert files_of(user) == before
    slurm.come_back()
    assert "nothing to do" in user.sweeps().out
    assert len(slurm.submissions) == 1


def test_a_first_sweep_without_a_scheduler_writes_nothing(user, slurm):
    slurm.go_down()
    assert IS_DOWN in user.sweeps(code=3).err
    assert not user.project.runs.exists()


def test_status_says_that_the_scheduler_does_not_answer(user, slurm):
    user.sweeps()
    user.made.begin(0)
    slurm.go_down()
    slurm.let_caches_expire()
    said = user.types("status", "count", "--all").out
    assert re.search(r"running \(scheduler unreachable since \d\d:\d\d\)", said)
    assert re.search(r"pending \(scheduler unreachable since \d\d:\d\d\)", said)
    assert "completed" not in said
    assert "vanished" not in said


def test_status_says_so_without_being_asked_for_all_trials(user, slurm):
    user.sweeps()
    slurm.go_down()
    slurm.let_caches_expire()
    assert "scheduler unreachable since" in user.types("status", "count").out


# -- politeness


def test_status_of_a_finished_sweep_asks_nobody(user, slurm):
    user.sweeps()
    for k in range(3):
        user.made.begin(k, {"kind": "end", "time": 2.0, "state": "completed", "reason": "", "seconds": 1.0})
    n_calls = slurm.n_calls()
    assert user.states() == ["completed"] * 3
    user.types("status", "count")
    assert [call["argv"] for call in slurm.calls()[n_calls:]] == []


def test_status_of_an_unfinished_one_asks_once_for_all(user, slurm):
    user.sweeps()
    n_calls = slurm.n_calls()
    for _ in range(2):
        user.types("status", "count")
    others = [User(user.project, user.tmp_path / f"{k}") for k in range(3)]
    for other in others:
        other.tmp_path.mkdir()
    in_children([lambda other=other: other.types("status", "count").code for other in others])
    assert slurm.n_calls() == n_calls + 1


# -- sbatch


def test_scripts_for_submitting_by_hand(user, slurm):
    said = user.types("sbatch", "sweep.yaml", "--no-import-check")
    assert "nothing was submitted" in said.out
    assert slurm.n_calls("sbatch") == 0
    script = re.search(r"^  sbatch (/\S+\.sh)$", said.out, re.MULTILINE)[1]
    assert Path(script).stat().st_mode & 0o077 == 0
    assert user.states() == ["waiting"] * 3
    program_calls = slurm.n_calls("squeue")
    Child(lambda: os.execv(f"{slurm.folder}/bin/sbatch", ["sbatch", "--parsable", script])).end()
    slurm.let_caches_expire()
    assert set(user.states()) == {"pending waiting in the queue (Priority)"}
    assert slurm.n_calls("squeue") > program_calls
    assert "nothing to do: 3 pending" in user.sweeps().out
    assert "nothing to do" in user.types("sbatch", "sweep.yaml", "--no-import-check").out


# -- resume


def test_resume_goes_on_where_the_newest_submission_ran(user, slurm):
    user.project.write_spec(space={"start": [1.0, 2.0, 3.0]}, code="live", launch={"trials_per_job": 1})
    user.sweeps("--executor", "slurm")
    slurm.put("NODE_FAIL")
    user.types("resume", "count")
    assert len(slurm.submissions) == 2
    assert len(slurm.live_elements()) == 3
    assert "nothing to do" in user.types("resume", "count").out


def test_resume_failed_submits_what_failed(user, slurm):
    user.sweeps()
    row = {"kind": "end", "time": 2.0, "state": "failed", "reason": "exception", "seconds": 1.0}
    for k in range(3):
        user.made.begin(k, row)
    slurm.put("COMPLETED")
    assert "nothing is missing (3 failed)" in user.types("resume", "count").out
    user.types("resume", "count", "--failed")
    assert set(user.states()) == {"pending waiting in the queue (Priority)"}
    assert "nothing to do" in user.types("resume", "count", "--failed").out


# -- cancel


def test_cancel_takes_ours_out_of_the_queue_and_sweep_leaves_them_alone(user, slurm):
    user.sweeps()
    jobs = slurm.jobs
    slurm.change(jobs=[*jobs, {**jobs[0], "id": 7, "name": "interactive"}])
    assert "3 job(s) taken out of the queue" in user.types("cancel", "count").out
    assert user.states() == ["cancelled by_user"] * 3
    assert slurm.live_elements() == [("interactive", index) for index in range(3)]
    assert "nothing is missing (3 cancelled)" in user.sweeps().out
    assert len(slurm.submissions) == 1
    user.types("resume", "count", "--failed")
    assert len(slurm.submissions) == 2


def test_cancel_without_a_scheduler_says_so(user, slurm):
    user.sweeps()
    slurm.go_down()
    said = user.types("cancel", "count", code=3)
    assert "scheduler unreachable since" in said.err
    assert "will find the marker" in said.err
