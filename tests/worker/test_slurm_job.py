"""The Slurm job of a worker: its variables, its record, its log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcluster.worker.slurm_job import (
    TAIL_BYTES,
    LogWitness,
    SlurmJob,
    causes_in_log,
    from_environment,
    is_unknown,
    own_log_file,
    read_record,
    seconds_left,
)

BATCH = {
    "SLURM_JOB_ID": "12",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURMD_NODENAME": "n1",
    "SLURM_CLUSTER_NAME": "dlcluster",
}
ARRAY = {**BATCH, "SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
JOB, ELEMENT = SlurmJob(12), SlurmJob(15, 12, 3)

# As 22.05.8 prints it (the order of `slurm_sprint_job_info`) where preemption is configured.
TEMPLATE = """
    UserId=user(1000) GroupId=user(1000) MCS_label=N/A Priority=4294901757 Nice=0 Account=(null) QOS=normal
    JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
    RunTime=00:00:42 TimeLimit=00:02:00 TimeMin=N/A SubmitTime=2024-05-01T11:59:00 EligibleTime=2024-05-01T11:59:00
    AccrueTime=2024-05-01T11:59:00 StartTime=2024-05-01T11:59:18 EndTime=2024-05-01T12:01:18 Deadline=N/A
    PreemptEligibleTime=2024-05-01T11:59:18 PreemptTime=None SuspendTime=None SecsPreSuspend=0
    LastSchedEval=2024-05-01T11:59:18 Scheduler=Main Partition=low AllocNode:Sid=login:4711 ReqNodeList=(null)
    ExcNodeList=(null) NodeList=n1 BatchHost=n1 NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
    TRES=cpu=1,mem=200M,node=1,billing=1 Socks/Node=* NtasksPerN:B:S:C=1:0:*:* CoreSpec=* MinCPUsNode=1
    MinMemoryCPU=200M MinTmpDiskNode=0 Features=(null) DelayBoot=00:00:00 OverSubscribe=OK Contiguous=0
    Licenses=(null) Network=(null) Command= WorkDir= Comment= StdErr= StdIn=/dev/null StdOut= Power=
"""
FIELDS = {
    **dict(field.split("=", 1) for field in TEMPLATE.split()),
    "Command": "/home/user/my runs/job.sh",
    "WorkDir": "/home/user/my runs",
    "Comment": "dlcluster:lr:7f3a9c1e0b",
    "StdErr": "/home/user/my runs/12.log",
    "StdOut": "/home/user/my runs/12.log",
}


def show_line(job_id=12, array=None, JobName="dlcluster-7f3a9c1e0b", **changes):
    """One line of `scontrol -o show job` of Slurm 22.05; a field that is None is left out."""
    start = f"JobId={job_id} " + (f"ArrayJobId={array[0]} ArrayTaskId={array[1]} " if array else "")
    fields = {**FIELDS, **changes}
    return start + f"JobName={JobName} " + " ".join(f"{k}={v}" for k, v in fields.items() if v is not None) + " \n"


def log_line(job_id, cause=""):
    """What slurmstepd writes into the job's log when it begins to end it."""
    due = f" DUE TO {cause}" if cause else ""
    return f"slurmstepd: error: *** JOB {job_id} ON n1 CANCELLED AT 2024-05-01T12:00:00{due} ***\n"


# -- variables ---------------------------------------------------------------------------------------------------------


def test_a_batch_job_in_its_first_life():
    job = from_environment(BATCH)
    assert (job.job_id, job.array_job_id, job.array_task_id, job.restarts) == (12, None, None, 0)
    assert (job.nodes, job.node, job.cluster, job.step_id) == ("n[1-2]", "n1", "dlcluster", None)
    assert job.name_for_scontrol == "12"


def test_an_element_of_an_array_in_a_later_life():
    job = from_environment({**ARRAY, "SLURM_RESTART_COUNT": "2"})
    assert job.name_for_scontrol == "12_3"
    assert job.to_json() == {"id": 15, "array": 12, "index": 3, "restarts": 2, "cluster": "dlcluster"}
    json.dumps(job.to_json(), allow_nan=False)


def test_the_first_element_has_the_index_0():
    assert from_environment({**ARRAY, "SLURM_ARRAY_TASK_ID": "0"}).name_for_scontrol == "12_0"


@pytest.mark.parametrize("environ", [{}, {"SLURM_JOB_ID": ""}, {"SLURM_JOB_ID": "0"}, {"SLURM_JOBID": "12"}])
def test_outside_of_a_job_there_is_none(environ):
    assert from_environment(environ) is None


BAD_NUMBERS = ["x", "-1", "1.5", " 12", "12 ", "1_2", "१२", "12;rm -rf /", "4294967295", "9" * 5000, "\n", "12\n"]


