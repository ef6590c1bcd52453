"""F14: a hundred thousand trials, in time, memory, look-ups on the file system, and inodes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from dlcluster.files import json_line, make_dir, write_json_lines
from dlcluster.journal import State
from dlcluster.launch.status import StateRule, read_statuses
from dlcluster.launch.status_index import read_statuses_quickly
from dlcluster.launch.view import View
from dlcluster.pipeline import run_sweep
from dlcluster.run_dir import SweepDir, plan_rows
from dlcluster.sweep_call import SweepOptions
from tests.support import make_project

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="counting system calls needs strace")
SEEDS = 10
# What asks a file server something: looking up a name, or reading the names in a folder.
METADATA_CALLS = (
    "open",
    "openat",
    "stat",
    "lstat",
    "newfstatat",
    "statx",
    "access",
    "faccessat2",
    "readlink",
    "getdents64",
)
SIZES = [3_000, pytest.param(100_000, marks=pytest.mark.long)]


def fill_run_directory(sweep, trials, n_steps=3):
    """Finished trials as workers leave them, with nothing but what a reader looks at: fast, and 5 inodes a trial."""
    owner = {"worker": "w-0000", "host": "h", "boot": "b", "pid": 1, "pid_start": 1, "submission": "s", "snapshot": "a"}
    for shard in {trial.shard for trial in trials}:
        (sweep.trials_dir / shard).mkdir()
    for trial in trials:
        folder = sweep.trial(trial).attempt(1).path
        os.mkdir(folder.parent.parent)
        os.mkdir(folder.parent)
        os.mkdir(folder)
        start = {"kind": "start", "time": 1.0, "trial": trial.id, "attempt": 1, **owner}
        rows = [
            start,
            *({"kind": "metrics", "time": 2.0, "step": k, "metrics": {"loss": 1 / k}} for k in range(1, n_steps + 1)),
        ]
        rows.append({"kind": "end", "time": 3.0, "state": "completed", "reason": "", "seconds": 2.0, "exit": 0})
        (folder / "journal.jsonl").write_bytes(b"".join(map(json_line, rows)))
        (folder / "log.txt").write_bytes(b"")


def write_the_plan(project):
    """What the `sweep` command would plan, without anything else."""
    plan = run_sweep(project.spec, SweepOptions(runs_dir=project.runs, dry_run=True), View()).plan
    for folder in (project.sweep.trials_dir, project.sweep.results_dir):
        make_dir(folder)
    write_json_lines(project.sweep.plan_file, plan_rows(plan.header, plan.trials))
    return plan


@pytest.fixture(scope="module", params=SIZES)
def many(request, tmp_path_factory):
    """A project with a finished sweep of so many trials, all but ten of which have been run."""
    project = make_project(tmp_path_factory.mktemp("many") / "project")
    n_configs = request.param // SEEDS
    project.write_spec(
        space={"start": {"uniform": [1, 2]}}, sampler={"kind": "random", "trials": n_configs}, seeds=SEEDS
    )
    plan = write_the_plan(project)
    fill_run_directory(project.sweep, plan.trials[:-10])
    yield project
    shutil.rmtree(project.root)


MEASURE = """
import resource, subprocess, sys, time
began = time.monotonic()
done = subprocess.run(sys.argv[1:])
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, file=sys.stderr)
sys.exit(done.returncode)
"""


def measured(project, *arguments):
    """A command's wall time (s), CPU time (s), peak RSS (MB) and output.

    Started by a small process of its own: the peak of a process counts that of the one it was forked from.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, sys.executable, "-m", "dlcluster", *arguments],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wall, cpu, peak = map(float, done.stderr.splitlines()[-1].split())
    return wall, cpu, peak, done.stdout


def n_metadata_calls(project, code, tmp_path):
    """How many look-ups a piece of Python makes in the run directory."""
    log = tmp_path / "calls"
    subprocess.run(
        ["strace", "-f", "-o", log, "-e", f"trace={','.join(METADATA_CALLS)}", sys.executable, "-c", code],
        cwd=project.root,
        env=project.environment(),
        check=True,
        capture_output=True,
    )
    trials, descriptors, count = str(project.sweep.trials_dir), {}, 0
    for line in log.read_text().splitlines():
        if match := re.search(r'(\w+)\((?:AT_FDCWD, )?"([^"]*)".* = (-?\d+)', line):
            is_ours = match[2].startswith(trials)
            count += is_ours
            if match[1].startswith("open"):
                descriptors[match[3]] = is_ours
        elif (
            (match := re.search(r"getdents64\((\d+),.* = (\d+)", line))
            and descriptors.get(match[1])
            and match[2] != "0"
        ):
            count += 1
    log.unlink()
    return count


SCAN = """
from pathlib import Path
from dlcluster.run_dir import SweepDir
from dlcluster.launch.{module} import {function}
sweep = SweepDir(Path({path!r}))
assert len({function}(sweep, sweep.read_plan()))
"""


