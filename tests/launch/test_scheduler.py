"""One question to the scheduler for all processes: how long an answer is kept, and what is done without one."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import contextmanager

import pytest

from dlcluster.launch import scheduler, site
from dlcluster.launch.scheduler import forget_queue, read_accounts, read_queue
from dlcluster.liveness import identity
from tests.launch.children import in_children, start_child
from tests.launch.pretend_slurm import IS_DOWN, PretendedSlurm
from tests.support import wait_until

ROW = "12|3|RUNNING|t-20260101T000000-abcdef-000|c|None\n"
HOST = socket.gethostname()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    made = PretendedSlurm(tmp_path / "slurm").install().use(monkeypatch)
    made.answer("squeue", {"rc": 0, "out": ROW, "always": True})
    return made


class Clock:
    """Both clocks of `time`, moved by hand; for sleeping too."""

    def __init__(self, monkeypatch):
        self.now, self.real = 0.0, time.time
        monkeypatch.setattr(scheduler.time, "time", lambda: self.real() + self.now)

    def pass_by(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def cache_file(name=f"squeue-{HOST}"):
    return site.cache_folder() / f"{name}.json"


def claim_file():
    return cache_file().with_suffix(".asking")


# -- how long an answer is kept


def test_the_answer_is_kept_for_15_s(slurm, clock):
    assert read_queue().rows[0].job_id == 12
    clock.pass_by(14)
    assert read_queue().rows[0].index == 3
    assert slurm.n_calls("squeue") == 1
    clock.pass_by(2)
    assert read_queue().is_known
    assert slurm.n_calls("squeue") == 2


def test_one_call_asks_for_all_jobs_in_the_form_that_we_can_read(slurm, monkeypatch):
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SLURM_BITSTR_LEN", "64")
    read_queue()
    call = slurm.calls("squeue")[0]
    assert call["argv"] == ["-h", "--me", "-t", "all", "-r", "-o", "%F|%K|%T|%j|%k|%r"]
    assert "SQUEUE_FORMAT" not in call["env"]
    assert call["env"]["SLURM_BITSTR_LEN"] == "0"
    assert call["env"]["SLURM_CONF"] == os.environ["SLURM_CONF"]


def test_a_fresh_answer_is_asked_for_anew_and_kept_for_the_others(slurm):
    for _ in range(3):
        read_queue(0.0)
    assert slurm.n_calls("squeue") == 3
    read_queue()
    assert slurm.n_calls("squeue") == 3


def test_after_a_submission_it_is_asked_anew(slurm):
    read_queue()
    forget_queue()
    read_queue()
    assert slurm.n_calls("squeue") == 2


def test_forgetting_without_a_cache_is_no_error(slurm):
    forget_queue()
    assert slurm.n_calls() == 0


def test_a_clock_that_was_set_back_keeps_no_answer_for_ever(slurm, clock):
    clock.pass_by(86_400)
    read_queue()
    clock.pass_by(-86_400)
    read_queue()
    assert slurm.n_calls("squeue") == 2


def test_accounts_are_asked_once_a_minute(slurm, clock):
    line = "7_0|COMPLETED|0:0|0:0|x|y|z|n1|job-a|None"
    slurm.change(accounts=[line, line.replace("job-a", "job-b")])
    submitted = time.time()
    for n_calls in (1, 1, 1, 1, 2):
        assert [row.name for row in read_accounts(["job-a"], submitted)] == ["job-a"]
        assert slurm.n_calls("sacct") == n_calls
        clock.pass_by(16)


def test_accounting_that_is_off_gives_none(slurm):
    assert read_accounts(["job-a"], time.time()) is None


# -- a scheduler that does not answer


def test_a_silence_is_kept_longer_and_longer(slurm, clock):
    slurm.go_down()
    began, asked_at = clock.real() + clock.now, []
    for _ in range(600):
        n_before = slurm.n_calls("squeue") if not asked_at or clock.now - asked_at[-1] > 14 else None
        queue = read_queue()
        assert not queue.is_known
        assert queue.rows == ()
        assert IS_DOWN in queue.answer.problem
        assert abs(queue.answer.silent_since - began) < 5  # since the first question that had no answer
        if n_before is not None and slurm.n_calls("squeue") > n_before:
            asked_at.append(clock.now)
        clock.pass_by(1)
    pauses = [round(later - earlier) for earlier, later in zip(asked_at, asked_at[1:], strict=False)]
    assert pauses == [pytest.approx(pause, abs=4) for pause in (15, 15, 30, 60, 120, 120, 120)]  # looked each second
    slurm.come_back()
    clock.pass_by(scheduler.MAX_PAUSE_S + 1)
    back = read_queue()
    assert back.is_known
    assert back.answer.silent_since is None


def test_a_fresh_question_does_not_wait_for_the_end_of_a_pause(slurm):
    slurm.go_down()
    assert not read_queue().is_known
    slurm.come_back()
    assert not read_queue().is_known
    assert read_queue(0.0).is_known
    assert read_queue().is_known


def test_a_program_that_is_not_there_is_a_silence(slurm):
    (slurm.folder / "bin" / "squeue").unlink()
    queue = read_queue()
    assert not queue.is_known
    assert "cannot be started" in queue.answer.problem


def test_a_program_that_hangs_is_a_silence(slurm, monkeypatch):
    slurm.answer("squeue", {"rc": 0, "delay": 20})
    monkeypatch.setattr(site.ask_slurm, "__defaults__", (0.3, None))
    queue = read_queue()
    assert not queue.is_known
    assert "no answer within" in queue.answer.problem


# -- several processes


def test_five_processes_at_the_same_moment_ask_once(slurm):
    slurm.answer("squeue", {"rc": 0, "out": ROW, "delay": 0.5, "always": True})
    answers = in_children([lambda: len(read_queue().rows)] * 5)
    assert answers == [1] * 5
    assert slurm.n_calls("squeue") == 1
    assert not os.path.lexists(claim_file())


def test_five_processes_that_want_it_fresh_ask_once_or_twice(slurm):
    """Those that came while one was asking may not take its answer, but share the next one."""
    slurm.answer("squeue", {"rc": 0, "out": ROW, "delay": 0.5, "always": True})
    assert in_children([lambda: len(read_queue(0.0).rows)] * 5) == [1] * 5
    assert slurm.n_calls("squeue") <= 2


def test_a_fresh_answer_is_not_one_that_was_asked_for_before(slurm):
    """A job that was submitted while squeue was at work is not in its answer, and must not be submitted again."""
    slurm.answer("squeue", {"rc": 0, "out": "", "delay": 0.6}, {"rc": 0, "out": ROW, "always": True})
    early = start_child(lambda: len(read_queue().rows))
    wait_until(lambda: slurm.n_calls("squeue") == 1, "the first question")
    assert len(read_queue(0.0).rows) == 1
    assert early.result() == 0


def test_an_answer_that_was_under_way_during_a_submission_is_not_kept(slurm):
    slurm.answer("squeue", {"rc": 0, "out": "", "delay": 0.6}, {"rc": 0, "out": ROW, "always": True})
    early = start_child(lambda: len(read_queue().rows))
    wait_until(lambda: slurm.n_calls("squeue") == 1, "the first question")
    forget_queue()
    assert early.result() == 0
    assert len(read_queue().rows) == 1


def test_a_process_that_dies_while_it_asks_delays_nobody(slurm):
    slurm.answer("squeue", {"rc": 0, "out": ROW, "delay": 0.5, "always": True})
    dying = start_child(read_queue)
    wait_until(lambda: slurm.n_calls("squeue") == 1, "the first question")
    dying.kill()
    assert os.path.lexists(claim_file())
    began = time.monotonic()
    assert read_queue().is_known
    assert time.monotonic() - began < 10
    assert not os.path.lexists(claim_file())


def test_a_claim_of_a_container_that_is_too_old_is_taken_away(slurm, clock):
    read_queue()
    os.symlink(json.dumps({**identity(os.getpid()), "pid_namespace": "another"}), claim_file())
    clock.pass_by(3 * site.TIMEOUT_S)
    assert read_queue().is_known
    assert slurm.n_calls("squeue") == 2
    assert not os.path.lexists(claim_file())


@pytest.mark.parametrize("make", [lambda claim: claim.mkdir(), lambda claim: claim.write_text(""), None])
def test_something_else_in_the_place_of_a_claim_stops_nobody(slurm, make):
    claim = claim_file()
    claim.parent.mkdir(parents=True)
    make(claim) if make else os.symlink("garbage", claim)
    assert read_queue().is_known


# -- a cache that cannot be used


GARBAGE = ["", "{", "null", "[]", "7", '{"text": 3}', '{"text": null, "time": 1, "asked": 1, "silent_since": null}']
GARBAGE += [json.dumps({"text": 5, "asked": 1e12, "time": 1e12, "silent_since": None, "problem": ""})]
GARBAGE += [json.dumps({"text": "x", "asked": "soon", "time": [], "silent_since": None, "problem": ""})]
GARBAGE += ["\0" * 100, "[" * 100_000]


@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_in_the_cache_is_replaced(slurm, text):
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(text)
    assert read_queue().rows[0].job_id == 12
    assert read_queue().is_known
    assert slurm.n_calls("squeue") == 1


@contextmanager
def as_nobody():
    """Root may write anywhere; others may not."""
    if os.getuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("what", ["cache", "home"])
def test_without_a_place_for_the_cache_everybody_asks(slurm, what, tmp_path, monkeypatch):
    folder = cache_file().parent if what == "cache" else slurm.home
    folder.mkdir(parents=True, exist_ok=True)
    if what == "home":
        monkeypatch.setenv("HOME", "/proc/nowhere")
    else:
        (slurm.home / ".cache").rename(tmp_path / "aside")
        (slurm.home / ".cache").write_text("a file where the folder should be")
    for _ in range(2):
        assert read_queue().is_known
        forget_queue()
    assert slurm.n_calls("squeue") == 2


def test_a_cache_folder_of_somebody_else_stops_nobody(tmp_path, monkeypatch):
    """The programs of the pretended Slurm write, so these only answer."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "squeue").write_text(f"#!/bin/sh\necho '{ROW.strip()}'\n")
    (programs / "squeue").chmod(0o755)
    for folder in [tmp_path, *tmp_path.parents]:
        if not os.stat(folder).st_mode & 0o001:
            pytest.skip("another user cannot reach the temporary folder") if os.getuid() else folder.chmod(0o711)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(mode=0o555)
    with as_nobody():
        assert read_queue().is_known
        forget_queue()
        assert read_queue().is_known
    assert list((tmp_path / "cache").iterdir()) == []
