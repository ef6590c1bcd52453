"""Files say X, the scheduler says Y: every pair of the two, against the table of reliability.md 4.6 and its rules."""

from __future__ import annotations

import itertools

import pytest

from dlcluster.journal import AttemptFacts, State, TrialState
from dlcluster.launch.settle import UNEXPLAINED, Hearsay, settle, with_end_from_scheduler
from dlcluster.launch.slurm_words import STATES, Standing, read_state
from dlcluster.states import trial_state

SILENCE = "scheduler unreachable since 12:03"
FINAL = (State.COMPLETED, State.STOPPED, State.FAILED, State.CANCELLED)
MAY_GO_ON = (State.WAITING, State.INTERRUPTED)

# Every word of Slurm, and what reasons and exit codes make of three of them.
WORDS = {
    **{name: read_state(name) for name in STATES},
    "PENDING Priority": read_state("PENDING", "Priority"),
    "PENDING BeginTime": read_state("PENDING", "BeginTime"),
    "PENDING JobHeldUser": read_state("PENDING", "JobHeldUser"),
    "PENDING PartitionTimeLimit": read_state("PENDING", "PartitionTimeLimit"),
    "PENDING QOSMaxWallDurationPerJobLimit": read_state("PENDING", "QOSMaxWallDurationPerJobLimit"),
    "FAILED 3:0": read_state("FAILED", "", "3:0"),
    "FAILED 0:0": read_state("FAILED", "", "0:0"),
    "FAILED 0:9": read_state("FAILED", "", "0:9"),
    "FAILED 0:53": read_state("FAILED", "", "0:53"),
    "FAILED 75:0": read_state("FAILED", "", "75:0"),
    "FAILED 78:0": read_state("FAILED", "", "78:0"),
    "FAILED 127:0": read_state("FAILED", "", "127:0"),
    "FAILED 0:125": read_state("FAILED", "", "0:125"),
    "CANCELLED by 1000": read_state("CANCELLED by 1000"),
    "A_WORD_OF_2031": read_state("A_WORD_OF_2031"),
    "": read_state(""),
}


def attempt(end=None, number=1, step=0):
    start = {"kind": "start", "host": "elsewhere", "job": {"id": 1}}
    return AttemptFacts(number, start, end, None, step)


def ended(state, reason=""):
    return {"state": state.value, "reason": reason}


ENDS = {
    "": None,
    "completed": ended(State.COMPLETED),
    "stopped": ended(State.STOPPED, "diverged"),
    "cancelled": ended(State.CANCELLED, "by_user"),
    "failed exception": ended(State.FAILED, "exception"),
    "failed killed": ended(State.FAILED, "killed(11)"),
    "interrupted deadline": ended(State.INTERRUPTED, "deadline"),
    "interrupted preempted": ended(State.INTERRUPTED, "preempted"),
    **{f"interrupted {reason}": ended(State.INTERRUPTED, reason) for reason in UNEXPLAINED},
}


def state_after(end, alive, word, answers):
    """The state of a trial with one attempt, once the scheduler's word about its job is taken in."""
    attempts = with_end_from_scheduler([attempt(end)], alive, word, answers)
    return trial_state(attempts, lambda _facts: alive)


# -- an attempt without an end: table 4.6, column "no final record"

NO_RECORD = {
    "PENDING": "interrupted (requeued)",
    "PENDING BeginTime": "interrupted (requeued)",
    "PENDING JobHeldUser": "interrupted (requeued)",
    "CONFIGURING": "interrupted (requeued)",
    "REQUEUED": "interrupted (requeued)",
    "REQUEUE_HOLD": "interrupted (requeued)",
    "SPECIAL_EXIT": "interrupted (requeued)",
    "RUNNING": "running",
    "SUSPENDED": "running",
    "STOPPED": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "COMPLETING": "running",
    "STAGE_OUT": "running",
    "REVOKED": "running",
    "A_WORD_OF_2031": "running",
    "": "running",
    "COMPLETED": "interrupted (vanished)",
    "FAILED 0:0": "interrupted (vanished)",
    "FAILED": "interrupted (vanished)",  # only accounting could say more
    "FAILED 3:0": "interrupted (exit(3))",
    "FAILED 0:9": "interrupted (killed(9))",
    "FAILED 75:0": "interrupted (interrupted)",
    "FAILED 0:125": "failed (oom)",
    "OUT_OF_MEMORY": "failed (oom)",
    "TIMEOUT": "interrupted (timeout)",
    "PREEMPTED": "interrupted (preempted)",
    "NODE_FAIL": "interrupted (node_fail)",
    "BOOT_FAIL": "interrupted (node_fail)",
    "CANCELLED": "cancelled (by_user)",
    "CANCELLED by 1000": "cancelled (by_user)",
}


