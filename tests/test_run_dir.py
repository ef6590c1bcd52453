"""The run directory: what is found in it, and what is not mistaken for something else."""

from __future__ import annotations

import json
import os

import pytest

from dlcluster.errors import DamagedError, UsageError
from dlcluster.files import AppendFile, make_dir, write_json_lines, write_text
from dlcluster.launch.status import read_statuses
from dlcluster.launch.submission import next_submission_id
from dlcluster.run_dir import FORMAT, SweepDir, plan_rows
from dlcluster.trial import Trial
from tests.support import history_of

HEADER = {"name": "x", "fingerprint": "f", "spec": {"launch": {}}, "project_root": "/p", "version": "0"}


@pytest.fixture
def sweep(tmp_path):
    made = SweepDir(tmp_path / "x")
    make_dir(made.path)
    return made


@pytest.fixture
def trials():
    return [Trial.of("job", {"lr": 1.0 / (i + 1)}, seed, i) for i in range(100) for seed in (0, 20)]


def write_plan(sweep, trials, **header):
    write_json_lines(sweep.plan_file, plan_rows({**HEADER, **header}, trials))


def journal_of(sweep, trial, attempt=1):
    folder = sweep.trial(trial).attempt(attempt)
    make_dir(folder.path)
    return AppendFile(folder.journal)


def test_a_plan_is_read_back(sweep, trials):
    write_plan(sweep, trials)
    plan = sweep.read_plan()
    assert list(plan.trials) == trials
    assert plan.header["n_trials"] == len(trials)
    assert plan.spec == {"launch": {}}


def test_a_plan_that_is_cut_anywhere_is_damaged_never_shorter(sweep, trials):
    write_plan(sweep, trials[:4])
    whole = sweep.plan_file.read_bytes()
    for cut in range(len(whole)):
        sweep.plan_file.write_bytes(whole[:cut])
        with pytest.raises(DamagedError, match="damaged"):
            sweep.read_plan()
        sweep.plan_file.write_bytes(whole[:cut] + b"\0" * (len(whole) - cut))
        with pytest.raises(DamagedError, match="damaged"):
            sweep.read_plan()


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "trial"},
        {"kind": "sweep"},
        {"kind": "sweep", "format": "1", "spec": {}},
        {"kind": "sweep", "format": FORMAT, "n_trials": 0.5},
    ],
)
def test_a_first_line_that_says_nothing_is_damage(sweep, line):
    write_json_lines(sweep.plan_file, [line])
    with pytest.raises(DamagedError):
        sweep.read_plan()


def test_a_trial_without_its_keys_is_damage(sweep):
    write_json_lines(sweep.plan_file, [{"kind": "sweep", "format": FORMAT, "n_trials": 1, **HEADER}, {"id": "abc"}])
    with pytest.raises(DamagedError, match="without 'index'"):
        sweep.read_plan()


@pytest.mark.parametrize("change", [{"params": 7}, {"role": None}, {"config": []}])
def test_a_trial_of_other_types_is_damage(sweep, trials, change):
    header, row = plan_rows(HEADER, trials[:1])
    write_json_lines(sweep.plan_file, [header, {**row, **change}])
    with pytest.raises(DamagedError, match="a line that is no trial"):
        sweep.read_plan()


def test_seeds_share_what_belongs_to_their_config(sweep):
    trials = [Trial.of("job", {"lr": i / 10}, seed, i) for i in range(2) for seed in range(3)]
    odd = Trial("0" * 12, 0, trials[0].config, 7, {"lr": 5.0}, "search")  # the same config, but not the same parameters
    write_plan(sweep, [*trials, odd])
    found = sweep.read_plan().trials
    assert list(found) == [*trials, odd]
    assert found[0].params is found[2].params
    assert found[0].params is not found[3].params


def test_a_newer_format_is_named_and_refused(sweep):
    write_json_lines(sweep.plan_file, [{"kind": "sweep", "format": FORMAT + 1, "name": "later", "n_trials": 7}])
    with pytest.raises(UsageError, match=r"newer dlcluster.*'later', 7 trials"):
        sweep.read_plan()


def test_no_plan_is_no_sweep(sweep):
    assert not sweep.has_plan()
    with pytest.raises(UsageError, match="no sweep here"):
        sweep.read_plan()


@pytest.mark.parametrize(
    "name", ["../../x", "t*", "0001;rm", "", "0" * 11, "0" * 13, "0" * 12 + "\n", "ABCDEFABCDEF", "é" * 12]
)
def test_a_name_that_is_no_trial_id_is_never_looked_for(sweep, trials, name):
    write_plan(sweep, trials)
    with pytest.raises(UsageError, match="no such trial id"):
        sweep.read_plan().by_id(name)