@needs_strace
def test_a_full_scan_takes_three_lookups_a_trial_and_the_second_a_tenth_of_one(many, tmp_path):
    n = len(many.trials())
    many.sweep.status_index.unlink(missing_ok=True)
    path = str(many.sweep.path)
    full = n_metadata_calls(many, SCAN.format(module="status", function="read_statuses", path=path), tmp_path)
    assert full / n <= 3
    quick = SCAN.format(module="status_index", function="read_statuses_quickly", path=path)
    first = n_metadata_calls(many, quick, tmp_path)
    assert first / n <= 3.1
    second = n_metadata_calls(many, quick, tmp_path)
    assert second / n <= 0.1
    print(f"\n{n} trials: {full / n:.2f} look-ups a trial, then {second / n:.3f}")


@pytest.mark.parametrize(
    "arguments", [("sweep", "sweep.yaml", "--dry-run"), ("status", "count"), ("table", "count")], ids=" ".join
)
def test_a_command_stays_small(many, arguments):
    seconds, cpu_seconds, megabytes, out = measured(many, *arguments)
    print(
        f"\n{len(many.trials())} trials: {' '.join(arguments)}: {seconds:.1f} s ({cpu_seconds:.1f} s CPU), {megabytes:.0f} MB"
    )
    assert out
    assert megabytes < 500


def test_five_inodes_a_trial(many):
    n = len(many.trials()) - 10
    found = int(
        subprocess.run(["find", many.sweep.trials_dir, "-printf", "x"], capture_output=True, check=True).stdout.count(
            b"x"
        )
    )
    n_shards = len(list(many.sweep.trials_dir.iterdir()))
    assert found == 1 + n_shards + 5 * n
    assert max(len(os.listdir(shard)) for shard in many.sweep.trials_dir.iterdir()) <= 1000


# -- the index of `status` is a cache -------------------------------------------------------------------------------


@pytest.fixture
def some(tmp_path):
    project = make_project(tmp_path / "project")
    project.write_spec(space={"start": {"uniform": [1, 2]}}, sampler={"kind": "random", "trials": 150}, seeds=1)
    plan = write_the_plan(project)
    fill_run_directory(project.sweep, plan.trials[:140])
    return project


def both(project):
    plan = project.plan()
    return read_statuses_quickly(project.sweep, plan), read_statuses(project.sweep, plan)


def test_the_index_says_what_the_journals_say(some):
    for _ in range(3):
        quick, slow = both(some)
        assert quick == slow
        assert some.sweep.status_index.is_file()
    fill_shard_again = some.trials()[140:]
    fill_rest(some, fill_shard_again)
    quick, slow = both(some)
    assert quick == slow


def fill_rest(project, trials):
    other = SweepDir(project.root / "other")
    other.trials_dir.mkdir(parents=True)
    fill_run_directory(other, trials)
    for trial in trials:
        other.trial(trial).path.rename(project.sweep.trial(trial).path)


def test_a_trial_that_was_deleted_or_begun_again_is_not_believed_to_be_done(some):
    both(some)
    first, second = some.trials()[:2]
    for trial in (first, second):
        some.sweep.trial(trial).path.rename(some.root / trial.id)
    some.sweep.trial(second).attempt(1).path.mkdir(parents=True)
    quick, slow = both(some)
    assert quick == slow
    assert [status.state.state for status in quick[:2]] == [State.WAITING, State.INTERRUPTED]
    shutil.rmtree(some.sweep.trials_dir)
    quick, slow = both(some)
    assert quick == slow


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"format":1}', b'{"format":2,"trials":{}}', b"\0" * 99]
)
def test_an_index_that_is_damaged_or_foreign_is_ignored(some, content):
    some.sweep.status_index.write_bytes(content)
    quick, slow = both(some)
    assert quick == slow


def test_entries_that_make_no_sense_are_ignored(some):
    both(some)
    index = json.loads(some.sweep.status_index.read_text())
    for k, trial_id in enumerate(index["trials"]):
        index["trials"][trial_id] = [None, [], {}, "x", [index["trials"][trial_id][0]], 7][k % 6]
    some.sweep.status_index.write_text(json.dumps(index))
    quick, slow = both(some)
    assert quick == slow


def test_a_run_directory_that_cannot_be_written_is_read_all_the_same(some):
    shutil.rmtree(some.sweep.results_dir)
    some.sweep.results_dir.write_text("not a folder")
    quick, slow = both(some)
    assert quick == slow
    some.sweep.results_dir.unlink()
    os.mkfifo(some.sweep.results_dir)
    assert both(some)[0] == slow


def test_deciding_does_not_use_the_index(some):
    """A forged entry makes `status` wrong at most; it never keeps a trial from being run."""
    both(some)
    index = json.loads(some.sweep.status_index.read_text())
    some_entry = next(iter(index["trials"].values()))
    waiting = some.trials()[145]
    some.sweep.trial(waiting).path.mkdir()
    index["trials"][waiting.id] = [os.stat(some.sweep.trial(waiting).path).st_ino, *some_entry[1:]]
    some.sweep.status_index.write_text(json.dumps(index))
    said = some.run("sweep", "sweep.yaml", "--dry-run").out
    assert "to start        10" in said
    assert StateRule(some.sweep, some.plan())(waiting.id, []).state is State.WAITING