@pytest.mark.parametrize(("name", "expected"), NO_RECORD.items())
@pytest.mark.parametrize("alive", [None, False])
def test_an_attempt_without_an_end_by_what_became_of_its_job(name, expected, alive):
    if alive is False and expected == "running":
        expected = "interrupted (vanished)"  # its process is known to be gone, whatever the queue still says
    assert str(state_after(None, alive, WORDS[name], answers=True)) == expected


def test_an_attempt_whose_job_nobody_knows_has_vanished_only_if_the_scheduler_has_answered():
    assert str(state_after(None, None, None, answers=True)) == "interrupted (vanished)"
    assert str(state_after(None, None, None, answers=False)) == "running"
    assert str(state_after(None, False, None, answers=False)) == "interrupted (vanished)"  # this host knows


@pytest.mark.parametrize("end", ENDS)
def test_rules_of_an_attempts_end(end):
    record, before = ENDS[end], [attempt(ENDS[end])]
    for alive, word, answers in itertools.product((True, False, None), [*WORDS.values(), None], (True, False)):
        after, case = with_end_from_scheduler(before, alive, word, answers), (alive, word, answers)
        if record is not None and (record["state"] != "interrupted" or record["reason"] not in UNEXPLAINED):
            assert after == before, case  # the files' last word
        if record is None and alive is True:
            assert after == before, case  # it runs, as we can see
        if word is None and not answers:
            assert after == before, case  # no answer changes nothing
        if word is not None and word.standing in (Standing.ALIVE, Standing.FINISHING, Standing.UNKNOWN):
            assert after == before, case  # not an end
        if after != before:
            assert after[0].end["reason"] != "vanished" or answers or word is not None, case
            assert after[0].end["state"] != "completed", case  # that only the files can say


def test_the_scheduler_explains_ends_that_the_worker_could_not():
    stop = ENDS["interrupted stop_requested"]
    assert str(state_after(stop, None, WORDS["CANCELLED by 1000"], answers=True)) == "cancelled (by_user)"
    assert str(state_after(stop, None, WORDS["PREEMPTED"], answers=True)) == "interrupted (preempted)"
    assert str(state_after(stop, None, WORDS["TIMEOUT"], answers=True)) == "interrupted (timeout)"
    assert str(state_after(stop, None, WORDS["NODE_FAIL"], answers=True)) == "interrupted (node_fail)"
    killed = ENDS["interrupted killed(9)"]
    assert str(state_after(killed, None, WORDS["OUT_OF_MEMORY"], answers=True)) == "failed (oom)"


@pytest.mark.parametrize("name", ["COMPLETED", "FAILED", "FAILED 3:0", "FAILED 75:0", "FAILED 0:0"])
@pytest.mark.parametrize("reason", UNEXPLAINED)
def test_a_job_that_explains_nothing_takes_no_reason_away(name, reason):
    """A trial that was asked to stop has used up none of its budget, whatever the exit code of its worker."""
    record = ended(State.INTERRUPTED, reason)
    assert state_after(record, None, WORDS[name], answers=True) == TrialState(State.INTERRUPTED, reason)


def test_only_the_last_attempt_is_given_an_end():
    first = attempt(None)
    after = with_end_from_scheduler([first, attempt(None, 2)], None, WORDS["TIMEOUT"], True)
    assert after[0] is first
    assert after[1].end["reason"] == "timeout"


# -- a trial that is wanted, by the job that would run it

COVER = {  # the word about the job: a trial that never began; one that was interrupted
    "PENDING": ("pending (waiting in the queue)",) * 2,
    "PENDING Priority": ("pending (waiting in the queue (Priority))",) * 2,
    "PENDING BeginTime": ("pending (waits for its time: after a requeue it restarts within 121 s, as a rule)",) * 2,
    "PENDING JobHeldUser": ("held (held by you; release it with scontrol release (JobHeldUser))",) * 2,
    "CONFIGURING": ("pending (its nodes are booting)",) * 2,
    "RUNNING": ("pending", "pending (preempted)"),
    "SUSPENDED": ("pending", "pending (preempted)"),
    "COMPLETING": ("pending", "pending (preempted)"),
    "REQUEUED": ("pending (requeued, it will start again)",) * 2,
    "REVOKED": ("pending (taken over by another cluster of the federation)",) * 2,
    "A_WORD_OF_2031": ("pending (Slurm says 'A_WORD_OF_2031')",) * 2,
    "COMPLETED": ("waiting (ended without an error, and without a result)", "interrupted (preempted)"),
    "TIMEOUT": ("waiting (ended at its time limit)", "interrupted (preempted)"),
    "NODE_FAIL": ("waiting (its node was lost)", "interrupted (preempted)"),
    "PREEMPTED": ("waiting (had to make room for another job)", "interrupted (preempted)"),
    "CANCELLED by 1000": ("cancelled (by_user)",) * 2,
    "FAILED 3:0": ("held (ended with exit code 3)", "interrupted (preempted)"),
    "FAILED 0:9": ("waiting (killed by signal 9)", "interrupted (preempted)"),
}