def test_no_folder_holds_more_than_a_thousand_trials():
    trials = [Trial.of("job", {"lr": i}, seed, i) for i in range(200) for seed in range(40)]
    counts = {}
    for trial in trials:
        counts[trial.shard] = counts.get(trial.shard, 0) + 1
    assert max(counts.values()) <= 1000


def test_attempts_are_listed_in_order_and_nothing_else_is_taken_for_one(sweep, trials):
    folder = sweep.trial(trials[0])
    for name in ("0002", "0001", "12345", "0010", ".0003.tmp", "x0004", "4"):
        make_dir(folder.attempts_dir / name)
    assert [attempt.number for attempt in folder.attempts()] == [1, 2, 10, 12345]
    assert sweep.trial(trials[1]).attempts() == []


def test_submissions_and_workers_leave_scratch_and_links_aside(sweep):
    for name in ("b", "a", ".c"):
        make_dir(sweep.submissions_dir / name)
    (sweep.submissions_dir / "link").symlink_to("a")
    (sweep.submissions_dir / "file").write_text("")
    assert [submission.path.name for submission in sweep.submissions()] == ["a", "b"]
    assert sweep.workers() == []


def test_ids_of_submissions_sort_in_their_order_also_with_a_clock_that_is_behind(sweep):
    ids = ["29991231T235959-ffffff"]
    make_dir(sweep.submission(ids[0]).path)
    make_dir(sweep.submissions_dir / "no id")
    for _ in range(5):
        ids.append(next_submission_id(sweep))
        make_dir(sweep.submission(ids[-1]).path)
    assert ids == sorted(ids)
    assert [s.path.name for s in sweep.submissions() if s.path.name in ids] == ids


def test_facts_of_a_long_journal_are_those_of_all_its_records(sweep, trials):
    """The newest checkpoint counts as progress, however much has been logged since."""
    journal = journal_of(sweep, trials[0])
    journal.write_row({"kind": "start", "trial": trials[0].id})
    journal.write_row({"kind": "checkpoint", "step": 5, "file": "x"})
    for step in range(6, 3000):
        journal.write_row({"kind": "metrics", "step": step, "metrics": {"loss": 0.5, "accuracy": 0.25}})
    facts = sweep.trial(trials[0]).attempt(1).facts()
    assert facts.start["trial"] == trials[0].id
    assert (facts.committed_step, facts.last_metrics["step"], facts.end) == (5, 2999, None)
    journal.write_row({"kind": "end", "state": "completed", "reason": "", "exit": 0})
    assert sweep.trial(trials[0]).attempt(1).facts().is_completed
    journal.close()


def test_an_attempt_that_was_only_claimed_says_nothing(sweep, trials):
    make_dir(sweep.trial(trials[0]).attempt(1).path)
    facts = sweep.trial(trials[0]).attempt(1).facts()
    assert (facts.start, facts.end, facts.last_metrics, facts.committed_step) == (None, None, None, 0)


def test_history_counts_damage_once(sweep, trials):
    journal = journal_of(sweep, trials[0])
    journal.write_row({"kind": "metrics", "step": 1, "metrics": {"loss": 1.0}})
    journal.write(b'{"kind":"metr\n')
    journal.write_row({"kind": "metrics", "step": 2, "metrics": {"loss": 0.5}})
    journal.close()
    history = history_of(sweep.trial(trials[0]))
    assert [row["step"] for row in history.metrics] == [1, 2]
    assert [damage.n_bad_lines for damage in history.damages] == [1]


def test_what_cannot_be_read_is_unreadable_and_nothing_is_decided(sweep, trials):
    write_plan(sweep, trials[:4])
    make_dir(sweep.trial(trials[0]).attempt(1).path)
    os.mkfifo(sweep.trial(trials[0]).attempt(1).journal)
    make_dir(sweep.trial(trials[1]).path)
    (sweep.trial(trials[1]).attempts_dir).symlink_to(sweep.trial(trials[1]).attempts_dir)
    make_dir(sweep.trial(trials[2]).attempt(1).journal)
    statuses = read_statuses(sweep, sweep.read_plan())
    assert [status.state.state.value for status in statuses] == ["unreadable"] * 3 + ["waiting"]
    assert "not a regular file" in statuses[0].state.reason
    assert str(sweep.trial(trials[0]).attempt(1).journal) in statuses[0].state.reason
    from dlcluster.launch.plan import make_launch_plan

    assert [trial_id for trial_id, _ in make_launch_plan(statuses).wanted] == [trials[3].id]


def test_markers_of_a_worker(sweep):
    worker = sweep.worker("w-0000")
    assert worker.markers() == set()
    make_dir(worker.path)
    write_text(worker.marker("cancel"), "")
    write_text(worker.path / "other", "")
    assert worker.markers() == {"cancel"}
    assert worker.read_heartbeat() is None
    worker.heartbeat.write_text(json.dumps({"seq": 1}))
    assert worker.read_heartbeat() == {"seq": 1}
