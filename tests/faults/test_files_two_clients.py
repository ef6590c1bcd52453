"""F7 and F9: two machines with one network disk, each with its own stale memory of what is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dlcluster.file_reading import appears
from dlcluster.launch.view import View
from dlcluster.pipeline import run_sweep
from dlcluster.run_dir import SweepDir
from dlcluster.sweep_call import SweepOptions
from tests.faults.disks import needs_bindfs, stale_view
from tests.faults.workers import finish, start_worker, submit_only
from tests.support import REPOSITORY, check_oracle, make_project, wait_until

CACHES_S = [3, pytest.param(15, marks=pytest.mark.long)]


@pytest.fixture(params=CACHES_S)
def cache_s(request):
    return request.param


@pytest.fixture
def two_views(tmp_path, cache_s):
    source = tmp_path / "server"
    source.mkdir()
    with stale_view(source, tmp_path / "a", cache_s) as a, stale_view(source, tmp_path / "b", cache_s) as b:
        yield a, b


def project_on(a, name="project"):
    """A project on one client; the other sees the same folder."""
    return make_project(a / name)


def look_for_everything(sweep):
    """What an impatient user on the other client does: now it remembers that none of this exists."""
    for path in (
        sweep.path,
        sweep.plan_file,
        sweep.trials_dir,
        sweep.workers_dir,
        sweep.submissions_dir,
        sweep.code_dir,
    ):
        assert not os.path.lexists(path)


@needs_bindfs
def test_a_file_that_a_client_believes_missing_is_waited_for(two_views):
    a, b = two_views
    assert not os.path.lexists(b / "plan.jsonl")
    (a / "plan.jsonl").write_text("{}")
    assert not os.path.lexists(b / "plan.jsonl"), "this disk has no stale cache: the test would prove nothing"
    assert appears(b / "plan.jsonl")


@needs_bindfs
def test_a_worker_on_another_client_starts_late_but_works(two_views, cache_s):
    a, b = two_views
    project = project_on(a)
    here, there = project.sweep, SweepDir(b / here_to_there(project.sweep.path, a))
    look_for_everything(there)
    began = time.monotonic()
    submission = submit_only(project)
    worker = start_worker(project, submission, run_dir=there.path)
    done = finish(worker, timeout=60)
    assert done.code == 0, done.err
    assert time.monotonic() - began < cache_s + 15
    assert here.path.is_dir()
    check_oracle(project)


def here_to_there(path, root):
    return Path(path).relative_to(root)


@needs_bindfs
def test_status_and_tables_on_another_client_are_late_but_never_wrong(two_views, cache_s):
    """What B says of a trial is always something that was true a moment ago, and in the end it is what A says."""
    from dlcluster.journal import State
    from dlcluster.launch.status import read_statuses
    from dlcluster.queries import aggregate_sweep

    a, b = two_views
    project = project_on(a)
    project.write_spec(fixed={"steps": 60, "every": 10, "pause": 0.02}, launch={"parallel": 2})
    there = SweepDir(b / here_to_there(project.sweep.path, a))
    command = project.start("sweep", "sweep.yaml")
    wait_until(lambda: there.has_plan(), "the plan on the other client")
    order = [State.WAITING, State.RUNNING, State.COMPLETED]
    highest = {}
    while command.poll() is None:
        for status in read_statuses(there, there.read_plan()):
            rank = order.index(status.state.state)
            assert rank >= highest.get(status.trial.id, 0), f"{status.trial.id} went back to {status.state}"
            highest[status.trial.id] = rank
        _plan, results = aggregate_sweep(there)
        assert set(results.trials["state"]) <= {"waiting", "running", "completed"}
    command.communicate()
    wait_until(
        lambda: all(s.state.state is State.COMPLETED for s in read_statuses(there, there.read_plan())),
        "the end on the other client",
        timeout=2 * cache_s + 10,
    )
    mine, theirs = aggregate_sweep(project.sweep)[1], aggregate_sweep(there)[1]
    assert mine.trials.to_csv() == theirs.trials.to_csv()
    assert mine.metrics.to_csv() == theirs.metrics.to_csv()


@needs_bindfs
def test_the_same_sweep_on_a_client_that_knows_nothing_of_it_overwrites_nothing(two_views):
    """A look-up that says "no plan here" is not believed: the plan of a sweep topped up elsewhere must not be lost."""
    a, b = two_views
    project = project_on(a)
    there = replace(project, root=b / here_to_there(project.root, a))
    look_for_everything(there.sweep)
    project.write_spec(space={"start": {"uniform": [1, 2]}}, sampler={"kind": "random", "trials": 3})
    submit_only(project)
    before = project.trials()
    result = run_sweep(
        there.spec, SweepOptions(runs_dir=there.runs, overrides=("sampler.trials=2",), dry_run=True), View()
    )
    assert result.plan.trials == before


CLAIMER = """
import sys, time
from pathlib import Path
from dlcluster.files import make_dir_exclusively
root, me, n = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
numbers = [(k + me // 2 * n // 4) % n for k in range(n)]   # two of each client begin at the same place
print("ready", flush=True)
start = float(sys.stdin.readline())
while time.monotonic() < start:
    pass
won = [str(k) for k in numbers if make_dir_exclusively(root / f"{k:04d}")]
print(" ".join(won), flush=True)
"""


@needs_bindfs
@pytest.mark.parametrize(("n_processes", "n_rounds"), [(4, 200), pytest.param(8, 1000, marks=pytest.mark.long)])
def test_every_claim_is_won_by_exactly_one(two_views, n_processes, n_rounds):
    """All of them run through the same numbers at the same time, on both clients."""
    (two_views[0] / "attempts").mkdir()
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, str(view / "attempts"), str(i), str(n_rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for view in two_views
        for i in range(n_processes)
    ]
    for claimer in claimers:
        assert claimer.stdout.readline() == "ready\n"
    start = time.monotonic() + 0.3
    for claimer in claimers:
        claimer.stdin.write(f"{start}\n")
        claimer.stdin.flush()
    won = [claimer.communicate()[0].split() for claimer in claimers]
    assert sorted(number for list_ in won for number in list_) == sorted(str(k) for k in range(n_rounds))
    assert sum(bool(list_) for list_ in won) > 1, "one process won everything: there was no race"


@pytest.mark.parametrize("n_rounds", [2, pytest.param(20, marks=pytest.mark.long)])
def test_workers_of_two_submissions_share_trials_without_doing_one_twice(project, n_rounds):
    """Both submissions want all trials, as two commands at the same moment would have it."""
    for k in range(n_rounds):
        project.write_spec(
            name="count", space={"start": [1.0 + k + i / 10 for i in range(6)]}, fixed={"steps": 3, "every": 0}
        )
        if project.sweep.path.exists():
            project.sweep.path.rename(project.root / f"old-{k}")
        submissions = [submit_only(project), submit_only(project)]
        workers = [start_worker(project, s, n) for s in submissions for n in (1, 2)]
        assert [finish(worker).code for worker in workers] == [0] * 4
        for trial in project.trials():
            assert project.ends(trial) == ["completed"]
        check_oracle(project)
        beats = [json.loads(path.read_text()) for path in project.sweep.path.glob("workers/*/heartbeat.json")]
        assert sum(beat["finished"].get("completed", 0) for beat in beats) == 6