@pytest.mark.parametrize(("name", "expected"), COVER.items())
def test_a_wanted_trial_by_the_job_that_would_run_it(name, expected):
    new, begun = TrialState(State.WAITING), TrialState(State.INTERRUPTED, "preempted")
    assert str(settle(new, 0, Hearsay(cover=WORDS[name], first=1))) == expected[0]
    assert str(settle(begun, 1, Hearsay(cover=WORDS[name], first=1))) == expected[1]


@pytest.mark.parametrize("name", ["FAILED 0:53", "FAILED 78:0", "FAILED 127:0"])
def test_a_job_that_could_not_begin_holds_what_it_should_have_run(name):
    held = settle(TrialState(State.WAITING), 0, Hearsay(cover=WORDS[name], first=1))
    assert held == TrialState(State.HELD, WORDS[name].text)


def test_a_final_trial_that_was_asked_for_again_is_pending_until_it_begins():
    failed = TrialState(State.FAILED, "exception")
    assert settle(failed, 1, Hearsay(cover=WORDS["PENDING"], first=2)).state is State.PENDING
    assert settle(failed, 2, Hearsay(cover=WORDS["PENDING"], first=2)) == failed
    assert settle(failed, 1, Hearsay(cover=None, first=2)) == failed
    assert settle(failed, 1, Hearsay(cover=WORDS["TIMEOUT"], first=2)) == failed


def test_what_runs_says_what_is_odd_about_it():
    running = TrialState(State.RUNNING)
    assert str(settle(running, 1, Hearsay(own=WORDS["RUNNING"], first=1))) == "running"
    assert str(settle(running, 1, Hearsay(own=WORDS["SUSPENDED"], first=1))) == "running (suspended)"
    assert str(settle(running, 1, Hearsay(own=WORDS["COMPLETING"], first=1))) == "running (its processes are ending)"
    assert str(settle(running, 1, Hearsay(own=WORDS["A_WORD_OF_2031"], first=1))).startswith("running (Slurm says")
    assert str(settle(running, 1, Hearsay(first=1, silence=SILENCE))) == f"running ({SILENCE})"


# -- rules, over everything

FILE_STATES = [
    *(TrialState(state) for state in (State.WAITING, State.RUNNING, State.COMPLETED)),
    *(TrialState(State.INTERRUPTED, reason) for reason in ("deadline", "preempted", "stop_requested")),
    TrialState(State.FAILED, "exception"),
    TrialState(State.STOPPED, "diverged"),
    TrialState(State.CANCELLED, "by_user"),
]
CASES = list(itertools.product(FILE_STATES, (0, 1, 2, 3), (0, 1, 2, 3), [*WORDS.values(), None], (True, False)))


def test_no_answer_never_makes_an_end():
    for state, n_attempts, first, _word, called_off in CASES:
        after = settle(state, n_attempts, Hearsay(None, None, first, called_off, SILENCE))
        assert after.state in (state.state, State.PENDING), (state, n_attempts, first)
        if state.state in MAY_GO_ON and first:
            assert after == TrialState(State.PENDING, SILENCE)  # and so it is not submitted again


def test_rules_of_settling():
    for (state, n_attempts, first, cover, called_off), own in itertools.product(CASES, (None, WORDS["RUNNING"])):
        after = settle(state, n_attempts, Hearsay(own, cover, first, called_off))
        case = (state, n_attempts, first, cover, called_off, after)
        if state.state is State.COMPLETED:
            assert after == state, case
        if state.state in FINAL and n_attempts >= first:
            assert after == state, case  # nobody has asked for it again
        if after.reason == "vanished":
            assert state.reason == "vanished", case
        if after.state in FINAL and after.state is not state.state:
            assert after == TrialState(State.CANCELLED, "by_user"), case
            assert called_off or (cover is not None and cover.reason == "cancelled"), case
        if after.state in MAY_GO_ON:
            assert after.state is state.state, case
        if state.state in MAY_GO_ON and not called_off and cover is not None and cover.standing is not Standing.GONE:
            assert after.state in (State.PENDING, State.HELD), case  # a job will take it: never twice
        if state.state is State.RUNNING:
            assert after.state is State.RUNNING, case
