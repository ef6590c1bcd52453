"""What submitit is asked for, what it leaves on disk, and jobs that are held until all of it is there."""

from __future__ import annotations

import importlib.util
import itertools
import pickletools
import sys
from pathlib import Path

import pytest

from dlcluster.errors import PreconditionError, SubmissionError
from dlcluster.launch import submitit_launcher
from dlcluster.launch.batch_script import COMMAND, SIGNALS
from dlcluster.launch.directives import parse_directives
from dlcluster.launch.executor import EXECUTORS
from dlcluster.launch.jobs import check_order, make_order
from dlcluster.launch.recover import recover
from dlcluster.launch.sbatch import NotKnown, SlurmExecutor
from dlcluster.launch.submitit_launcher import SubmititExecutor, let_go, pickles_dir, put_pickles_in_place
from dlcluster.spec.launch_section import EXECUTORS as NAMES
from dlcluster.spec.launch_section import Launch
from tests.launch.pretend_slurm import PretendedSlurm
from tests.launch.sweeps import make_sweep
from tests.support import REPOSITORY, processes_with

# What a job of submitit has that ours has not. Held: its pickles come after it. ALL: Slurm's default, said aloud.
MORE_OPTIONS = {"--hold", "--export=ALL"}
ONLY_IN_PICKLES = {("submitit.core.utils", "DelayedSubmission"), ("dlcluster.worker.from_submitit", "main")}
ALL_KEYS = {
    "setup": ["module load cuda", "export NOTE='a b'", "#SBATCH --nice"],
    "account": "lab",
    "qos": "long",
    "partition": "gpu",
    "constraint": "a100",
    "gpus": 2,
    "gpu_type": "a100",
    "mem": "16G",
    "cpus": 4,
    "time": "2:30:00",
    "parallel": 2,
    "nodes": 2,
    "extra_args": ["--exclusive", "--licenses=matlab:1"],
}
REFUSED = "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    pretended = PretendedSlurm(tmp_path / "slurm").install().use(monkeypatch)
    srun = tmp_path / "slurm" / "bin" / "srun"
    srun.write_text("#!/bin/sh\nexit 1\n")
    srun.chmod(0o755)
    return pretended


@pytest.fixture
def made(slurm, tmp_path):
    return make_sweep(tmp_path / "runs")


def will_accept(slurm, *job_ids):
    """sbatch as submitit calls it: without --parsable."""
    slurm.answer("sbatch", *({"does_it": True, "out": f"Submitted batch job {job_id}\n"} for job_id in job_ids))


def submit(slurm, made, *job_ids, **launch):
    will_accept(slurm, *(job_ids or (101,)))
    return made.submit(executor="submitit", **launch)


def script_of(call) -> str:
    return Path(call["argv"][-1]).read_text()


def calls_in_order(slurm):
    return [" ".join([call["program"], *call["argv"][:1]]) for call in slurm.calls("sbatch", "scontrol", "sacct")]


# -- the same job as ours


@pytest.mark.parametrize("launch", [{}, ALL_KEYS], ids=["nothing", "all"])
@pytest.mark.parametrize("n_trials", [1, 3])
def test_both_executors_ask_for_the_same_job(slurm, made, launch, n_trials):
    submit(slurm, made, n_trials=n_trials, **launch)
    theirs = script_of(slurm.submissions[0])
    ours = made.sweep.submissions()[-1].script(0).read_text()
    assert set(parse_directives(theirs)) ^ set(parse_directives(ours)) == MORE_OPTIONS
    assert len(parse_directives(theirs)) == len(set(parse_directives(theirs)))
    assert shell_of(theirs, "\n# command\n") == shell_of(ours, COMMAND.partition("{")[0])


def shell_of(script, end):
    """What runs before the worker is started."""
    start = script.index(SIGNALS.strip("\n").partition("\n")[0])
    return script[start : script.index(end)].strip("\n")


def test_the_supervisor_is_the_process_that_slurm_signals(slurm, made):
    submit(slurm, made)
    last = script_of(slurm.submissions[0]).rstrip("\n").splitlines()[-1]
    assert last == f"exec {sys.executable} -u -m submitit.core._submit {pickles_dir(made.sweep.submissions()[-1], 0)}"