@pytest.mark.parametrize("text", BAD_NUMBERS)
def test_what_is_no_number_is_no_job_id(text):
    assert from_environment({**BATCH, "SLURM_JOB_ID": text}) is None


@pytest.mark.parametrize("text", BAD_NUMBERS)
def test_malformed_variables_beside_it_are_ignored(text):
    names = ("SLURM_RESTART_COUNT", "SLURM_STEP_ID", "SLURM_ARRAY_TASK_ID")
    job = from_environment({**ARRAY, **dict.fromkeys(names, text)})
    assert (job.restarts, job.step_id, job.array_job_id, job.array_task_id) == (0, None, None, None)
    assert job.name_for_scontrol == "15"  # the bare id of the array would requeue all its elements


def test_the_batch_step_has_no_number_and_a_step_of_srun_has():
    assert from_environment({**BATCH, "SLURM_STEP_ID": "4294967291"}).step_id is None  # SLURM_BATCH_SCRIPT
    assert from_environment({**BATCH, "SLURM_STEP_ID": "0"}).step_id == 0


def test_texts_that_no_terminal_should_see_are_dropped():
    job = from_environment({**BATCH, "SLURM_CLUSTER_NAME": "a\x1b[31m", "SLURM_JOB_NODELIST": "n" * 5000})
    assert (job.cluster, job.nodes) == ("", "")


NAMES = ["SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_END_TIME"]


@given(st.dictionaries(st.sampled_from(NAMES), st.text() | st.integers().map(str)))
def test_no_environment_raises(environ):
    job = from_environment(environ)
    assert job is None or json.dumps(job.to_json(), allow_nan=False)
    left = seconds_left(environ, 0.0)
    assert left is None or left >= 0


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_END_TIME": "soon"}, None),
        ({"SLURM_JOB_END_TIME": "1700000600"}, 600.0),
        ({"SLURM_JOB_END_TIME": "1700000600", "SLURM_JOB_START_TIME": "1699999000"}, 600.0),
        ({"SLURM_JOB_END_TIME": "1700000600", "SLURM_JOB_START_TIME": "1700000500"}, 100.0),  # our clock is behind
        ({"SLURM_JOB_END_TIME": "1699999990"}, -10.0),
    ],
)
def test_the_time_that_is_left(variables, expected):
    assert seconds_left(variables, 1_700_000_000.0) == expected


# -- the log file ------------------------------------------------------------------------------------------------------

PRINT_LOG_FILE = (
    "import sys; from dlcluster.worker.slurm_job import own_log_file as f; open(sys.argv[1], 'w').write(str(f()))"
)


def log_file_with(tmp_path, **streams):
    answer = tmp_path / "answer"
    subprocess.run([sys.executable, "-c", PRINT_LOG_FILE, answer], check=True, timeout=30, **streams)
    return answer.read_text()


def test_the_log_is_the_file_that_stderr_goes_to(tmp_path):
    with open(tmp_path / "out log", "w") as out, open(tmp_path / "err", "w") as err:
        assert log_file_with(tmp_path, stdout=out, stderr=err) == str(tmp_path / "err")
        assert log_file_with(tmp_path, stdout=out, stderr=subprocess.STDOUT) == str(tmp_path / "out log")
        assert log_file_with(tmp_path, stdout=out, stderr=subprocess.DEVNULL) == str(tmp_path / "out log")


def test_a_pipe_a_device_and_a_deleted_file_are_no_log(tmp_path):
    assert log_file_with(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) == "None"
    log = tmp_path / "log"
    with open(log, "w") as file:
        log.unlink()
        assert log_file_with(tmp_path, stdout=file, stderr=file) == "None"
        Path(f"{log} (deleted)").write_text("somebody else's")
        assert log_file_with(tmp_path, stdout=file, stderr=file) == "None"


def test_own_log_file_never_raises():
    own_log_file()


def test_the_witness_sees_only_what_was_written_since(tmp_path):
    log = tmp_path / "log"
    log.write_text(log_line(12, "PREEMPTION"))
    witness = LogWitness(log)
    assert witness.tail() == ""
    with open(log, "ab") as file:
        file.write(b"\xff\xfe new\n")
    assert witness.tail() == "\ufffd\ufffd new\n"


