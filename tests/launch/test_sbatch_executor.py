"""What is handed to sbatch, and what is made of its answers: never two jobs, never one that is forgotten."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from dlcluster.errors import PreconditionError, SubmissionError
from dlcluster.launch import sbatch
from dlcluster.launch.directives import parse_directives
from dlcluster.launch.jobs import check_order, make_order
from dlcluster.launch.recover import recover
from dlcluster.launch.sbatch import PAUSES_S
from dlcluster.spec.launch_section import Launch
from tests.launch.pretend_slurm import IS_DOWN, PretendedSlurm
from tests.launch.sweeps import make_sweep

TIMED_OUT = {"rc": 1, "out": "", "err": "sbatch: error: Batch job submission failed: Socket timed out on send/recv\n"}
BUSY = {"rc": 1, "out": "", "err": "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.\n"}
DOWN = {"rc": 1, "out": "", "err": f"squeue: error: {IS_DOWN}\n", "always": True}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return PretendedSlurm(tmp_path / "slurm").install().use(monkeypatch)


@pytest.fixture
def made(slurm, tmp_path):
    return make_sweep(tmp_path / "runs")


def patient(executor):
    """The executor, and the pauses that it makes from now on."""
    pauses = []
    object.__setattr__(executor, "wait", pauses.append)
    return executor, pauses


# -- what it gets


def test_a_submission_of_three_trials(slurm, made):
    done = made.submit()
    assert (done.job_ids, done.n_left, done.problem, done.is_open) == ({0: 101}, 0, "", False)
    call = slurm.submissions[0]
    folder = made.sweep.submissions()[-1]
    assert call["argv"] == ["--parsable", str(folder.script(0))]
    assert call["stdin"] == ""
    job = slurm.jobs[0]
    assert job["name"] == made.name()
    assert job["comment"] == f"dlcluster:t:{folder.path.name}"
    assert job["options"]["array"] == "0-2"
    assert job["options"]["output"] == f"{folder.logs_dir}/%A_%a.log"
    assert folder.logs_dir.is_dir()
    assert job["options"]["signal"] == "B:USR1@120"
    assert made.jobs_on_record() == [101]


def test_the_script_starts_the_worker_with_its_place(slurm, made):
    slurm.configure(MaxArraySize="2")
    made.submit()
    folder = made.sweep.submissions()[-1]
    for number in (0, 1):
        text = folder.script(number).read_text()
        assert text.splitlines()[-1] == (
            f"exec {sys.executable} -m dlcluster.worker {made.sweep.path} --submission {folder.path.name} "
            f'--first-element {2 * number} --elapsed "$SECONDS"'
        )
        subprocess.run(["/bin/bash", "-n", str(folder.script(number))], check=True)


def test_one_job_is_no_array(slurm, made):
    """A site with MaxArraySize=0 has none."""
    slurm.configure(MaxArraySize="0")
    assert made.submit().job_ids == {0: 101, 1: 102, 2: 103}
    assert all("array" not in job["options"] for job in slurm.jobs)
    assert all(job["options"]["output"].endswith("/%j.log") for job in slurm.jobs)
    assert made.texts() == ["pending (waiting in the queue (Priority))"] * 3


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        ({"cpus": 3, "mem": "16G"}, {"--cpus-per-task=3", "--mem=16G"}),
        ({"cpus": 3, "mem": "16G", "trials_per_gpu": 4}, {"--cpus-per-task=12", "--mem=64G"}),
        ({"mem": "500", "trials_per_gpu": 2}, {"--mem=1000"}),
        ({"mem": "0", "trials_per_gpu": 2}, {"--mem=0"}),
        ({"gpus": 1, "trials_per_gpu": 2}, {"--gpus-per-node=1"}),
        ({"gpus": 2, "gpu_type": "a100", "time": "1h"}, {"--gpus-per-node=a100:2", "--time=01:00:00"}),
        (
            {"nodes": 2, "gpus": 4, "processes_per_node": 4, "cpus": 3},
            {"--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=3", "--gpus-per-node=4"},
        ),
        ({"partition": "gpu", "account": "me", "qos": "low"}, {"--partition=gpu", "--account=me", "--qos=low"}),
        ({"extra_args": ["--exclusive"]}, {"--exclusive", "--requeue"}),
    ],
)
def test_what_a_trial_gets_becomes_what_a_job_asks_for(made, launch, expected):
    assert expected <= set(parse_directives(made.executor(**launch).script(0).text()))


def test_arrays_follow_one_another_where_parallel_says_so(slurm, tmp_path):
    slurm.configure(MaxArraySize="17")
    made = make_sweep(tmp_path / "many", 40)
    made.submit(parallel=5)
    assert [job["options"]["array"] for job in slurm.jobs] == ["0-16%5", "0-16%5", "0-5%5"]
    assert [job["after"] for job in slurm.jobs] == ["", "afterany:101", "afterany:118"]
    made.submit(parallel=40)
    assert [job["after"] for job in slurm.jobs[3:]] == ["", "", ""]


# -- its environment


def test_the_environment_is_clean(slurm, made, monkeypatch):
    """Security row 11: with --export=ALL all of it goes into Slurm's state, and perhaps into its database."""
    poison = (
        "SBATCH_PARTITION",
        "SBATCH_EXPORT",
        "SLURM_JOB_ID",
        "SLURM_ARRAY_TASK_ID",
        "SRUN_DEBUG",
        "SALLOC_ACCOUNT",
    )
    secrets = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SLURM_JWT", "MY_PASSWORD", "GITHUB_TOKEN")
    others = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "LOADEDMODULES", "VIRTUAL_ENV", "MY_DATA")
    for name in (*poison, *secrets, *others):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LC_TIME", "C")
    executor = made.executor(pass_env=["MY_DATA", "VIRTUAL_ENV"])
    executor.check()
    executor.submit()
    calls = slurm.calls("sbatch")
    assert len(calls) == 2
    for call in calls:
        env = call["env"]
        assert not {*poison, *secrets, "RANK", "WORLD_SIZE", "MASTER_ADDR", "LOADEDMODULES"} & set(env)
        assert not [name for name in env if re.search("token|secret|password|key", name, re.IGNORECASE)]
        assert env["MY_DATA"] == env["VIRTUAL_ENV"] == "x"
        assert {"PATH", "HOME", "SLURM_CONF", "LC_TIME"} <= set(env)
        assert "--export=NONE" not in call["argv"]