def test_arrays_are_cut_for_the_site_and_follow_one_another(slurm, made):
    slurm.configure(MaxArraySize="2")
    done = submit(slurm, made, 101, 103, parallel=1)
    assert done.job_ids == {0: 101, 1: 103}
    first, second = map(script_of, slurm.submissions)
    assert "--array=0-1%1" in parse_directives(first)
    assert "--dependency=afterany:101" in parse_directives(second)
    assert [f.name for f in sorted(pickles_dir(made.sweep.submissions()[-1], 1).glob("*.pkl"))] == ["103_submitted.pkl"]


@pytest.mark.parametrize(
    ("launch", "key"),
    [({"extra_args": ["--nice=1\ntouch /tmp/x #"]}, "extra_args"), ({"setup": ["echo \x1b"]}, "setup")],
)
def test_what_cannot_stand_in_a_script_never_reaches_submitit(slurm, made, launch, key):
    order = make_order(made.sweep, Launch(executor="submitit", **launch).model_dump(), 3, 120.0, shared=False)
    with pytest.raises(SubmissionError, match=key):
        check_order(order)
    assert slurm.submissions == []


def test_every_executor_of_a_spec_but_the_local_one_is_in_the_table():
    assert set(EXECUTORS) == set(NAMES) - {"local"}
    assert issubclass(SubmititExecutor, SlurmExecutor)


# -- what it leaves on disk, and whom it asks


def test_pickles_hold_one_name_and_strings(slurm, made):
    submit(slurm, made)
    folder = made.sweep.submissions()[-1]
    pickles = sorted(pickles_dir(folder, 0).glob("*.pkl"))
    assert [file.name for file in pickles] == [f"101_{index}_submitted.pkl" for index in range(3)]
    for file in pickles:
        opcodes = list(pickletools.genops(file.read_bytes()))
        names = [op.name for op, _argument, _place in opcodes]
        texts = [argument for _op, argument, _place in opcodes if isinstance(argument, str)]
        pairs = set(itertools.pairwise(texts))
        assert names.count("STACK_GLOBAL") == len(ONLY_IN_PICKLES)
        assert pairs >= ONLY_IN_PICKLES
        assert not {"REDUCE", "GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "PERSID", "BINPERSID"} & set(names)
        assert {str(made.sweep.path), folder.path.name, "0"} <= set(texts)


def test_nobody_else_can_plant_a_pickle(slurm, made):
    submit(slurm, made)
    folder = pickles_dir(made.sweep.submissions()[-1], 0)
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}
    assert {file.stat().st_mode & 0o077 for file in folder.iterdir()} == {0}


def test_accounting_is_never_asked_and_sbatch_gets_a_clean_environment(slurm, made, monkeypatch):
    for name in ("SBATCH_PARTITION", "SLURM_JOB_ID", "MY_TOKEN", "SOMETHING", "PYTHONPATH"):
        monkeypatch.setenv(name, "5")
    submit(slurm, made, pass_env=["SOMETHING"])
    assert slurm.n_calls("sacct") == 0
    passed = slurm.submissions[0]["env"]
    assert passed["SOMETHING"] == "5"
    assert not {"SBATCH_PARTITION", "SLURM_JOB_ID", "MY_TOKEN", "PYTHONPATH", "SUBMITIT_EXECUTOR"} & set(passed)