def test_the_witness_reads_the_end_of_a_long_log(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    witness = LogWitness(log)
    with open(log, "a") as file:
        file.write("x" * 3 * TAIL_BYTES + "\n" + log_line(12))
    assert len(witness.tail()) == TAIL_BYTES
    assert causes_in_log(witness.tail(), JOB) == [""]


def test_a_log_that_was_cut_or_is_gone_or_never_was_testifies_to_nothing(tmp_path):
    log = tmp_path / "log"
    log.write_text("x" * 1000)
    witness = LogWitness(log)
    log.write_text(log_line(12, "PREEMPTION"))
    assert witness.tail() == ""
    log.unlink()
    assert witness.tail() == ""
    late = LogWitness(log)
    log.write_text(log_line(12, "PREEMPTION"))  # perhaps of an earlier life: nobody has seen where ours begins
    assert late.tail() == ""
    assert LogWitness(None).tail() == ""


@pytest.mark.parametrize(
    ("text", "causes"),
    [
        ("", []),
        (log_line(12), [""]),
        (log_line(12, "PREEMPTION"), ["PREEMPTION"]),
        (log_line(12, "TIME LIMIT"), ["TIME LIMIT"]),
        (log_line(12, "NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"), ["NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"]),
        ("training\n" + log_line(12, "PREEMPTION") + "saved\n", ["PREEMPTION"]),
        (log_line(12, "PREEMPTION") + log_line(12), ["PREEMPTION", ""]),
        (log_line(112, "PREEMPTION") + log_line(1, "PREEMPTION") + log_line(123, "PREEMPTION"), []),
        (log_line(12, "PREEMPTION").replace("JOB 12", "STEP 12.0"), []),
        (log_line(12, "PREEMPTION")[:-20], []),
        (log_line(12).replace("CANCELLED", "CANCELLED\n"), []),
    ],
)
def test_the_log_says_why_the_job_is_ended(text, causes):
    assert causes_in_log(text, JOB) == causes


def test_in_an_array_the_log_has_the_element_s_own_id():
    assert causes_in_log(log_line(15, "PREEMPTION") + log_line(12), ELEMENT) == ["PREEMPTION"]


# -- the record --------------------------------------------------------------------------------------------------------


def test_the_fields_that_matter_are_read():
    line = show_line(JobState="COMPLETING", Reason="TimeLimit", Restarts="3", PreemptTime="2024-05-01T12:00:00")
    record = read_record(line, SlurmJob(12, restarts=3))
    assert (record.state, record.reason, record.restarts) == ("COMPLETING", "TimeLimit", 3)
    assert record.preempt_time == "2024-05-01T12:00:00"


def test_names_and_comments_that_look_like_fields_are_not_read():
    lies = "x JobState=RUNNING Reason=TimeLimit Restarts=9 PreemptTime=2024-05-01T12:00:00 JobId=12"
    line = show_line(JobState="COMPLETING", JobName=lies, Comment=lies, Command=f"/a b/{lies}", PreemptTime=None)
    record = read_record(line, JOB)
    assert (record.state, record.reason, record.restarts, record.preempt_time) == ("COMPLETING", "None", 0, "")
    assert read_record(show_line(99, JobName=lies, Comment=lies), JOB) is None


def test_the_own_line_is_found_among_those_of_an_array():
    others = [show_line(i, array=(15, i), JobState="PENDING") for i in (1, 2, 7)]
    text = "\n".join([*others, show_line(15, array=(15, 3)), ""])
    assert read_record(text, SlurmJob(15, 15, 3)).state == "RUNNING"
    assert read_record(text, SlurmJob(15, 15, 4)) is None
    assert read_record(show_line(15, array=(15, "4-9%2"), JobState="PENDING"), SlurmJob(15, 15, 3)) is None


def test_a_job_with_a_longer_or_a_shorter_id_is_another():
    assert read_record(show_line(112), JOB) is None
    assert read_record(show_line(123), JOB) is None
    assert read_record(show_line(15, array=(12, 3)), JOB) is None
    assert read_record(show_line(1), JOB) is None
    assert read_record(show_line(12), SlurmJob(2)) is None


@pytest.mark.parametrize("changes", [{"JobState": None}, {"JobState": ""}, {"Restarts": None}, {"Restarts": "many"}])
def test_half_a_record_is_none(changes):
    assert read_record(show_line(**changes), JOB) is None


@pytest.mark.parametrize("text", [None, "", "\n", "No jobs in the system", "JobId=12", "JobId=12 JobName=x"])
def test_no_record(text):
    assert read_record(text, JOB) is None
    assert not is_unknown(text, JOB)


@given(st.text() | st.integers(0, 900).map(lambda n: show_line()[:n]))
def test_nothing_that_scontrol_could_print_raises(text):
    read_record(text, JOB)
    causes_in_log(text, JOB)


@pytest.mark.parametrize("text", ["slurm_load_jobs error: Invalid job id specified", "\nJob 12 not found\n"])
def test_a_job_that_slurm_does_not_know(text):
    assert is_unknown(text, JOB)
    assert not is_unknown(show_line(Comment=text.strip()), JOB)
