"""The tables of the scheduler's words: every state of Slurm 22.05, every complaint, every reader."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcluster.errors import WorkerExit
from dlcluster.launch.slurm_errors import COMPLAINTS
from dlcluster.launch.slurm_words import (
    SACCT_FIELDS,
    SQUEUE_FORMAT,
    STATES,
    AccountRow,
    Answer,
    JobWord,
    QueueRow,
    Standing,
    classify,
    is_memory_kill,
    key_of,
    parse_key_values,
    parse_sacct,
    parse_squeue,
    read_account,
    read_job_id,
    read_state,
)

WAITING, HELD, ALIVE = Standing.WAITING, Standing.HELD, Standing.ALIVE
FINISHING, GONE, UNKNOWN = Standing.FINISHING, Standing.GONE, Standing.UNKNOWN

# `job_state_string` of Slurm 22.05.8, src/common/slurm_protocol_defs.c, in its order
FLAGS = {
    "COMPLETING": (FINISHING, ""),
    "STAGE_OUT": (FINISHING, ""),
    "CONFIGURING": (WAITING, ""),
    "RESIZING": (ALIVE, ""),
    "REQUEUED": (WAITING, "requeued"),
    "REQUEUE_FED": (WAITING, "requeued"),
    "REQUEUE_HOLD": (HELD, "held"),
    "SPECIAL_EXIT": (HELD, "held"),
    "STOPPED": (ALIVE, "suspended"),
    "REVOKED": (UNKNOWN, "revoked"),
    "RESV_DEL_HOLD": (HELD, "held"),
    "SIGNALING": (ALIVE, ""),
}
BASES = {
    "PENDING": (WAITING, ""),
    "RUNNING": (ALIVE, ""),
    "SUSPENDED": (ALIVE, "suspended"),
    "COMPLETED": (GONE, "no_result"),
    "CANCELLED": (GONE, "cancelled"),
    "FAILED": (GONE, "exit"),
    "TIMEOUT": (GONE, "timeout"),
    "NODE_FAIL": (GONE, "node_fail"),
    "PREEMPTED": (GONE, "preempted"),
    "BOOT_FAIL": (GONE, "node_fail"),
    "DEADLINE": (GONE, "never_started"),
    "OUT_OF_MEMORY": (GONE, "oom"),
}
# `job_state_string_complete` and `squeue -t` of 22.05 have these as well
OTHERS = {
    "POWER_UP_NODE": (WAITING, ""),
    "LAUNCH_FAILED": (GONE, "node_fail"),
    "RECONFIG_FAIL": (GONE, "node_fail"),
}


@pytest.mark.parametrize(("state", "expected"), {**FLAGS, **BASES, **OTHERS}.items())
def test_every_state_of_slurm(state, expected):
    word = read_state(state)
    assert (word.standing, word.reason) == expected
    assert word.text


def test_no_other_word_is_in_the_table():
    assert set(STATES) == {*FLAGS, *BASES, *OTHERS}


@pytest.mark.parametrize(
    "state", ["?", "", " ", "EXPEDITING", "UPDATE_DB", "completed", "PD", "FAILEDX", "+", "\x1b[2J"]
)
def test_a_word_that_we_do_not_know_is_never_final(state):
    word = read_state(state, "JobHeldUser", "1:0")
    assert (word.standing, word.reason) == (UNKNOWN, "")
    assert word.text.isprintable()


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=8))
@settings(max_examples=300, deadline=None)
def test_only_words_of_the_table_end_a_job(state, reason, exit_code):
    word = read_state(state, reason, exit_code)
    assert word.standing is UNKNOWN or state.split()[0].rstrip("+") in STATES


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("CANCELLED", "cancelled"),
        ("CANCELLED+", "cancelled"),
        ("CANCELLED by 1000", "cancelled by the user with id 1000"),
        ("CANCELLED by 0", "cancelled by root or by Slurm"),
        ("CANCELLED by  1000 ", "cancelled by the user with id 1000"),
    ],
)
def test_who_has_cancelled(state, text):
    assert read_state(state) == JobWord(GONE, "cancelled", text)


@pytest.mark.parametrize(
    "reason",
    [
        *("", "None", "(null)", "Priority", "Resources", "Dependency", "JobArrayTaskLimit", "Licenses", "Reservation"),
        *("BeginTime", "QOSMaxJobsPerUserLimit", "QOSMaxCpuPerUserLimit", "QOSMaxGRESPerUser", "AssocMaxJobsLimit"),
        *("QOSGrpCpuLimit", "QOSGrpGRES", "AssocGrpCPUMinutesLimit", "AssocGrpGRES", "MaxCpuPerAccount", "Prolog"),
        *("ReqNodeNotAvail, Reserved for maintenance", "ReqNodeNotAvail", "JobLaunchFailure", "SomethingNew"),
        *("QOSMaxSubmitJobPerUserLimit", "AssocMaxSubmitJobLimit", "MaxSubmitJobsPerAccount", "Cleaning"),
    ],
)
def test_reasons_that_clear_by_themselves(reason):
    assert read_state("PENDING", reason).standing is WAITING


@pytest.mark.parametrize(
    "reason",
    [
        *("JobHeldUser", "JobHeldAdmin", "JobHeldMaxRequeue", "JobHoldMaxRequeue", "DependencyNeverSatisfied"),
        *("launch failed requeued held", "launch_failed_requeued_held", "job requeued in held state"),
        *("PartitionDown", "PartitionInactive", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints"),
        *("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "ReqNodeNotAvail(UnavailableNodes:n1)", "InvalidQOS"),
        *("QOSMaxCpuPerJobLimit", "QOSMaxWallDurationPerJobLimit", "QOSMaxGRESPerJob", "QOSMaxMemoryPerNode"),
        *("QOSMaxCpuMinutesPerJobLimit", "QOSMinCpuNotSatisfied", "QOSMinGRES", "AssocMaxCpuPerJobLimit"),
        *("AssocMaxWallDurationPerJobLimit", "AssocMaxGRESPerNode", "AssocMaxMemPerJob", "MaxMemPerLimit"),
        *("AccountNotAllowed", "QOSNotAllowed", "InvalidAccount", "ReservationDeleted", "requeue_setup_env_fail"),
    ],
)
def test_reasons_that_time_does_not_mend(reason):
    word = read_state("PENDING", reason)
    assert (word.standing, word.reason) == (HELD, "held")
    assert f"({reason})" in word.text


def test_a_requeued_job_says_when_it_restarts():
    assert "121 s" in read_state("PENDING", "BeginTime").text


def test_a_reason_is_for_pending_jobs_only():
    assert read_state("RUNNING", "JobHeldUser").standing is ALIVE
    assert read_state("FAILED", "JobLaunchFailure", "0:9").reason == "killed(9)"


@pytest.mark.parametrize(
    ("exit_code", "reason"),
    [
        ("1:0", "exit(1)"),
        ("3:0", "exit(3)"),
        ("255:0", "exit(255)"),
        ("74:0", "io_lost"),
        ("75:0", "interrupted"),
        ("76:0", "fenced"),
        ("78:0", "setup"),
        ("79:0", "diverged"),
        ("80:0", "hung"),
        ("81:0", "disk"),
        ("126:0", "launch"),
        ("127:0", "launch"),
        ("0:53", "launch"),
        ("0:9", "killed(9)"),
        ("1:9", "killed(9)"),
        ("0:15", "killed(15)"),
        ("0:125", "oom"),
        ("0:0", "no_result"),
        ("", "exit"),
        ("?", "exit"),
    ],
)
def test_how_a_job_has_failed(exit_code, reason):
    word = read_state("FAILED", "", exit_code)
    assert (word.standing, word.reason) == (GONE, reason)


def test_every_code_of_ours_has_a_word():
    for code in set(WorkerExit) - {WorkerExit.DONE, WorkerExit.USER_EXCEPTION}:
        assert not read_state("FAILED", "", f"{int(code)}:0").reason.startswith("exit"), code


def test_what_squeue_alone_can_say_of_a_failed_job():
    assert read_state("FAILED", "RaisedSignal:9(Killed)").reason == "killed(9)"
    assert read_state("FAILED", "NonZeroExitCode").reason == "exit"
    assert read_state("FAILED", "JobLaunchFailure").reason == "exit"


def test_slurm_hides_memory_kills_behind_a_cancel():
    log = "slurmstepd: error: Step 5.0 exceeded memory limit (20000 > 10000), being killed"
    assert is_memory_kill(read_state("CANCELLED by 0"), log)
    assert not is_memory_kill(read_state("CANCELLED by 0"), "all is well")
    assert not is_memory_kill(read_state("TIMEOUT"), log)


# -- readers

QUEUE = """\
Welcome to the cluster!
120|3|RUNNING|lr-abc-000|dlcluster:lr:abc|None
120|4|PENDING|lr-abc-000|dlcluster:lr:abc|ReqNodeNotAvail, UnavailableNodes:n[1|2]