def test_what_the_spec_passes_on_is_passed_on(slurm, made, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    submit(slurm, made, pass_env=["PYTHONPATH"])
    assert slurm.submissions[0]["env"]["PYTHONPATH"] == str(REPOSITORY)


# -- held, complete, released, on record


def test_a_job_is_released_when_its_pickles_are_there(slurm, made):
    done = submit(slurm, made)
    assert done.job_ids == {0: 101}
    assert calls_in_order(slurm)[-2:] == [f"sbatch {slurm.submissions[0]['argv'][0]}", "scontrol release"]
    assert slurm.calls("scontrol")[-1]["argv"] == ["release", "101"]
    assert made.jobs_on_record() == [101]


def test_a_job_that_cannot_be_released_stays_off_the_record_until_the_next_command(slurm, made):
    executor = made.executor(executor="submitit")
    will_accept(slurm, 101)
    slurm.answer("scontrol", {"rc": 1, "err": "Unable to contact slurm controller (connect failure)\n", "always": True})
    done = executor.submit()
    assert (done.job_ids, done.is_open) == ({}, True)
    assert "job 101 is still held" in done.problem
    assert made.jobs_on_record() == ["open"]
    slurm.answer("scontrol")
    made.forget_submitter()
    assert recover(made.sweep) == ["job 101 of an interrupted command was found again"]
    assert slurm.calls("scontrol")[-1]["argv"] == ["release", "101"]
    assert made.jobs_on_record() == [101]


@pytest.mark.parametrize("n_moved", [0, 1, 3])
def test_a_command_killed_after_sbatch_leaves_a_job_that_the_next_one_completes(slurm, made, n_moved):
    submit(slurm, made)
    made.forget_submitter()
    made.lose_job()
    folder = pickles_dir(made.sweep.submissions()[-1], 0)
    for index in range(n_moved, 3):
        (folder / f"101_{index}_submitted.pkl").rename(folder / f"{index:032x}.pkl")
    n_calls = slurm.n_calls("scontrol")
    recover(made.sweep)
    assert len(list(folder.glob("*.pkl"))) == len(list(folder.glob("101_?_submitted.pkl"))) == 3
    assert [call["argv"] for call in slurm.calls("scontrol")[n_calls:]] == [["release", "101"]]
    assert made.jobs_on_record() == [101]


def test_a_job_whose_pickles_are_lost_is_named_and_not_released(slurm, made, tmp_path):
    folder = made.executor(executor="submitit").folder
    with pytest.raises(NotKnown, match=r"job 101 is held, and its pickles are not in .*\n  hint: scancel 101"):
        let_go(folder, 0, 101, 2)
    assert not [call for call in slurm.calls("scontrol") if call["argv"][0] == "release"]


def test_a_job_that_was_cancelled_meanwhile_is_settled(slurm, made):
    executor = made.executor(executor="submitit")
    will_accept(slurm, 101)
    slurm.answer("scontrol", {"rc": 1, "err": "101: Job has already finished\n", "always": True})
    assert executor.submit().job_ids == {0: 101}
    assert made.jobs_on_record() == [101]


def test_pickles_of_earlier_tries_go(tmp_path):
    for number in range(4):
        (tmp_path / f"{number:032x}.pkl").write_text("")
    put_pickles_in_place(tmp_path, 7, 2)
    put_pickles_in_place(tmp_path, 7, 2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["7_0_submitted.pkl", "7_1_submitted.pkl"]


def test_an_answer_that_was_lost_is_found_in_the_queue(slurm, made):
    executor = made.executor(executor="submitit")
    slurm.answer("sbatch", {"does_it": True, "rc": 1, "out": "", "err": TIMED_OUT})
    done = executor.submit()
    assert done.job_ids == {0: 101}
    assert len(slurm.submissions) == 1
    assert len(list(pickles_dir(executor.folder, 0).glob("101_?_submitted.pkl"))) == 3
    assert slurm.calls("scontrol")[-1]["argv"] == ["release", "101"]


def test_an_sbatch_that_never_answers_is_ended_and_its_job_found(slurm, made, monkeypatch):
    """Left alive, it might submit once more, after a second one has."""
    monkeypatch.setattr(submitit_launcher, "LIMIT_S", 1.0)
    slurm.answer("sbatch", {"does_it": True, "delay": 50})
    executor = made.executor(executor="submitit")
    assert executor.submit().job_ids == {0: 101}
    assert processes_with(str(executor.folder.path)) == []


def test_a_refusal_is_said_in_the_words_of_sbatch(slurm, made):
    executor = made.executor(executor="submitit")
    slurm.answer("sbatch", {"rc": 1, "out": "", "err": REFUSED, "always": True})
    done = executor.submit()
    assert done.n_left == 3
    assert done.problem == (
        "submitit: sbatch: error: Batch job submission failed: Invalid partition name specified\n"
        "  hint: see launch.partition in the spec"
    )
    assert made.jobs_on_record() == [None]
    assert list(pickles_dir(executor.folder, 0).glob("*.pkl")) == []


def test_without_submitit_one_line_says_what_to_install(slurm, made, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        PreconditionError, match=r"submitit is not installed for .*\n  hint: pip install 'submitit>=1.5'"
    ):
        made.executor(executor="submitit").check()
    assert slurm.n_calls("sbatch") == 0


def test_without_srun_submitit_starts_nothing(slurm, made):
    (slurm.folder / "bin" / "srun").unlink()
    with pytest.raises(PreconditionError, match="srun is not in PATH"):
        made.executor(executor="submitit").check()
