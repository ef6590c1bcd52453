"""Trials of several processes: on one node, and on several with an srun that only pretends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from dlcluster.run_dir import TrialDir
from dlcluster.worker import checkpoints, frames
from dlcluster.worker.follower import Follower
from dlcluster.worker.rank_reports import RankReports
from dlcluster.worker.run import Stopped
from dlcluster.worker.seat import Seat, first_name, free_port, master_address, seats_of_node
from dlcluster.worker.shared_page import SharedPage
from tests.support import (
    HERE,
    check_attempts_do_not_overlap,
    check_files,
    end_of,
    is_running,
    pause,
    processes_with,
    run_worker,
    start_worker,
    submit,
    summary,
    undisturbed,
    wait_for_step,
    wait_until,
)
from tests.worker.fake_job import FakeJob, last_ends
from tests.worker.helpers import RULES, make_run, make_trial

LONG = {"steps": 40, "every": 5, "pause": 0.05}


@pytest.fixture
def ranked(project):
    shutil.copy(HERE / "ranked.py", project.root / "ranked.py")
    return project


def submit_ranked(project, fixed=None, n=2, starts=(1.0,), rules=None, **spec):
    fixed = {"steps": 6, "every": 2, **(fixed or {})}
    launch = {"parallel": 1, "processes_per_node": n}
    project.write_spec(job="ranked", space={"start": list(starts)}, fixed=fixed, launch=launch, **spec)
    return submit(project, **(rules or {}))


def one_end(project):
    (trial,) = project.trials()
    (end,) = [row for row in project.rows(trial, 1) if row["kind"] == "end"]
    return end


def log_of(project, name="log.txt"):
    (trial,) = project.trials()
    return (project.sweep.trial(trial).attempts()[-1].path / name).read_text()


def agents_of(project):
    return [pid for pid in processes_with(str(project.root)) if b"node_agent" in _words(pid)]


def ranks_of(project, agent):
    listing = Path(f"/proc/{agent}/task/{agent}/children")
    return [int(pid) for pid in listing.read_text().split()]


def _words(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# -- one node ----------------------------------------------------------------------------------------------------------


def test_each_rank_trains_and_the_first_one_reports(ranked):
    done = run_worker(ranked, submit_ranked(ranked, n=3, starts=(1.0, 2.0)))
    assert done.code == 0, done.out
    assert last_ends(ranked) == [["completed"], ["completed"]]
    assert summary(ranked) == undisturbed(ranked)  # the sum over all ranks, and every step once
    first = ranked.trials()[0]
    folder = ranked.sweep.trial(first)
    lines = (folder.attempt(1).path / "log.txt").read_text().splitlines()
    assert sorted(lines) == [
        "[rank 1] rank 1 of 3 local 1 starting at 0",
        "[rank 2] rank 2 of 3 local 2 starting at 0",
        "rank 0 of 3 local 0 starting at 0",
    ]
    assert {path.name for path in folder.attempt(1).path.iterdir()} == {"log.txt", "journal.jsonl"}
    assert [row["step"] for row in ranked.rows(first, 1) if row["kind"] == "checkpoint"] == [2, 4, 6]
    check_files(ranked.sweep.path)


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        ("raise", "exception", "ValueError: went wrong"),
        ("exit3", "exit(3)", "exit(3)"),
        ("os_exit0", "no_result", "no_result"),
        ("segfault", "crashed(11)", "crashed(11)"),
        ("sigkill", "killed(9)", "killed(9)"),
    ],
)
def test_the_first_rank_that_goes_wrong_says_why_and_ends_the_others(ranked, fault, reason, message, who):
    """The others fail of it, too: their connection is closed."""
    began = time.monotonic()
    done = run_worker(ranked, submit_ranked(ranked, {"fault": fault, "who": who}, n=3))
    assert done.code == 0, done.out
    end = one_end(ranked)
    assert (end["state"], end["reason"]) == ("failed", reason)
    if who:
        assert end["message"] == f"rank 1: {message}"
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("fixed", [{"fault": "late"}, {"fault": "raise", "closed": "nobody there"}])
def test_what_others_fail_of_it_is_not_the_reason(ranked, fixed):
    """Also where it closes its connections before it can say why; or where what they say tells nobody why."""
    run_worker(ranked, submit_ranked(ranked, fixed, n=3))
    assert one_end(ranked)["message"] == "rank 1: ValueError: went wrong"


def test_a_rank_that_goes_wrong_does_not_wait_for_those_that_hear_nothing_of_it(ranked):
    run_worker(ranked, submit_ranked(ranked, {"fault": "raise", "who": 1, "pause": 20.0, "at": 1}, n=2))
    end = one_end(ranked)
    assert end["message"] == "rank 1: ValueError: went wrong"
    assert end["seconds"] < 5
    assert "[rank 1] ValueError: went wrong" in log_of(ranked)


def test_a_trial_that_is_asked_to_stop_goes_on_exactly_there(ranked):
    submission = submit_ranked(ranked, LONG, n=2)
    worker = start_worker(ranked, submission)
    wait_for_step(ranked, 7)
    worker.send_signal(signal.SIGTERM)
    assert end_of(worker).code == 75
    assert last_ends(ranked) == [["interrupted stop_requested"]]
    (trial,) = ranked.trials()
    stopped_at = ranked.rows(trial, 1)[-2]
    assert stopped_at["kind"] == "checkpoint"
    assert run_worker(ranked, submission, 1).code == 0
    assert summary(ranked) == undisturbed(ranked)
    assert f"[rank 1] rank 1 of 2 local 1 starting at {stopped_at['step']}" in log_of(ranked)
    check_attempts_do_not_overlap(ranked, trial)


def test_ranks_that_do_not_agree_are_ended_when_the_first_has_saved(ranked):
    """Rank 0 saves and leaves; the others wait for it in vain, or fail of it: that is no failure."""
    submission = submit_ranked(ranked, {**LONG, "agrees": False}, n=3)
    worker = start_worker(ranked, submission)
    wait_for_step(ranked, 3)
    worker.send_signal(signal.SIGTERM)
    assert end_of(worker).code == 75
    assert last_ends(ranked) == [["interrupted stop_requested"]]
    assert run_worker(ranked, submission, 1).code == 0
    assert summary(ranked) == undisturbed(ranked)


def test_those_that_do_not_follow_a_rank_that_has_stopped_are_ended(ranked):
    """Its grace is not used up: without rank 0 the others get nowhere."""
    (ranked.root / "ranked.py").write_text(
        "import time\n\ndef train(run, **_params):\n    run.log(loss=1.0)\n"
        "    while run.rank or not run.should_stop():\n        time.sleep(0.05)\n"
    )
    worker = start_worker(ranked, submit_ranked(ranked, n=3, rules={"grace": 60.0}))
    wait_for_step(ranked, 1)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert end_of(worker).code == 75
    assert 4.5 < time.monotonic() - began < 12
    assert last_ends(ranked) == [["interrupted stop_requested"]]


def test_the_stacks_of_all_ranks_are_in_the_log_of_a_trial_that_hangs(ranked):
    run_worker(ranked, submit_ranked(ranked, {"fault": "hang", "who": 1}, rules={"hang_timeout": 1.0}))
    end = one_end(ranked)
    assert (end["state"], end["reason"]) == ("failed", "hung")
    log = log_of(ranked)
    assert "[rank 1]   File" in log
    assert "in go_wrong" in log
    assert "in reduce" in log


def test_one_that_ignores_everything_is_killed_in_time(ranked):
    (ranked.root / "ranked.py").write_text(
        "import signal, time\n\ndef train(run, **_params):\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    run.log(loss=1.0)\n    time.sleep(600)\n"
    )
    worker = start_worker(ranked, submit_ranked(ranked, rules={"grace": 2.0}))
    wait_for_step(ranked, 1)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert end_of(worker, 20).code == 75
    assert 1.5 < time.monotonic() - began < 6
    assert one_end(ranked)["message"] == "did not stop in time"


def test_nothing_is_left_of_a_worker_that_was_killed(ranked):
    submission = submit_ranked(ranked, LONG)
    worker = start_worker(ranked, submission)
    wait_for_step(ranked, 6)
    worker.kill()
    end_of(worker)
    wait_until(lambda: not processes_with(str(ranked.root)), "the end of the agent and its ranks", 5)
    assert run_worker(ranked, submission, 1).code == 0
    assert summary(ranked) == undisturbed(ranked)


def test_nothing_is_left_of_a_killed_worker_whose_ranks_are_silent(ranked):
    worker = start_worker(ranked, submit_ranked(ranked, {"fault": "hang", "who": -1, "at": 3}))
    wait_for_step(ranked, 2)
    pause(1.5)  # until all has been reported
    worker.kill()
    end_of(worker)
    wait_until(lambda: not processes_with(str(ranked.root)), "the end of the agent and its ranks", 5)


def test_an_agent_that_was_killed_is_started_anew_for_the_next_trial(ranked):
    worker = start_worker(ranked, submit_ranked(ranked, LONG, starts=(1.0, 2.0)))
    wait_for_step(ranked, 3)
    (agent,) = [pid for pid in agents_of(ranked) if ranks_of(ranked, pid)]
    ranks = ranks_of(ranked, agent)
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, ranks)), "the end of its ranks", 5)
    assert end_of(worker).code == 0
    assert last_ends(ranked) == [["failed killed(9)", "completed"], ["completed"]]


def test_a_later_attempt_ends_the_ranks_without_another_byte(ranked):
    worker = start_worker(ranked, submit_ranked(ranked, LONG))
    wait_for_step(ranked, 3)
    (trial,) = ranked.trials()
    ranked.sweep.trial(trial).attempt(2).path.mkdir()
    end_of(worker, 30)
    assert "end" not in [row["kind"] for row in ranked.rows(trial, 1)]


def test_a_job_that_cannot_be_imported_holds_the_sweep(ranked):
    (ranked.root / "ranked.py").write_text("import nothing_of_that_name\n")
    done = run_worker(ranked, submit_ranked(ranked))
    assert done.code == 78
    assert "No module named 'nothing_of_that_name'" in done.out
    assert last_ends(ranked) == [[]]


def test_what_slurm_tells_an_agent_is_a_request_to_all(ranked):
    """At the start of a grace time only steps hear a SIGTERM; the supervisor stops, and asks to be started again."""
    job = FakeJob(ranked)
    worker = job.start(submit_ranked(ranked, LONG))
    wait_for_step(ranked, 3)
    (agent,) = [pid for pid in agents_of(ranked) if ranks_of(ranked, pid)]
    os.kill(agent, signal.SIGTERM)
    os.kill(agent, signal.SIGTERM)  # tasks of srun get two
    assert job.end_of(worker, 30).code == 0
    assert last_ends(ranked) == [["interrupted stop_requested"]]
    assert job.kinds_of_calls() == ["show", "requeue"]


def test_a_program_is_started_once_for_each_rank(ranked):
    (ranked.root / "program.py").write_text(
        "import json, os, sys\n"
        "config = json.load(open(sys.argv[1]))\n"
        "print('I am', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], config['start'])\n"
        "print(f\"loss={10.0 + int(os.environ['RANK'])}\")\n"
    )
    ranked.write_spec(
        job=None,
        command="python program.py {config_file}",
        space={"start": [1.0]},
        fixed={},
        launch={"parallel": 1, "processes_per_node": 2},
    )
    done = run_worker(ranked, submit(ranked))
    assert done.code == 0, done.out
    (trial,) = ranked.trials()
    assert ranked.history(trial) == [(1, 10.0)]
    assert sorted(line for line in log_of(ranked).splitlines() if "I am" in line) == [
        "I am 0 of 2 1.0",
        "[rank 1] I am 1 of 2 1.0",
    ]
    assert {path.name for path in ranked.sweep.trial(trial).attempt(1).path.iterdir()} == {"log.txt", "journal.jsonl"}


# -- several nodes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(ranked):
    """A job on two nodes: `srun` is a program of ours."""
    job = FakeJob(ranked, SLURM_JOB_NODELIST="n[1-2]")
    program = job.folder / "bin" / "srun"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "worker" / "fake_srun.py"} "$@"\n')
    program.chmod(0o755)
    job.environ["FAKE_SRUN_CALLS"] = str(job.folder / "sruns")
    return job


ON_TWO = {"nodes": 2, "cpus": 3}


def test_on_several_nodes_one_step_has_all_ranks(ranked, nodes):
    done = nodes.run(submit_ranked(ranked, starts=(1.0, 2.0), rules=ON_TWO))
    assert done.code == 0, done.out
    assert summary(ranked) == undisturbed(ranked)
    (call,) = (nodes.folder / "sruns").read_text().splitlines()  # one step for all trials of the job
    for option in ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=6", "--kill-on-bad-exit=1"):
        assert option in call.split()
    folder = ranked.sweep.trial(ranked.trials()[0]).attempt(1).path
    assert sorted((folder / "log.node1.txt").read_text().splitlines()) == [
        "[rank 2] rank 2 of 4 local 0 starting at 0",
        "[rank 3] rank 3 of 4 local 1 starting at 0",
    ]


def test_a_rank_on_another_node_that_goes_wrong_says_why(ranked, nodes):
    assert nodes.run(submit_ranked(ranked, {"fault": "raise", "who": 3}, rules=ON_TWO)).code == 0
    end = one_end(ranked)
    assert end["reason"] == "exception"
    assert end["message"] == "rank 3 on node 1: ValueError: went wrong"


def test_several_nodes_stop_together_and_go_on(ranked, nodes):
    submission = submit_ranked(ranked, LONG, rules=ON_TWO)
    worker = nodes.start(submission)
    wait_for_step(ranked, 7)
    worker.send_signal(signal.SIGTERM)
    assert nodes.end_of(worker, 30).code == 0
    assert last_ends(ranked) == [["interrupted stop_requested"]]
    assert nodes.kinds_of_calls() == ["show", "requeue"]
    nodes.environ["SLURM_RESTART_COUNT"] = "1"
    assert nodes.run(submission).code == 0
    assert summary(ranked) == undisturbed(ranked)


def test_agents_end_with_srun_and_with_the_worker(ranked, nodes):
    submission = submit_ranked(ranked, LONG, rules=ON_TWO)
    worker = nodes.start(submission)
    wait_for_step(ranked, 3)
    worker.kill()
    worker.wait()
    wait_until(lambda: not processes_with(str(ranked.root)), "the end of srun, agents and ranks", 10)


def test_srun_is_nobody_s_child_so_that_slurm_s_sigterm_does_not_reach_it(ranked, nodes):
    """Under proctrack/linuxproc it would: srun answers it with SIGKILL for all its tasks."""
    worker = nodes.start(submit_ranked(ranked, LONG, rules=ON_TWO))
    wait_for_step(ranked, 2)
    (srun,) = [pid for pid in processes_with(str(ranked.root)) if b"fake_srun" in _words(pid)]
    parent = int(Path(f"/proc/{srun}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent not in processes_with(str(ranked.root))
    worker.send_signal(signal.SIGTERM)
    nodes.end_of(worker, 30)
    wait_until(lambda: not is_running(srun), "the end of srun", 5)


def test_a_step_that_cannot_be_started_holds_the_sweep(ranked, nodes):
    (nodes.folder / "bin" / "srun").write_text("#!/bin/sh\necho 'srun: error: no' >&2; exit 1\n")
    done = nodes.run(submit_ranked(ranked, rules=ON_TWO))
    assert done.code == 78
    assert "srun: error: no" in done.out
    assert "what srun says about it is in the job's log" in done.out


def test_several_nodes_without_a_job_are_refused(ranked):
    done = run_worker(ranked, submit_ranked(ranked, rules=ON_TWO))
    assert done.code == 78
    assert "needs a job of Slurm" in done.out


# -- the parts ---------------------------------------------------------------------------------------------------------


def make_follower(folder, attempt=1, page=None):
    first = make_run(folder, attempt)
    seat = Seat(3, 4, 1, 2, 1)
    folders = TrialDir(Path(first.dir))
    follower = Follower(make_trial(), folders.attempt(attempt), folders, page or SharedPage(), RULES, seat=seat)
    return first, follower


def test_a_follower_writes_nothing_and_knows_its_place(tmp_path):
    _first, follower = make_follower(tmp_path)
    before = sorted(tmp_path.rglob("*")), [path.stat().st_size for path in tmp_path.rglob("*")]
    assert (follower.rank, follower.world_size, follower.local_rank) == (3, 4, 1)
    follower.log(loss=float("nan"))
    follower.save({"a": 1}, epoch=1)
    follower.predictions("validation", [1], correct=[True])
    follower.note("nothing")
    assert follower.step == 1
    assert before == (sorted(tmp_path.rglob("*")), [path.stat().st_size for path in tmp_path.rglob("*")])


def test_a_follower_stops_where_the_first_does(tmp_path):
    page = SharedPage()
    _first, follower = make_follower(tmp_path, page=page)
    page.set()
    assert follower.should_stop()
    with pytest.raises(Stopped):
        follower.save({"a": 1}, epoch=1)


def test_a_follower_resumes_from_what_the_first_has_taken(tmp_path):
    earlier, _follower = make_follower(tmp_path, attempt=1)
    for step in (1, 2):
        earlier.log(loss=1.0)
        earlier.save({"step": step}, epoch=step)
    first, follower = make_follower(tmp_path, attempt=2)
    assert first.resume()["step"] == 2
    first.log(loss=1.0)
    first.save({"step": 3}, epoch=3)
    assert follower.resume()["step"] == 2
    first.log(loss=1.0)
    first.save({"step": 4}, epoch=4)
    with pytest.raises(RuntimeError, match="call it before the training"):
        follower.resume()


def test_a_follower_leaves_a_damaged_checkpoint_to_the_first(tmp_path):
    earlier, _follower = make_follower(tmp_path, attempt=1)
    for step in (1, 2):
        earlier.log(loss=1.0)
        earlier.save({"step": step}, epoch=step)
    first, follower = make_follower(tmp_path, attempt=2)
    newest = checkpoints.manifests(TrialDir(Path(first.dir)))[0]
    data = newest.parent / json.loads(newest.read_text())["file"]
    data.write_bytes(b"nothing")
    assert follower.resume()["step"] == 1
    assert data.exists()
    assert first.resume()["step"] == 1
    assert follower.resume()["step"] == 1


def test_messages_of_several_nodes_may_come_mixed():
    long = {"text": "ä\n" * 2000}
    lines = [frames.to_lines(node, long).splitlines(keepends=True) for node in (0, 1)]
    assert all(len(line) < 1000 for line in lines[0])
    mixed = b"".join(a + b"srun: a word of its own\n" + b for a, b in zip(*lines, strict=True))
    assembler = frames.Assembler()
    found = [message for i in range(0, len(mixed), 7) for message in assembler.feed(mixed[i : i + 7])]
    assert found == [(0, long), (1, long)]


def failed(message):
    return {"state": "failed", "reason": "exception", "exit": 1, "message": message, "signature": "x"}


@pytest.mark.parametrize(
    "consequence",
    [
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:14234",
        "ConnectionResetError: [Errno 104] Connection reset by peer",
        "DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1970",
    ],
)
def test_what_a_rank_fails_of_comes_before_what_others_fail_of(consequence):
    """`finally: dist.destroy_process_group()` closes its connections before it can report."""
    reports = RankReports(1, 3)
    reports.add(0, {"rank": 0, "outcome": failed(consequence)})
    assert (reports.first_state, reports.is_explained) == ("failed", False)
    reports.add(0, {"rank": 1, "outcome": failed("ValueError: went wrong")})
    assert reports.is_explained
    assert reports.verdict()["message"] == "rank 1: ValueError: went wrong"
    alone = RankReports(1, 2)
    alone.add(0, {"rank": 1, "outcome": failed(consequence)})
    assert alone.verdict()["message"] == f"rank 1: {consequence}"


def test_a_failure_of_a_connection_is_none_where_another_rank_has_stopped():
    reports = RankReports(1, 2)
    reports.add(0, {"rank": 1, "outcome": failed("RuntimeError: Connection closed by peer")})
    stopped = {"state": "interrupted", "reason": "stop_requested", "exit": 75, "message": "", "step": 7}
    reports.add(0, {"rank": 0, "outcome": stopped})
    assert reports.first_state == "interrupted"
    assert reports.verdict() == stopped


def test_a_rank_that_was_killed_decides_before_those_that_failed_of_it():
    reports = RankReports(1, 2)
    reports.add(0, {"rank": 0, "outcome": failed("RuntimeError: Connection closed by peer")})
    reports.add(0, {"rank": 1, "exit": -9, "was_killed": False, "oom": True})
    reports.add(0, {"rank": 0, "exit": 1, "was_killed": True, "oom": False})
    reports.add(0, {"gone": True, "peak_rss_mb": 3.0})
    verdict = reports.verdict()
    assert (verdict["reason"], verdict["message"]) == ("oom", "rank 1: killed: out of memory")


def test_a_trial_whose_ranks_we_have_killed_has_no_outcome_of_its_own():
    reports = RankReports(1, 2)
    reports.add(0, {"rank": 0, "outcome": {"state": "completed", "reason": "", "exit": 0}})
    reports.add(0, {"rank": 1, "exit": -9, "was_killed": True, "oom": False})
    reports.add(0, {"gone": True, "peak_rss_mb": 3.0})
    assert reports.verdict() == {"exit": -9, "peak_rss_mb": 3.0}


def test_ranks_are_counted_node_by_node():
    seats = [seat for node in range(2) for seat in seats_of_node(node, 2, 3, "10.0.0.1", 25_000)]
    assert [(seat.rank, seat.node, seat.local_rank) for seat in seats] == [
        (0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 1, 0), (4, 1, 1), (5, 1, 2),
    ]  # fmt: skip
    assert seats[4].environment() == {
        "RANK": "4", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3", "GROUP_RANK": "1",
        "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "25000",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "name"),
    [("n1", "n1"), ("n[1-2,5]", "n1"), ("nid[00012-00015]", "nid00012"), ("a3,b[4-5]", "a3"), ("", "")],
)
def test_the_first_node_of_a_list(nodes, name):
    assert first_name(nodes) == name


def test_where_the_first_node_is():
    given = {"SLURM_LAUNCH_NODE_IPADDR": "10.1.2.3", "SLURM_JOB_NODELIST": "localhost"}
    assert master_address(given, 2) == "10.1.2.3"
    assert master_address(given, 1) == "127.0.0.1"
    assert master_address({"SLURM_JOB_NODELIST": "localhost"}, 2) in ("127.0.0.1", "::1")
    assert master_address({"SLURM_JOB_NODELIST": "no-such-node.invalid"}, 2)


def test_a_port_that_is_taken_is_not_offered():
    import socket

    port = free_port("seed")
    with socket.create_server(("", port)):
        assert free_port("seed") == port + 1
    assert free_port("another seed") != port
