"""Who asks Slurm to go on, and who must not (rows S2 to S8, S13, S21)."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcluster.errors import WorkerExit
from dlcluster.worker import requeue as module
from dlcluster.worker.requeue import (
    ALIVE,
    ENDING,
    WAITING,
    Answer,
    Reply,
    Verdict,
    ask_to_go_on,
    exit_code_after,
    judge,
    look,
    requeue,
    run_scontrol,
)
from dlcluster.worker.slurm_job import SlurmJob
from tests.support import processes_with, wait_until
from tests.worker.test_slurm_job import log_line, show_line

REQUEUE, ALREADY, CANCELLED, SILENT = Verdict.REQUEUE, Verdict.ALREADY, Verdict.CANCELLED, Verdict.SILENT
JOB, ELEMENT, LATER = SlurmJob(12), SlurmJob(15, 12, 3), SlurmJob(12, restarts=2)
TIME = "2024-05-01T12:00:00"
PREEMPTED, PLAIN = log_line(12, "PREEMPTION"), log_line(12)
UNKNOWN = "slurm_load_jobs error: Invalid job id specified"


# -- the rule ----------------------------------------------------------------------------------------------------------


def state(word, **changes):
    return show_line(JobState=word, **changes)


@pytest.mark.parametrize("deadline_reached", [False, True])
@pytest.mark.parametrize(
    ("answer", "log", "expected"),
    [
        # 4.3, row by row
        (state("RUNNING"), "", REQUEUE),
        (state("SIGNALING"), "", REQUEUE),
        (state("RUNNING", PreemptTime=TIME), "", REQUEUE),  # in the grace time
        (state("COMPLETING", Restarts=1), PREEMPTED, ALREADY),
        (state("COMPLETING", Restarts=1, PreemptTime=TIME), PREEMPTED, ALREADY),
        (state("COMPLETING", Restarts=1, Reason="TimeLimit"), "", ALREADY),
        (state("COMPLETING", Reason="TimeLimit"), "", REQUEUE),
        (state("COMPLETING", Reason="TimeLimit"), log_line(12, "TIME LIMIT"), REQUEUE),
        (state("COMPLETING", PreemptTime=TIME, EndTime=TIME), PREEMPTED, REQUEUE),  # PreemptMode=CANCEL
        (state("COMPLETING"), PLAIN, CANCELLED),
        (state("COMPLETING"), "", CANCELLED),
        # 28b: a scancel during the grace time leaves PreemptTime set, and only the log tells
        (state("COMPLETING", PreemptTime=TIME), PLAIN, CANCELLED),
        (state("COMPLETING", PreemptTime=TIME), "", CANCELLED),
        (state("COMPLETING", PreemptTime=TIME), PREEMPTED + PLAIN, CANCELLED),
        (state("COMPLETING", PreemptTime=TIME), log_line(11, "PREEMPTION"), CANCELLED),
        (state("COMPLETING", PreemptTime=TIME), PREEMPTED.replace("JOB 12", "STEP 12.0"), CANCELLED),
        # the log alone is not enough either
        (state("COMPLETING", PreemptTime="None"), PREEMPTED, SILENT),
        (state("COMPLETING", PreemptTime="Unknown"), PREEMPTED, SILENT),
        (state("COMPLETING", PreemptTime=None), PREEMPTED, SILENT),
        (state("COMPLETING", PreemptTime=None, Comment=f"PreemptTime={TIME} x"), PREEMPTED, SILENT),
        (state("COMPLETING", Comment="a Reason=TimeLimit"), PLAIN, CANCELLED),
        (state("COMPLETING", JobName="a Reason=TimeLimit"), PLAIN, CANCELLED),
        (state("COMPLETING", Reason="TimeLimitX"), PLAIN, CANCELLED),
        (state("COMPLETING"), log_line(12, "NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"), SILENT),
        (state("STAGE_OUT"), PLAIN, CANCELLED),
        # somebody has requeued it: Slurm after a preemption, an administrator, or we ourselves
        (state("PENDING", Reason="BeginTime", Restarts=1), "", ALREADY),
        (state("PENDING", Reason="BeginTime"), "", ALREADY),
        (state("REQUEUED"), "", ALREADY),
        (state("REQUEUE_HOLD", Restarts=1), "", ALREADY),
        (state("SPECIAL_EXIT"), "", ALREADY),
        (state("PENDING", Reason="JobHeldUser"), PLAIN, ALREADY),
        # a newer life of the job runs while we are still here: slurmstepd has died (S9)
        (state("RUNNING", Restarts=1), "", ALREADY),
        (state("RUNNING", Restarts=7), PREEMPTED, ALREADY),
        (state("COMPLETED", Restarts=1), "", ALREADY),
        (state("SUSPENDED", Restarts=1), "", ALREADY),
        # alive in other words
        (state("SUSPENDED"), "", REQUEUE),
        (state("STOPPED"), "", REQUEUE),
        (state("RESIZING"), "", REQUEUE),
        # `scancel -b -s TERM` writes the plain line although it cancels nothing
        (state("RUNNING"), PLAIN, REQUEUE),
        # ended, though we are alive
        (state("CANCELLED"), "", CANCELLED),
        (state("CANCELLED", Restarts=1), "", CANCELLED),
        (state("COMPLETED"), "", SILENT),
        (state("TIMEOUT", Reason="TimeLimit"), "", SILENT),
        (state("PREEMPTED", PreemptTime=TIME), PREEMPTED, SILENT),
        (state("NODE_FAIL"), "", SILENT),
        (state("REVOKED"), "", SILENT),
        (state("A_WORD_OF_26.05"), "", SILENT),
        # not known: purged, or slurmctld was started without its state
        (UNKNOWN, "", SILENT),
        (UNKNOWN, PLAIN, SILENT),
    ],
)
def test_the_rule(answer, log, expected, deadline_reached):
    assert judge(answer, JOB, log, deadline_reached=deadline_reached) is expected


@pytest.mark.parametrize("answer", [None, "", "garbage", show_line(99), show_line(JobState=None)])
@pytest.mark.parametrize(
    ("log", "without_deadline", "at_the_deadline"),
    [
        ("", SILENT, REQUEUE),
        (log_line(12, "TIME LIMIT"), SILENT, REQUEUE),
        (PREEMPTED, SILENT, REQUEUE),
        (PLAIN, CANCELLED, CANCELLED),
        (log_line(11), SILENT, REQUEUE),
    ],
)
def test_without_an_answer_only_the_own_clock_allows_a_requeue(answer, log, without_deadline, at_the_deadline):
    assert judge(answer, JOB, log, deadline_reached=False) is without_deadline
    assert judge(answer, JOB, log, deadline_reached=True) is at_the_deadline


def test_the_rule_in_a_later_life():
    assert judge(state("RUNNING", Restarts=2), LATER, "", deadline_reached=False) is REQUEUE
    assert judge(state("RUNNING", Restarts=3), LATER, "", deadline_reached=True) is ALREADY
    assert judge(state("COMPLETING", Restarts=2), LATER, "", deadline_reached=True) is CANCELLED
    assert judge(state("COMPLETING", Restarts=3), LATER, "", deadline_reached=True) is ALREADY
    assert judge(state("RUNNING", Restarts=1), LATER, "", deadline_reached=True) is ALREADY  # not ours either


def test_the_rule_for_an_element_of_an_array():
    line = show_line(15, array=(12, 3), JobState="COMPLETING", PreemptTime=TIME)
    assert judge(line, ELEMENT, log_line(15, "PREEMPTION"), deadline_reached=False) is REQUEUE
    assert judge(line, ELEMENT, log_line(12, "PREEMPTION"), deadline_reached=False) is CANCELLED
    assert judge(line.replace("TaskId=3", "TaskId=4"), ELEMENT, "", deadline_reached=False) is SILENT


WORDS = [*sorted(ALIVE | ENDING | WAITING), "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "PREEMPTED", "NEW"]
REASONS = ["None", "TimeLimit", "BeginTime", "JobLaunchFailure", "a_long_reason"]
LOGS = ["", PLAIN, PREEMPTED, PREEMPTED + PLAIN, log_line(12, "TIME LIMIT"), log_line(13, "PREEMPTION")]


def test_every_combination_keeps_to_what_may_be_requeued():
    n_requeued = 0
    for word, reason, restarts, preempt, log, deadline in itertools.product(
        WORDS, REASONS, (0, 1), ("None", TIME, None), LOGS, (False, True)
    ):
        line = state(word, Reason=reason, Restarts=restarts, PreemptTime=preempt)
        verdict = judge(line, JOB, log, deadline_reached=deadline)
        assert verdict is judge(line, JOB, log, deadline_reached=not deadline), "an answer beats the clock"
        if verdict is not REQUEUE:
            continue
        n_requeued += 1
        assert restarts == 0
        assert word in ALIVE | ENDING
        if word in ENDING:
            assert reason == "TimeLimit" or (preempt == TIME and log == PREEMPTED)
    assert n_requeued == 2 * (len(ALIVE) * 5 * 3 * 6 + len(ENDING) * (3 * 6 + 4))


free_text = st.text(st.characters(exclude_characters="\n"), max_size=30)
believable = st.sampled_from(
    ["Reason=TimeLimit", " JobState=RUNNING ", "Restarts=0", f"PreemptTime={TIME}", "UserId=", "Partition="]
)
lies = st.lists(free_text | believable, max_size=6).map(" ".join)
other_logs = st.lists(st.sampled_from([log_line(13, "PREEMPTION"), log_line(121), PREEMPTED[:-9], "loss 0.1\n"]))


@given(lies, lies, st.sampled_from(["None", "JobHeldUser", "Time_Limit"]), other_logs, st.booleans(), st.booleans())
def test_a_job_that_is_ending_is_never_requeued_without_evidence(comment, command, reason, logs, preempt, deadline):
    """Whatever its comment and command say: neither a time limit nor a preemption of our own job was seen."""
    line = state("COMPLETING", Reason=reason, PreemptTime=TIME if preempt else "None", Comment=comment, Command=command)
    assert judge(line, JOB, "".join(logs), deadline_reached=deadline) is CANCELLED


@given(free_text, st.booleans(), st.text())
def test_a_cancelled_job_stays_cancelled_whatever_its_name(name, deadline, log):
    assert judge(state("CANCELLED", JobName=name), JOB, log, deadline_reached=deadline) is CANCELLED


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("ok", [False, True])
def test_only_our_own_requeue_ends_with_0(verdict, ok):
    expected = WorkerExit.DONE if verdict is REQUEUE and ok else WorkerExit.INTERRUPTED
    assert exit_code_after(verdict, ok) is expected
    assert Answer(verdict, "", ok).exit_code is expected


# -- the calls, with a program on PATH ---------------------------------------------------------------------------------

SCONTROL = """#!/bin/sh
D="{folder}"
[ "$1" = "-o" ] && verb=show || verb=$1
echo "$@" >> "$D/calls"
n=$(grep -c "$verb" "$D/calls")
while [ "$n" -gt 1 ] && [ ! -f "$D/$verb.$n" ]; do n=$((n - 1)); done
. "$D/$verb.$n"
"""


class FakeScontrol:
    """A program that does one thing after another for each verb, and the last thing for ever."""

    def __init__(self, folder):
        self.folder = folder
        self.calls_file = folder / "calls"

    def does(self, verb, *scripts):
        for number, script in enumerate(scripts, start=1):
            (self.folder / f"{verb}.{number}").write_text(script + "\n")

    def calls(self):
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def verbs(self):
        return ["show" if "show" in call else "requeue" for call in self.calls()]


def says(out="", err="", code=0):
    def quoted(text):
        return "'" + text.replace("'", "'\\''") + "'"

    return f"printf '%s' {quoted(out)}\nprintf '%s' {quoted(err)} >&2\nexit {code}"


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    folder = tmp_path / "fake"
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "scontrol"
    program.write_text(SCONTROL.format(folder=folder))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return FakeScontrol(folder)


DOWN = says(err="Unable to contact slurm controller (connect failure)\n", code=1)
REFUSED = says(err="Unexpected message received for job 12\n", code=1)
RUNS = says(show_line())
CANCELLING = says(show_line(JobState="COMPLETING"))
COMES_BACK = says(show_line(JobState="PENDING", Reason="BeginTime", Restarts="1"))
BANNER = "*** Maintenance on Monday. All machines will be off. ***\n"


def test_look_gives_what_scontrol_says(scontrol):
    scontrol.does("show", says(show_line(), BANNER))
    assert look(JOB) == show_line()
    assert scontrol.calls() == ["-o show job 12"]


def test_an_element_is_looked_at_by_its_own_id(scontrol):
    scontrol.does("show", says(show_line(15, array=(12, 3))))
    assert look(ELEMENT)
    assert scontrol.calls() == ["-o show job 15"]


@pytest.mark.parametrize(
    "first", [DOWN, says("garbage"), says(show_line(99)), says(), says(show_line(), code=1), "kill -9 $$"]
)
def test_look_tries_twice(scontrol, first):
    scontrol.does("show", first, RUNS)
    assert look(JOB) == show_line()
    assert len(scontrol.calls()) == 2


@pytest.mark.parametrize(
    "always", [DOWN, says("garbage"), says(), "kill -15 $$", says(err="scontrol: fatal: x", code=1)]
)
def test_look_gives_up_after_two(scontrol, always):
    scontrol.does("show", always)
    assert look(JOB) is None
    assert len(scontrol.calls()) == 2


def test_a_job_that_slurm_does_not_know_is_an_answer(scontrol):
    scontrol.does("show", says(err=f"{BANNER}{UNKNOWN}\n", code=1))
    assert judge(look(JOB), JOB, "", deadline_reached=True) is SILENT
    assert len(scontrol.calls()) == 1


def test_bytes_that_are_no_text_do_no_harm(scontrol):
    scontrol.does("show", "printf 'JobId=12 JobName=\\377\\376 '\n" + says(show_line().partition("JobName=")[2]))
    assert judge(look(JOB), JOB, "", deadline_reached=False) is REQUEUE


def test_scontrol_that_hangs_is_ended_with_all_that_it_has_started(scontrol, monkeypatch, tmp_path):
    monkeypatch.setenv("DLCLUSTER_TEST_HANG", str(tmp_path))
    scontrol.does("show", "sleep 60 &\nsleep 60")
    began = time.monotonic()
    assert look(JOB, timeout_s=0.2) is None
    assert time.monotonic() - began < 10
    wait_until(lambda: not processes_with(f"DLCLUSTER_TEST_HANG={tmp_path}"), "the end of the fake scontrol", 10)


def test_scontrol_that_hangs_at_the_requeue_may_have_done_it(scontrol):
    scontrol.does("requeue", "sleep 60")
    requeued = requeue(JOB, timeout_s=0.2)
    assert (requeued.ok, requeued.may_try_again) == (False, True)
    assert "no answer within" in requeued.text


def test_without_any_scontrol(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look(JOB) is None
    requeued = requeue(JOB)
    assert (requeued.ok, requeued.may_try_again) == (False, False)
    assert requeued.text == "scontrol: No such file or directory"


def test_settings_of_the_user_change_neither_cluster_nor_language(scontrol, monkeypatch):
    for name in ("SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "SCONTROL_FUTURE", "SLURM_CONF"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    scontrol.does("show", "env; pwd")
    lines = run_scontrol(("-o", "show"), 10).out.splitlines()
    assert {"LC_ALL=C", "SLURM_CONF=x", "/"} <= set(lines)
    assert not any(line.startswith(("SLURM_CLUSTERS", "SLURM_TIME", "SCONTROL_")) for line in lines)


@pytest.mark.parametrize(("job", "name"), [(JOB, "12"), (ELEMENT, "12_3"), (SlurmJob(12, 12, 9), "12_9")])
def test_the_job_or_the_element_is_requeued_and_no_other(scontrol, job, name):
    scontrol.does("requeue", says())
    assert requeue(job).ok
    assert scontrol.calls() == [f"requeue {name}"]


@pytest.mark.parametrize(
    ("script", "ok", "may_try_again", "text"),
    [
        (says(err=BANNER), True, False, ""),
        (says(err="Job is pending execution for job 12\n", code=1), True, False, "pending"),
        (says(err=f"{BANNER}12_3: Job is pending execution\n{BANNER}", code=1), True, False, "pending"),
        (REFUSED, False, True, "Unexpected message received for job 12"),
        (DOWN, False, True, "Unable to contact slurm controller (connect failure)"),
        (says(err="slurm_requeue error: Socket timed out on send/recv operation", code=1), False, True, "Socket"),
        (says(err="Job can not be altered now, try again later\n", code=1), False, True, "try again later"),
        (
            says(err="Requested operation is presently disabled for job 12\n", code=1),
            False,
            False,
            "presently disabled",
        ),
        (
            says(err=f"{BANNER}Requested operation is presently disabled for job 12\n{BANNER}", code=1),
            *(False, False, "presently disabled"),
        ),
        (says(err="Access/permission denied for job 12\n", code=1), False, False, "denied"),
        (says(err="Invalid job id specified for job 12\n", code=1), False, False, "Invalid job id"),
        (says("a\nsomething else went wrong\n", code=1), False, False, "something else went wrong"),
        (says(err="\x1b[31mred\n", code=1), False, False, "?[31mred"),
        (says(code=1), False, True, "scontrol: exit 1"),
        (f"echo '{BANNER}'\nkill -15 $$", False, True, "Maintenance"),
        ("kill -15 $$", False, True, "scontrol: exit -15"),  # the SIGTERM that follows our own requeue, linuxproc
    ],
)
def test_what_the_answers_to_a_requeue_mean(scontrol, script, ok, may_try_again, text):
    scontrol.does("requeue", script)
    requeued = requeue(JOB)
    assert (requeued.ok, requeued.may_try_again) == (ok, may_try_again)
    assert text in requeued.text
    assert requeued.text.isprintable() and len(requeued.text) <= 200


# -- all of it together ------------------------------------------------------------------------------------------------


class Clock:
    """Time that only passes while somebody waits, and a list of the waits."""

    def __init__(self, during=None):
        self.moment, self.waits, self.during = 1000.0, [], during or {}

    def now(self):
        return self.moment

    def wait(self, seconds):
        self.waits.append(seconds)
        self.moment += seconds
        self.during.get(len(self.waits), lambda: None)()


def ask(clock=None, job=JOB, **options):
    clock = clock or Clock()
    defaults = {"deadline_reached": False, "cancelled_by_marker": lambda: False, "log_tail": str}
    return ask_to_go_on(job, **{**defaults, "wait": clock.wait, "now": clock.now, **options})


def test_a_running_job_is_requeued_after_a_look(scontrol):
    scontrol.does("show", RUNS)
    scontrol.does("requeue", says())
    answer = ask()
    assert answer == (REQUEUE, "Slurm will start job 12 again", True)
    assert answer.exit_code is WorkerExit.DONE
    assert scontrol.verbs() == ["show", "requeue"]


@pytest.mark.parametrize(
    ("show", "verdict", "text"),
    [
        (CANCELLING, CANCELLED, "job 12 has been cancelled: not requeued"),
        (COMES_BACK, ALREADY, "Slurm has already requeued job 12"),
        (says(show_line(Restarts="1")), ALREADY, "Slurm has already requeued job 12"),
        (DOWN, SILENT, "not requeued: no answer about job 12"),
        (says(err=UNKNOWN, code=1), SILENT, "not requeued: Slurm does not know job 12"),
        (says(show_line(JobState="NODE_FAIL")), SILENT, "not requeued: job 12 is NODE_FAIL for Slurm"),
    ],
)
def test_any_other_verdict_makes_no_call(scontrol, show, verdict, text):
    scontrol.does("show", show)
    scontrol.does("requeue", says())
    answer = ask()
    assert answer == (verdict, text, False)
    assert answer.exit_code is WorkerExit.INTERRUPTED
    assert "requeue" not in scontrol.verbs()


def test_the_marker_of_our_own_cancel_needs_no_scheduler(scontrol):
    scontrol.does("show", RUNS)
    assert ask(cancelled_by_marker=lambda: True).verdict is CANCELLED
    assert scontrol.calls() == []


def test_preempted_without_a_requeue_by_slurm(scontrol):
    scontrol.does("show", says(show_line(JobState="COMPLETING", PreemptTime=TIME)))
    scontrol.does("requeue", says())
    assert ask(log_tail=lambda: PREEMPTED).ok
    assert ask(log_tail=lambda: PLAIN).verdict is CANCELLED


def test_slurmctld_that_is_down_is_asked_again(scontrol):
    scontrol.does("show", RUNS)
    scontrol.does("requeue", *[REFUSED] * 4, says())
    clock = Clock()
    assert ask(clock).ok
    assert clock.waits == [2, 5, 10, 20]
    assert scontrol.verbs() == ["show", "requeue"] * 5


def test_six_tries_and_then_the_reason_why_not(scontrol):
    scontrol.does("show", RUNS)
    scontrol.does("requeue", REFUSED)
    clock = Clock()
    answer = ask(clock)
    assert answer == (REQUEUE, "requeue failed: Unexpected message received for job 12", False)
    assert answer.exit_code is WorkerExit.INTERRUPTED
    assert clock.waits == [2, 5, 10, 20, 30]


def test_what_no_patience_can_change_is_tried_once(scontrol):
    scontrol.does("show", RUNS)
    scontrol.does("requeue", says(err="Requested operation is presently disabled for job 12\n", code=1))
    clock = Clock()
    assert ask(clock) == (REQUEUE, "requeue failed: Requested operation is presently disabled for job 12", False)
    assert clock.waits == []


def test_a_scancel_between_two_tries_is_respected(scontrol):
    scontrol.does("show", RUNS, CANCELLING)
    scontrol.does("requeue", REFUSED, says())
    assert ask().verdict is CANCELLED
    assert scontrol.verbs() == ["show", "requeue", "show"]


def test_a_cancel_marker_between_two_tries_is_respected(scontrol):
    scontrol.does("show", RUNS)
    scontrol.does("requeue", REFUSED, says())
    marked = []
    clock = Clock({1: lambda: marked.append(True)})
    assert ask(clock, cancelled_by_marker=lambda: bool(marked)).verdict is CANCELLED
    assert scontrol.verbs() == ["show", "requeue"]


def test_a_requeue_whose_answer_was_lost_has_worked(scontrol):
    scontrol.does("show", RUNS, COMES_BACK)
    scontrol.does("requeue", "kill -15 $$")
    answer = ask()
    assert answer == (REQUEUE, "Slurm will start job 12 again", True)
    assert scontrol.verbs() == ["show", "requeue", "show"]


def test_nothing_is_requeued_unseen_while_slurmctld_is_away(scontrol):
    """It went away after our look; whoever cancels just before is seen when it comes back."""
    scontrol.does("show", RUNS, *[DOWN] * 4, CANCELLING)
    scontrol.does("requeue", REFUSED, says())
    assert ask().verdict is CANCELLED
    assert scontrol.verbs() == ["show", "requeue", *["show"] * 5]


def test_at_the_own_deadline_it_is_tried_without_an_answer(scontrol):
    scontrol.does("show", DOWN)
    scontrol.does("requeue", REFUSED, REFUSED, says())
    assert ask(deadline_reached=True).ok
    assert scontrol.verbs() == ["show", "show", "requeue"] * 3


def test_patience_ends_in_time_for_the_last_try(scontrol):
    scontrol.does("show", RUNS)
    scontrol.does("requeue", REFUSED)
    clock = Clock()
    assert not ask(clock, until=clock.moment + 30).ok
    assert clock.waits == [2, 5, 10, 8]
    assert clock.moment == 1025


def test_a_long_patience_goes_on_every_30_s(scontrol):
    scontrol.does("show", RUNS)
    scontrol.does("requeue", REFUSED)
    clock = Clock()
    assert not ask(clock, until=clock.moment + 200).ok
    assert clock.waits == [2, 5, 10, 20, 30, 30, 30, 30, 30, 8]


def test_even_when_the_time_is_over_there_is_one_try(scontrol):
    scontrol.does("show", RUNS)
    scontrol.does("requeue", REFUSED)
    clock = Clock()
    assert not ask(clock, until=clock.moment - 5).ok
    assert (clock.waits, scontrol.verbs()) == ([], ["show", "requeue"])


def test_waiting_that_always_ends_at_once_does_not_flood_slurmctld(scontrol):
    calls = []

    def run(arguments, _timeout):
        calls.append(arguments[0])
        return Reply(0, show_line(), "") if arguments[0] == "-o" else Reply(1, "", "Socket timed out")

    assert not ask(wait=lambda seconds: None, until=1000.0 + 300, run=run).ok
    assert calls.count("requeue") == 16


def test_calls_near_the_end_are_given_little_time():
    timeouts = []

    def run(arguments, timeout):
        timeouts.append(timeout)
        return Reply(0, show_line(), "") if arguments[0] == "-o" else Reply(1, "", "Socket timed out")

    clock = Clock()
    ask(clock, until=clock.moment + 20, run=run)
    assert timeouts == [20, 20, 18, 18, 13, 13, 5, 5]
    timeouts.clear()
    ask(clock, run=run)
    assert timeouts[:2] == [module.LOOK_S, module.REQUEUE_S]


@given(
    st.lists(st.sampled_from(["runs", "down", "cancelled", "pending", "newer"]), min_size=1), st.booleans(), st.data()
)
def test_every_requeue_follows_a_look_that_allows_it(story, deadline, data):
    """Whatever happens to the job and to slurmctld: a cancel that a look has seen is never followed by a call."""
    answers = {
        "runs": Reply(0, show_line(), ""),
        "down": Reply(1, "", "Unable to contact slurm controller"),
        "cancelled": Reply(0, show_line(JobState="COMPLETING"), ""),
        "pending": Reply(0, show_line(JobState="PENDING", Restarts=1), ""),
        "newer": Reply(0, show_line(Restarts=1), ""),
    }
    seen, moments = [], iter([*story, *[story[-1]] * 100])

    def run(arguments, _timeout):
        if arguments[0] == "-o":
            seen.append(next(moments))
            return answers[seen[-1]]
        assert seen[-1] == "runs" or (deadline and seen[-2:] == ["down", "down"])
        assert not {"cancelled", "pending", "newer"} & set(seen)
        return Reply(
            data.draw(st.sampled_from([0, 1, None, -15])), "", data.draw(st.sampled_from(["", "Socket timed out"]))
        )

    answer = ask(deadline_reached=deadline, run=run)
    assert answer.text
    assert answer.ok <= (answer.verdict is REQUEUE)
    if "cancelled" in seen:
        assert answer.verdict is CANCELLED


def test_a_job_is_a_value():
    with pytest.raises(AttributeError):
        JOB.restarts = 1
    assert replace(JOB, restarts=2) == LATER