def test_no_secret_passes_even_where_it_is_asked_for(slurm, made, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    executor = made.executor()
    executor.launch["pass_env"].extend(["HF_TOKEN", "SBATCH_QOS"])
    executor.submit()
    text = json.dumps(slurm.submissions[0]["env"])
    assert "hf_secret" not in text
    assert "HF_TOKEN" not in text


def test_slurm_starts_nothing_in_a_folder_that_may_be_gone(slurm, made, monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert made.submit().job_ids == {0: 101}
    assert slurm.submissions[0]["cwd"] == "/"


# -- its answers


@pytest.mark.parametrize(
    ("answer", "job_id", "cluster"),
    [
        ({"rc": 0, "out": "123\n"}, 123, None),
        ({"rc": 0, "out": "123;gpu-cluster\n"}, 123, "gpu-cluster"),
        ({"rc": 0, "out": "Welcome to the cluster!\nquota: 3 of 5\n\n124;c.1\n\n"}, 124, "c.1"),
        ({"rc": 0, "out": "125\n", "err": "*** maintenance on Friday ***\n" + BUSY["err"]}, 125, None),
    ],
)
def test_the_last_line_is_the_id_whatever_a_site_prints(slurm, made, answer, job_id, cluster):
    slurm.answer("sbatch", answer)
    assert made.submit().job_ids == {0: job_id}
    record = made.sweep.submissions()[-1].read_job(0)
    assert (record["job_id"], record["cluster"]) == (job_id, cluster)


@pytest.mark.parametrize("out", ["", "submitted!\n", "0\n", "12x\n", "12;a b\n", "1\n2 jobs\n"])
def test_an_answer_without_an_id_is_looked_up_by_name(slurm, made, out):
    slurm.answer("sbatch", {"rc": 0, "out": out, "does_it": True})
    assert made.submit().job_ids == {0: 101}
    assert len(slurm.jobs) == 1


def test_a_job_that_was_accepted_though_sbatch_failed_is_found_by_its_name(slurm, made):
    slurm.answer("sbatch", {**TIMED_OUT, "does_it": True})
    executor, pauses = patient(made.executor())
    assert executor.submit().job_ids == {0: 101}
    assert len(slurm.submissions) == len(slurm.jobs) == 1
    assert pauses == []


def test_an_sbatch_that_hangs_is_looked_up_by_name(slurm, made, monkeypatch):
    monkeypatch.setattr(sbatch, "TIMEOUT_S", 0.5)
    slurm.answer("sbatch", {"rc": 0, "does_it": True, "delay": 30})
    assert made.submit().job_ids == {0: 101}
    assert len(slurm.jobs) == 1


def test_a_job_that_is_not_found_is_submitted_again(slurm, made):
    slurm.answer("sbatch", TIMED_OUT, TIMED_OUT)
    executor, pauses = patient(made.executor())
    assert executor.submit().job_ids == {0: 101}
    assert pauses == list(PAUSES_S[:2])
    assert len(slurm.jobs) == 1


def test_slurmctld_may_accept_a_job_while_we_wait(slurm, made):
    """The answer was lost, the job is not there yet, and a moment later it is: it is not submitted again."""
    slurm.answer("sbatch", {**TIMED_OUT, "does_it": True})
    slurm.answer("squeue", {"rc": 0, "out": ""})
    executor, pauses = patient(made.executor())
    assert executor.submit().job_ids == {0: 101}
    assert pauses == [5.0]
    assert len(slurm.jobs) == 1


def test_what_was_not_accepted_for_now_is_tried_again(slurm, made):
    slurm.answer("sbatch", BUSY, BUSY, BUSY)
    executor, pauses = patient(made.executor())
    assert executor.submit().job_ids == {0: 101}
    assert pauses == [5.0, 15.0, 45.0]
    assert slurm.n_calls("squeue") == 0  # it says itself that it has not taken the job


def test_after_the_last_try_it_is_left_for_the_next_command(slurm, made):
    slurm.answer("sbatch", {**BUSY, "always": True})
    executor, pauses = patient(made.executor())
    done = executor.submit()
    assert (done.job_ids, done.n_left, done.is_open) == ({}, 3, False)
    assert pauses == list(PAUSES_S)
    assert made.jobs_on_record() == [None]
    assert made.texts() == ["waiting"] * 3  # and so the same command submits them


def test_an_ambiguous_answer_without_a_queue_is_left_open_and_adopted_later(slurm, made):
    slurm.answer("sbatch", {**TIMED_OUT, "does_it": True})
    slurm.answer("squeue", DOWN)
    done = made.submit()
    assert done.is_open
    assert done.n_left == 3
    assert "not known" in done.problem
    assert made.jobs_on_record() == ["open"]
    slurm.come_back()
    made.forget_submitter()
    assert recover(made.sweep, wait=lambda _seconds: None) == ["job 101 of an interrupted command was found again"]
    assert made.jobs_on_record() == [101]
    assert len(slurm.jobs) == 1


def test_what_stays_ambiguous_to_the_end_is_left_open(slurm, made):
    slurm.answer("sbatch", {**TIMED_OUT, "always": True})
    done = made.submit()
    assert done.is_open
    assert len(slurm.submissions) == len(PAUSES_S) + 1
    assert made.jobs_on_record() == ["open"]


def test_an_unknown_complaint_is_looked_up_and_not_tried_again(slurm, made):
    slurm.answer("sbatch", {"rc": 1, "out": "", "err": "sbatch: error: a plugin says no\n"})
    done = made.submit()
    assert "a plugin says no" in done.problem
    assert (len(slurm.submissions), slurm.n_calls("squeue")) == (1, 1)
    assert made.jobs_on_record() == [None]
    slurm.answer("sbatch", {"rc": 1, "err": "sbatch: error: lua: hm\n", "does_it": True})
    assert made.submit().problem == ""


@pytest.mark.parametrize(
    ("complaint", "key"),
    [
        ("Invalid partition name specified", "partition"),
        ("Invalid account or account/partition combination specified", "account or partition"),
        ("Invalid qos specification", "qos"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "time"),
        ("Memory specification can not be satisfied", "mem"),
        ("Requested node configuration is not available", "gpus, cpus, mem, nodes or constraint"),
    ],
)
def test_what_will_never_be_accepted_names_our_key(slurm, made, complaint, key):
    answer = {"rc": 1, "out": "", "err": f"sbatch: error: Batch job submission failed: {complaint}\n", "always": True}
    slurm.answer("sbatch", answer)
    executor, pauses = patient(made.executor())
    done = executor.submit()
    assert complaint in done.problem
    assert f"launch.{key} in the spec" in done.problem
    assert (pauses, len(slurm.submissions)) == ([], 1)
    with pytest.raises(SubmissionError, match=complaint.split("(")[0]):
        executor.check()


def test_a_quota_leaves_the_rest_for_the_next_call(slurm, tmp_path):
    slurm.configure(MaxArraySize="4")
    slurm.change(max_submit=6)
    made = make_sweep(tmp_path / "many", 10)
    done = made.submit()
    assert (done.job_ids, done.n_left, done.is_open) == ({0: 101}, 6, False)
    assert "Job violates accounting/QOS policy" in done.problem
    assert made.jobs_on_record() == [101, None, None]
    assert len(slurm.submissions) == 2  # the third is not even tried
    assert [state.state.value for state in made.states()] == ["pending"] * 4 + ["waiting"] * 6


def test_without_sbatch_nothing_is_left_half_done(slurm, made):
    executor = made.executor()
    (slurm.folder / "bin" / "sbatch").unlink()
    with pytest.raises(PreconditionError, match="sbatch: not found"):
        executor.submit()
    assert made.jobs_on_record() == ["open"]


# -- asking before anything is written


def make(made, **launch):
    settings = Launch(executor="slurm", **launch).model_dump()
    return make_order(made.sweep, settings, len(made.ids), 120.0, shared=False)


def test_the_check_gives_the_script_to_sbatch_and_writes_nothing(slurm, made):
    before = sorted(made.sweep.path.rglob("*"))
    check_order(make(made))
    call = slurm.calls("sbatch")[0]
    assert call["argv"] == ["--test-only"]
    assert "#SBATCH --job-name=t-" in call["stdin"]
    assert slurm.jobs == []
    assert sorted(made.sweep.path.rglob("*")) == before


def test_a_check_without_an_answer_is_no_permission(slurm, made):
    order = make(made)
    slurm.go_down()
    with pytest.raises(PreconditionError, match="nothing was submitted"):
        check_order(order)


def test_no_slurm_here(slurm, made):
    for program in ("sbatch", "squeue", "scontrol", "scancel"):
        (slurm.folder / "bin" / program).unlink()
    with pytest.raises(PreconditionError, match="--executor local"):
        make(made)


def test_values_that_cannot_stand_in_a_script_are_refused(slurm, made):
    for launch in ({"extra_args": ["--job-name=x"]}, {"extra_args": ["--comment=a b"]}, {"extra_args": ["-p x"]}):
        with pytest.raises(SubmissionError, match="extra_args"):
            check_order(make(made, **launch))
    assert slurm.n_calls("sbatch") == 0