121|N/A|CANCELLED|a|b|c|d
slurm_load_jobs error: Unable to contact slurm controller (connect failure)
122|x|RUNNING|a||None
|N/A|RUNNING|a||None
123|N/A|PENDING|bash|(null)|Priority
"""


def test_squeue():
    rows = parse_squeue(QUEUE)
    assert rows == [
        QueueRow(120, 3, "RUNNING", "", "lr-abc-000", "dlcluster:lr:abc"),
        QueueRow(120, 4, "PENDING", "ReqNodeNotAvail, UnavailableNodes:n[1|2]", "lr-abc-000", "dlcluster:lr:abc"),
        QueueRow(121, None, "CANCELLED", "c|d", "a", "b"),
        QueueRow(123, None, "PENDING", "Priority", "bash", ""),
    ]
    assert rows.n_unreadable == 4
    assert parse_squeue("") == []
    assert SQUEUE_FORMAT == "%F|%K|%T|%j|%k|%r"


ACCOUNTS = """\
50_0|PREEMPTED|0:0|0:0|2026-01-01T10:00:00|2026-01-01T10:00:01|2026-01-01T11:00:00|n1|lr-000|None
50_1|COMPLETED|0:0|0:0|2026-01-01T10:00:00|2026-01-01T10:00:01|2026-01-01T11:00:00|n1|lr-000|None
50_0|CANCELLED by 1000|0:0|0:0|2026-01-01T11:00:00|2026-01-01T11:02:01|2026-01-01T11:30:00|n2|lr-000|None
50_[2,4-5%2]|PENDING|0:0|0:0|2026-01-01T10:00:00|Unknown|Unknown|None assigned|lr-000|Priority
51|FAILED|1:0|0:0|a|b|c|n1|x|None
51.batch|FAILED|1:0|0:0|a|b|c|n1|x|None
52_[1,2,...]|PENDING|0:0|0:0|a|b|c|n1|x|None
53+0|RUNNING|0:0|0:0|a|b|c|n1|x|None
sacct: error: something
54|  |0:0|0:0|a|b|c|n1|x|None
"""


def test_sacct():
    rows = parse_sacct(ACCOUNTS)
    found = {(row.job_id, row.index): row for row in rows}
    assert list(found) == [(50, 1), (50, 0), (50, 2), (50, 4), (50, 5), (51, None)]
    assert len(found) == len(rows)
    assert rows.n_unreadable == 5
    assert found[50, 0] == AccountRow(
        *(50, 0, "CANCELLED by 1000", "0:0", "0:0", "2026-01-01T11:00:00", "2026-01-01T11:02:01"),
        *("2026-01-01T11:30:00", "n2", "lr-000", "None"),
    )
    assert SACCT_FIELDS == "JobID,State,ExitCode,DerivedExitCode,Submit,Start,End,NodeList,JobName,Reason"


def test_the_newest_life_of_a_requeued_job_counts():
    row = "7|{}|0:0|0:0|a|b|c|n1|x|None\n"
    lives = [row.format(state) for state in ("NODE_FAIL", "REQUEUED", "PREEMPTED", "COMPLETED")]
    assert [r.state for r in parse_sacct("".join(lives))] == ["COMPLETED"]
    assert [r.state for r in parse_sacct("".join(lives[:2]))] == ["REQUEUED"]


def test_a_huge_range_is_no_row():
    rows = parse_sacct("7_[0-99999999999]|PENDING|0:0|0:0|a|b|c|n1|x|None\n")
    assert (list(rows), rows.n_unreadable) == ([], 1)


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "REQUEUED", "COMPLETING", "SUSPENDED", "NEWSTATE"])
def test_accounting_alone_never_makes_a_job_live(state):
    (row,) = parse_sacct(f"7|{state}|0:0|0:0|a|b|Unknown|n1|x|None\n")
    assert (read_account(row).standing, read_account(row).reason) == (UNKNOWN, "stale")


@pytest.mark.parametrize(("state", "code", "reason"), [("FAILED", "78:0", "setup"), ("TIMEOUT", "0:0", "timeout")])
def test_accounting_knows_ends(state, code, reason):
    (row,) = parse_sacct(f"7|{state}|{code}|0:0|a|b|c|n1|x|None\n")
    assert (read_account(row).standing, read_account(row).reason) == (GONE, reason)


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_readers_survive_anything(text):
    parse_squeue(text)
    parse_sacct(text)
    parse_key_values(text)
    classify(text)
    key_of(text)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("123\n", (123, None)),
        ("123;north-1.b\n", (123, "north-1.b")),
        ("Welcome, your balance is 17\n\n  123  \n\n", (123, None)),
        ("17\n123\n", (123, None)),
    ],
)
def test_job_ids(printed, expected):
    assert read_job_id(printed) == expected


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "\n \n",
        "Submitted batch job 123",
        "123\nGood luck!",
        "12 3",
        "-1",
        "0",
        "123;",
        "123;a b",
        "١٢",
        "123.5",
        "1;2;3",
    ],
)
def test_no_job_id(printed):
    with pytest.raises(ValueError, match="no job id"):
        read_job_id(printed)


def test_key_values():
    line = (
        "JobId=12 ArrayJobId=10 ArrayTaskId=2 JobName=lr-abc-000 UserId=ada(1000) JobState=COMPLETING Reason=TimeLimit "
        "Dependency=(null) Requeue=1 Restarts=2 ExitCode=0:0 PreemptTime=None TRES=cpu=1,mem=2G ReqB:S:C:T=0:0:*:* "
        "Socks/Node=* Comment=made by ada, x=1 Command=/home/ada/my job.sh JobState=FORGED WorkDir=/ "
    )
    found = parse_key_values(line)
    assert (found["JobState"], found["Reason"], found["Restarts"], found["PreemptTime"]) == (
        *("COMPLETING", "TimeLimit", "2", "None"),
    )
    assert (found["TRES"], found["ReqB:S:C:T"], found["Socks/Node"]) == ("cpu=1,mem=2G", "0:0:*:*", "*")
    assert (found["Comment"], found["Command"], found["WorkDir"]) == ("made by ada, x=1", "/home/ada/my job.sh", "/")
    assert parse_key_values("") == {}
    assert parse_key_values("slurm_load_jobs error: Invalid job id specified") == {}


# -- complaints

FAILED = "sbatch: error: Batch job submission failed: "
ANSWERS = [
    (FAILED + "Socket timed out on send/recv operation", Answer.AMBIGUOUS, ""),
    (FAILED + "Unable to contact slurm controller (connect failure)", Answer.AMBIGUOUS, ""),
    (FAILED + "Zero Bytes were transmitted or received", Answer.AMBIGUOUS, ""),
    (FAILED + "Transport endpoint is not connected", Answer.AMBIGUOUS, ""),
    ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", Answer.TRANSIENT, ""),
    ("sbatch: error: Slurm job queue full, sleeping and retrying", Answer.TRANSIENT, ""),
    (FAILED + "Resource temporarily unavailable", Answer.TRANSIENT, ""),
    ("sbatch: fatal: Unable to process configuration file", Answer.TRANSIENT, ""),
    (FAILED + "Rate limit exceeded, please retry momentarily", Answer.TRANSIENT, ""),
    ("Unexpected message received for job 12", Answer.TRANSIENT, ""),
    (
        FAILED + "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        Answer.QUOTA,
        "",
    ),
    ("sbatch: error: QOSMaxSubmitJobPerUserLimit", Answer.QUOTA, ""),
    ("sbatch: error: AssocMaxSubmitJobLimit\n" + FAILED + "Job violates accounting/QOS policy (x)", Answer.QUOTA, ""),
    (
        "sbatch: error: QOSMaxWallDurationPerJobLimit\n" + FAILED + "Job violates accounting/QOS policy (x)",
        Answer.PERMANENT,
        "time",
    ),
    (
        "sbatch: error: AssocMaxGRESPerJob\n" + FAILED + "Job violates accounting/QOS policy (x)",
        Answer.PERMANENT,
        "gpus",
    ),
    (FAILED + "Invalid partition name specified", Answer.PERMANENT, "partition"),
    ("sbatch: error: invalid partition specified: nope\n" + FAILED + "Invalid partition name specified",)
    + (Answer.PERMANENT, "partition"),
    (FAILED + "User's group not permitted to use this partition", Answer.PERMANENT, "partition"),
    (FAILED + "Invalid account or account/partition combination specified", Answer.PERMANENT, "account or partition"),
    (FAILED + "Invalid qos specification", Answer.PERMANENT, "qos"),
    (FAILED + "Invalid wckey specification", Answer.PERMANENT, "extra_args"),
    (FAILED + "Invalid feature specification", Answer.PERMANENT, "constraint"),
    (FAILED + "Invalid generic resource (gres) specification", Answer.PERMANENT, "gpus"),
    (FAILED + "Invalid Trackable RESource (TRES) specification", Answer.PERMANENT, "gpus"),
    (
        FAILED + "Requested node configuration is not available",
        Answer.PERMANENT,
        "gpus, cpus, mem, nodes or constraint",
    ),
    (FAILED + "Requested time limit is invalid (missing or exceeds some limit)", Answer.PERMANENT, "time"),
    (FAILED + "Memory specification can not be satisfied", Answer.PERMANENT, "mem"),
    (FAILED + "Memory required by task is not available", Answer.PERMANENT, "mem"),
    (FAILED + "Invalid job array specification", Answer.PERMANENT, "parallel"),
    (FAILED + "More processors requested than permitted", Answer.PERMANENT, "cpus"),
    (FAILED + "Node count specification invalid", Answer.PERMANENT, "nodes"),
    (FAILED + "Requested reservation is invalid", Answer.PERMANENT, "extra_args"),
    ("sbatch: unrecognized option '--nope'", Answer.PERMANENT, "extra_args"),
    (FAILED + "Access/permission denied", Answer.PERMANENT, ""),
    (FAILED + "I/O error writing script/environment to file", Answer.PERMANENT, ""),
    ("Requested operation is presently disabled for job 12", Answer.DISABLED, ""),
    ("Job is pending execution for job 12", Answer.DONE, ""),
    ("scancel: error: Kill job error on job id 12: Job/step already completing or completed", Answer.DONE, ""),
    ("slurm_load_jobs error: Invalid job id specified", Answer.DONE, ""),
    ("Job can not be altered now, try again later", Answer.DONE, ""),
    ("", Answer.UNKNOWN, ""),
    ("Welcome to the cluster! The partition gpu is new.", Answer.UNKNOWN, ""),
    ("sbatch: error: something that nobody has ever seen", Answer.UNKNOWN, ""),
]


@pytest.mark.parametrize(("stderr", "answer", "key"), ANSWERS)
def test_complaints(stderr, answer, key):
    assert (classify(stderr), key_of(stderr)) == (answer, key)


@pytest.mark.parametrize(("text", "answer"), COMPLAINTS)
def test_every_row_of_the_table_is_reached(text, answer):
    """A row behind a wider one would never count; sites write in capitals, too."""
    assert classify(f"sbatch: error: {text}") is answer
    assert classify(text.upper()) is answer


def test_banners_and_tries_before_the_last_word():
    tries = "Maintenance on Monday\nsbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
    assert classify(tries + FAILED + "Invalid qos specification") is Answer.PERMANENT
    assert key_of(tries + FAILED + "Invalid qos specification") == "qos"
    assert classify(FAILED + "Invalid qos specification\nBye\n") is Answer.PERMANENT


def test_one_ambiguous_line_is_enough_to_look_first():
    lost = "sbatch: error: Socket timed out on send/recv operation\n"
    assert classify(lost + FAILED + "Invalid qos specification") is Answer.AMBIGUOUS
    assert classify("sbatch: error: Slurm job queue full\n" + lost) is Answer.AMBIGUOUS
