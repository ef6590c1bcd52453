"""Who gets a trial: exactly one of all who try (row F9 in small), in order, and again what others have dropped."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dlcluster.files import append_json_line, write_json
from dlcluster.journal import AttemptFacts
from dlcluster.liveness import identity, is_alive, start_tick
from dlcluster.owners import Owners, is_earlier_life
from dlcluster.run_dir import Plan, SweepDir
from dlcluster.trial import Trial
from dlcluster.worker.claims import Claims, start_record
from dlcluster.worker.leases import Leases

N_ROUNDS, N_PROCESSES = 60, 4

RACE = """
import json, sys, time
from pathlib import Path
from dlcluster.run_dir import Plan, SweepDir
from dlcluster.trial import Trial
from dlcluster.worker.claims import Claims
root, go = SweepDir(Path(sys.argv[1])), Path(sys.argv[2])
trials = tuple(Trial.from_json(row) for row in json.loads(sys.argv[3]))
claims = Claims(root, Plan({}, trials), [(t.id, 1) for t in trials], 3)
print("ready", flush=True)
sys.stdin.readline()
won = [trial.id for trial in trials for claim in [claims.claim(trial, 1)] if claim]
print(json.dumps(won))
"""


def make_trials(n):
    return tuple(Trial.of("job", {"i": i}, 0, i) for i in range(n))


def make_sweep(folder, trials):
    for shard in {trial.shard for trial in trials}:
        (folder / "trials" / shard).mkdir(parents=True, exist_ok=True)
    (folder / "workers").mkdir(exist_ok=True)
    return SweepDir(folder)


def make_claims(sweep, trials, first=1):
    return Claims(sweep, Plan({}, trials), [(trial.id, first) for trial in trials], 3)


def test_of_several_processes_exactly_one_wins_each_trial(tmp_path):
    trials = make_trials(N_ROUNDS)
    make_sweep(tmp_path, trials)
    rows = json.dumps([trial.to_json() for trial in trials])
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path), str(tmp_path / "go"), rows],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(N_PROCESSES)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [trial_id for racer in racers for trial_id in json.loads(racer.communicate(timeout=60)[0])]
    assert sorted(won) == sorted(trial.id for trial in trials)


def test_trials_are_offered_in_order_and_claimed_once(tmp_path):
    trials = make_trials(3)
    sweep = make_sweep(tmp_path, trials)
    ours, others = make_claims(sweep, trials), make_claims(sweep, trials)
    assert others.claim(trials[1], 1)
    won = [trial.index for trial, number in ours.candidates() if ours.claim(trial, number)]
    assert won[0] == 0
    assert 2 in won


def end(attempt, **row):
    append_json_line(attempt.journal, {"kind": "end", **row})


def test_what_others_have_dropped_is_offered_again_and_what_is_final_is_not(tmp_path):
    trials = make_trials(5)
    sweep = make_sweep(tmp_path, trials)
    claims = make_claims(sweep, trials)
    dead = {**identity(os.getpid()), "pid_start": 1, "worker": "dead"}
    alive = {**identity(os.getpid()), "worker": "alive"}
    ends = [("completed", ""), ("failed", "killed(9)"), ("interrupted", "stop_requested"), None, None]
    for trial, ending, owner in zip(trials, ends, [dead, dead, dead, dead, alive], strict=True):
        claim = claims.claim(trial, 1)
        append_json_line(claim.attempt.journal, start_record(claim, owner))
        if ending:
            end(claim.attempt, state=ending[0], reason=ending[1])
    claims._n_tried = len(trials)
    assert [(trial.index, number) for trial, number in claims.candidates()] == [(1, 2), (2, 2), (3, 2)]


def test_a_run_directory_that_is_gone_is_not_made_again(tmp_path):
    trials = make_trials(1)
    sweep = SweepDir(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        make_claims(sweep, trials).claim(trials[0], 1)
    assert not sweep.path.exists()


def beat_of(sweep, name, current, **owner):
    sweep.worker(name).path.mkdir()
    write_json(sweep.worker(name).heartbeat, {"worker": name, "current": current, **identity(os.getpid()), **owner})


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        ([], False),
        ([{"pid_start": 1}], False),
        ([{}], True),
        ([{"pid_start": 1}, {}], True),
        ([{"host": "elsewhere", "boot": "another"}], None),
        ([{"pid_start": 1}, {"host": "elsewhere", "boot": "another"}], None),
        ([{"host": "elsewhere", "boot": "another"}, {}], True),
        ([{"boot": "before"}], False),
    ],
)
def test_a_claim_without_a_record_belongs_to_who_has_announced_it(tmp_path, owners, expected):
    sweep = make_sweep(tmp_path, ())
    for i, owner in enumerate(owners):
        beat_of(sweep, f"w{i}", ["t", 1], **owner)
    beat_of(sweep, "other", ["t", 2])
    assert Owners(sweep).alive("t", AttemptFacts(1, None, None, None, 0)) is expected


ELSEWHERE = {"host": "elsewhere", "boot": "another"}


def test_a_worker_that_has_said_good_bye_has_lost_an_end(tmp_path):
    """On another host: here its pid says more, and its last words may be on their way."""
    sweep = make_sweep(tmp_path, ())
    beat_of(sweep, "w", None, **ELSEWHERE, ended="done")
    start = {"worker": "w", **identity(os.getpid()), **ELSEWHERE}
    assert Owners(sweep).alive("t", AttemptFacts(1, start, None, None, 0)) is False
    later = {**start, "pid_start": start["pid_start"] + 1}  # the name again, another process
    owners = Owners(sweep)
    assert owners.alive("t", AttemptFacts(1, later, None, None, 0)) is None
    assert owners.unknown == {"w"}


JOB = {"id": 12, "array": None, "index": None, "restarts": 1, "cluster": "c"}


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({}, False),
        ({"restarts": 1}, None),
        ({"restarts": 2}, None),
        ({"id": 13}, None),
        ({"cluster": "d"}, None),
        ({"restarts": None}, None),
        (None, None),
    ],
)
def test_an_earlier_life_of_the_same_job_is_dead(tmp_path, job, expected):
    sweep = make_sweep(tmp_path, ())
    told = None if job is None else {**JOB, "restarts": 0, **job}
    start = {"worker": "w", "job": told, **identity(os.getpid()), **ELSEWHERE}
    assert Owners(sweep, JOB).alive("t", AttemptFacts(1, start, None, None, 0)) is expected
    assert Owners(sweep).alive("t", AttemptFacts(1, start, None, None, 0)) is None
    beat_of(sweep, "claimant", ["u", 1], **ELSEWHERE, job=told)
    assert Owners(sweep, JOB).alive("u", AttemptFacts(1, None, None, None, 0)) is expected


def test_an_element_of_an_array_is_another_job_than_its_neighbour():
    element = {**JOB, "array": 7, "index": 3}
    earlier = {**element, "restarts": 0}
    assert is_earlier_life(earlier, element)
    assert is_earlier_life({**earlier, "id": 99}, element)  # its own id matters less than its place in the array
    assert not is_earlier_life({**earlier, "index": 4}, element)
    assert not is_earlier_life({**earlier, "array": 8}, element)


def test_an_end_that_came_while_we_looked_is_seen(tmp_path, monkeypatch):
    """The worker was at it when we read the journal, and is gone when we ask whether it is alive."""
    trials = make_trials(1)
    sweep = make_sweep(tmp_path, trials)
    claims = make_claims(sweep, trials)
    claim = claims.claim(trials[0], 1)
    append_json_line(claim.attempt.journal, start_record(claim, {**identity(os.getpid()), "worker": "w"}))
    claims._n_tried = 1

    def ends_just_now(_owner):
        end(claim.attempt, state="completed", reason="")
        return False

    monkeypatch.setattr("dlcluster.owners.is_alive", ends_just_now)
    assert list(claims.candidates()) == []
    assert not claims.is_any_left()


def test_what_was_called_off_is_offered_no_more(tmp_path):
    trials = make_trials(3)
    sweep = make_sweep(tmp_path, trials)
    wanted = [(trial.id, 1) for trial in trials]
    called_off = set()
    claims = Claims(sweep, Plan({}, trials), wanted, 3, called_off=lambda: called_off)
    assert claims.is_any_left()
    called_off |= {trials[0].id, trials[2].id}
    assert {trial.index for trial, _n in claims.candidates()} == {1}
    called_off.add(trials[1].id)
    assert not claims.is_any_left()
    assert not list(Claims(sweep, Plan({}, trials), wanted, 3, called_off=lambda: None).candidates())


def test_a_look_at_what_is_left_takes_nothing(tmp_path):
    trials = make_trials(2)
    sweep = make_sweep(tmp_path, trials)
    claims = make_claims(sweep, trials)
    assert claims.is_any_left()
    assert [trial.index for trial, _n in claims.candidates()][:2] == [0, 1]
    for trial in trials:
        claim = claims.claim(trial, 1)
        append_json_line(claim.attempt.journal, start_record(claim, {**identity(os.getpid()), "worker": "w"}))
    assert not claims.is_any_left()


# -- heartbeats of other hosts -----------------------------------------------------------------------------------------


class Host:
    """Heartbeats as they come from elsewhere, and a clock of ours."""

    def __init__(self, sweep):
        self.sweep, self.now, self.leases = sweep, 1000.0, Leases(sweep, 30.0, lambda: self.now)

    def beat(self, name, count):
        self.sweep.worker(name).path.mkdir(exist_ok=True)
        write_json(self.sweep.worker(name).heartbeat, {"worker": name, "seq": count})

    def look_after(self, seconds):
        self.now += seconds
        self.leases.look({"w", "x"})
        return self.leases.undecided({"w", "x"}), self.leases.dead


def test_a_heartbeat_that_moves_is_alive_and_one_that_stands_still_is_dead(tmp_path):
    host = Host(make_sweep(tmp_path, ()))
    host.beat("w", 5)
    host.beat("x", 7)
    assert host.look_after(0) == ({"w", "x"}, set())
    host.beat("w", 6)
    assert host.look_after(30) == ({"x"}, set())
    assert host.look_after(59.9) == ({"x"}, set())
    assert host.look_after(0.1)[1] == {"x"}
    host.leases.begin()
    assert host.look_after(1)[0] == {"w", "x"}  # it has to move again


def test_a_worker_without_a_heartbeat_stands_still_too(tmp_path):
    host = Host(make_sweep(tmp_path, ()))
    host.look_after(0)
    assert host.look_after(90)[1] == {"w", "x"}


def test_a_pid_that_was_given_again_is_another_process():
    me = identity(os.getpid())
    assert is_alive(me) is True
    assert is_alive({**me, "pid_start": me["pid_start"] + 1}) is False
    assert is_alive({**me, "boot": "another"}) is False
    assert is_alive({**me, "host": "another", "boot": "another"}) is None
    assert is_alive({**me, "host": "renamed"}) is True  # the same boot: this very machine
    assert is_alive({**me, "host": "renamed", "pid_start": 1}) is False
    assert is_alive({**me, "host": "container", "pid_namespace": "pid:[1]"}) is None
    assert is_alive({}) is None
    assert is_alive({name: me[name] for name in ("host", "boot", "pid_namespace")}) is False


def test_a_zombie_is_not_alive():
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_tick(process.pid) is None
    process.wait()
