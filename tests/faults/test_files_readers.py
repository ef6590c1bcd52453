"""F10, F12 and bad places: many readers at once, clocks that lie, folders that cannot or must not be used."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from dlcluster.errors import PreconditionError, WorkerExit
from dlcluster.files import write_text
from dlcluster.launch.preconditions import check_place
from tests.faults.disks import needs_root, small_disk
from tests.faults.workers import finish, run_worker, start_worker, submit_only
from tests.support import REPOSITORY, Finished, check_files, expected_history, make_project, processes_with, wait_until

needs_faketime = pytest.mark.skipif(shutil.which("faketime") is None, reason="lying clocks need faketime")
NOBODY = 65534

# -- F10: readers and writers at once -------------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from tests.results.builder import Sweep
made = Sweep(Path(sys.argv[1]), params=[{"lr": 0.1 * k} for k in range(1, 11)], seeds=range(int(sys.argv[2])))
mine = range(int(sys.argv[3]), len(made.trials), int(sys.argv[2]))
end = time.monotonic() + float(sys.argv[4])
attempts = [made.attempt(k) for k in mine]
n = 0
while time.monotonic() < end and n < 3000:
    n += 1
    for attempt in attempts:
        attempt.log(n, val_acc=n / (n + 1), loss=1 / n)
    time.sleep(0.02)
for attempt in attempts:
    attempt.end()
"""
READER = """
import sys, time
from pathlib import Path
from dlcluster.queries import aggregate_sweep
from dlcluster.run_dir import SweepDir
sweep, done, n = SweepDir(Path(sys.argv[1])), Path(sys.argv[2]), 0
highest = {}
while True:
    last = done.exists()
    results = aggregate_sweep(sweep)[1]
    n += 1
    assert not results.trials["n_bad_lines"].any(), "a half-written line was taken for damage"
    for trial, rows in results.metrics.groupby("trial"):
        steps = rows["step"].tolist()
        assert steps == list(range(1, len(steps) + 1)), "a hole"
        assert len(steps) >= highest.get(trial, 0), "went backwards"
        highest[trial] = len(steps)
    if last:
        break
Path(sys.argv[3]).write_text(results.trials.to_csv(index=False) + results.metrics.to_csv(index=False))
print(n)
"""


@pytest.mark.parametrize(
    ("n_readers", "n_writers", "seconds"), [(3, 6, 3), pytest.param(8, 50, 60, marks=pytest.mark.long)]
)
def test_readers_and_writers_at_the_same_time_end_with_the_same_bytes(tmp_path, n_readers, n_writers, seconds):
    from tests.results.builder import Sweep

    run, done = tmp_path / "run", tmp_path / "done"
    Sweep(run, params=[{"lr": 0.1 * k} for k in range(1, 11)], seeds=range(n_writers))

    def start(program, *arguments):
        return subprocess.Popen(
            [sys.executable, "-c", program, str(run), *map(str, arguments)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    writers = [start(WRITER, n_writers, k, seconds) for k in range(n_writers)]
    readers = [start(READER, done, tmp_path / f"out-{k}") for k in range(n_readers)]
    for writer in writers:
        _, err = writer.communicate(timeout=seconds * 5 + 120)
        assert writer.returncode == 0, err
    done.touch()
    n_passes = []
    for reader in readers:
        out, err = reader.communicate(timeout=120 + seconds)
        assert reader.returncode == 0, err
        n_passes.append(int(out))
    outputs = {(tmp_path / f"out-{k}").read_bytes() for k in range(n_readers)}
    assert len(outputs) == 1
    assert min(n_passes) >= 2
    check_files(run)
    shutil.rmtree(run / "results")
    anew = start(READER, done, tmp_path / "anew")
    assert anew.wait() == 0
    anew.communicate()
    assert (tmp_path / "anew").read_bytes() in outputs


# -- F12: clocks ----------------------------------------------------------------------------------------------------


def check_times(project):
    """Everything but the times is what it always is; durations are not negative."""
    for trial in project.trials():
        assert project.history(trial) == expected_history(trial.params["start"], project.plan().spec["fixed"]["steps"])
        assert project.ends(trial)[-1] == "completed"
        for number in range(1, len(project.ends(trial)) + 1):
            ends = [row for row in project.rows(trial, number) if row["kind"] == "end"]
            assert all(end["seconds"] >= 0 for end in ends)
    for trial in project.status()["trials"]:
        assert trial["state"] == "completed"
        assert trial["seconds"] >= 0
    rows = json.loads(project.run("table", "count", "--format", "json").out)
    assert rows
    check_files(project.sweep.path)
    wait_until(lambda: not processes_with(str(project.root)), "the end of all processes", 10)


@needs_faketime
@pytest.mark.parametrize(
    "offset", ["-24h", pytest.param("+24h", marks=pytest.mark.long), pytest.param("-1h", marks=pytest.mark.long), "+1h"]
)
def test_a_worker_whose_clock_is_wrong_changes_the_displayed_times_only(project, offset):
    """The first worker's clock is wrong; it is interrupted, and another with the right time goes on."""
    project.write_spec(fixed={"steps": 60, "every": 2, "pause": 0.02})
    submission = submit_only(project)
    wrong = start_worker(project, submission, 1, before=("faketime", "-f", offset))
    first, second = project.trials()
    wait_until(lambda: len(project.history(first)) > 4, "some metrics")
    os.kill(project.rows(first, 1)[0]["pid"], signal.SIGTERM)
    assert finish(wrong).code == WorkerExit.INTERRUPTED
    assert project.status()["counts"] == {"interrupted": 1, "waiting": 1}
    assert run_worker(project, submission, 2).code == 0
    begun = [project.rows(first, attempt)[0]["time"] for attempt in (1, 2)]
    assert abs(begun[1] - begun[0]) > 3000, "the clock was right: the test would prove nothing"
    assert abs(project.rows(second, 1)[0]["time"] - begun[1]) < 60
    check_times(project)


JUMPING = """
import time

def train(run, *, start=1.0, steps=6, every=2, pause=0.0):
    state = run.resume()
    real, jumps = time.time, [0.0]
    time.time = lambda: real() + jumps[0]          # what NTP, or somebody with `date -s`, does to a process
    for step in range(state["step"] + 1 if state else 1, steps + 1):
        jumps[0] = [0.0, -86400.0, 3600.0, -3600.0, 86400.0][step % 5]
        run.log(loss=start / step)
        if step % every == 0:
            run.save({"step": step})
"""


def test_a_clock_that_jumps_during_the_run_leaves_the_order_of_the_steps(project):
    (project.root / "counter.py").write_text(JUMPING)
    project.write_spec(fixed={"steps": 12, "every": 5})
    project.run_sweep()
    check_times(project)
    (results,) = [aggregated(project)]
    for _trial, rows in results.metrics.groupby("trial"):
        assert rows["step"].tolist() == list(range(1, 13))
    assert (results.trials["seconds"] >= 0).all()


def aggregated(project):
    from dlcluster.queries import aggregate_sweep

    return aggregate_sweep(project.sweep)[1]


@needs_faketime
def test_a_submission_from_a_machine_whose_clock_is_behind_is_still_the_newest(project):
    project.run_sweep()
    project.env["FAKETIME_DONT_RESET"] = "1"
    command = [sys.executable, "-W", "ignore", "-m", "dlcluster", "sweep", "sweep.yaml", "--set", "seeds=2"]
    done = subprocess.run(
        ["faketime", "-f", "-24h", *command],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = project.sweep.submissions()
    assert len(first.read_intent()["trials"]) == len(second.read_intent()["trials"]) == 2
    assert second.read_intent()["time"] < first.read_intent()["time"] - 80_000
    check_times(project)


# -- rows 44 to 48, 65 to 67: places and names ----------------------------------------------------------------------


needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="giving up root's powers needs root and setpriv"
)


def without_powers(project, *arguments):
    """A command that permissions apply to, also for root: files of others are what their modes say."""
    done = subprocess.run(
        [
            "setpriv",
            "--bounding-set=-all",
            "--inh-caps=-all",
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "dlcluster",
            *arguments,
        ],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@needs_setpriv
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_folder_without_permission_is_refused_by_name(project, mode):
    project.runs.mkdir()
    project.runs.chmod(mode)
    os.chown(project.runs, NOBODY, NOBODY)
    refused = without_powers(project, "sweep", "sweep.yaml", "--no-import-check")
    assert refused.code == 3, refused
    assert re.search("no permission to write|Permission denied|not readable", refused.err)
    assert project.runs.name in refused.err
    assert "Traceback" not in refused.err
    assert list(project.runs.iterdir()) == []


@needs_root
def test_a_run_directory_of_somebody_else_is_refused(project):
    project.run_sweep()
    os.chown(project.sweep.path, NOBODY, NOBODY)
    refused = project.run_sweep("--set", "seeds=2", code=3)
    assert "belongs to another user (uid 65534)" in refused.err
    assert project.status()["counts"] == {"completed": 2}


@needs_root
def test_a_read_only_file_system_is_refused_by_name_and_can_be_read(project, tmp_path):
    with small_disk(project.runs, "100m"):
        project.run_sweep()
        subprocess.run(["mount", "-o", "remount,ro", project.runs], check=True)
        refused = project.run_sweep("--set", "seeds=2", code=3)
        assert "the file system is read-only" in refused.err
        assert str(project.runs) in refused.err
        assert project.status()["counts"] == {"completed": 2}
        assert project.run("table", "count", "--format", "csv").out.count("\n") >= 3
        assert project.run_sweep().out.startswith("count: nothing is missing")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("runs%j", "'%' is not allowed"),
        ("runs\nx", "is not allowed in the path"),
        ("runs\tx", "is not allowed in the path"),
        ("x" * 180, "at most 200 are allowed"),
    ],
)
def test_a_path_that_schedulers_choke_on_is_refused(project, name, expected):
    before = sorted(project.root.iterdir())
    refused = project.run_sweep("--runs-dir", name, code=3)
    assert expected in refused.err
    assert "Traceback" not in refused.err
    assert sorted(project.root.iterdir()) == before


def test_a_path_component_that_no_file_system_takes_is_an_error_with_its_name(project):
    refused = project.run_sweep("--runs-dir", "x" * 300, code=3)
    assert "Traceback" not in refused.err
    assert "xxxx" in refused.err


def test_a_run_directory_behind_a_link_is_resolved_once(project):
    real = project.root / "elsewhere"
    real.mkdir()
    project.runs.symlink_to(real)
    project.run_sweep()
    (intent,) = [submission.read_intent() for submission in project.sweep.submissions()]
    assert intent["rules"]["code"].startswith(str(real / "count" / "code"))
    assert project.status()["counts"] == {"completed": 2}


def test_a_run_directory_that_anybody_may_write_in_is_refused(project):
    project.run_sweep()
    project.sweep.path.chmod(0o777)
    refused = project.run_sweep("--set", "seeds=2", code=3)
    assert "everybody may write in it" in refused.err
    assert "chmod o-w" in refused.err


def test_a_file_in_the_way_is_refused(project):
    project.runs.write_text("")
    refused = project.run_sweep(code=3)
    assert "is not a folder" in refused.err
    assert "Traceback" not in refused.err


def test_numbers_are_given_when_there_is_too_little_space(tmp_path):
    with pytest.raises(PreconditionError, match=r"\d+ MiB free, at least 1073741824 MiB are needed"):
        check_place(tmp_path / "x" / "y", 1 << 50, 1)
    space = os.statvfs(tmp_path)
    if space.f_files:
        with pytest.raises(PreconditionError, match=rf"\d+ inodes free, at least {1 << 60} are needed"):
            check_place(tmp_path / "x", 1, 1 << 60)
    check_place(tmp_path / "x" / "y", 1, 1)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["../../x", "t*", "0001;rm", "", "$(id)", "\n"])
@pytest.mark.parametrize(
    "command", [("logs", "count", "{}"), ("resume", "count", "--trial", "{}"), ("cancel", "count", "--trial", "{}")]
)
def test_a_trial_id_from_the_command_line_is_never_a_path(finished, name, command):
    refused = finished.run(*[part.format(name) for part in command], code=2)
    assert "no such trial id" in refused.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    made = make_project(tmp_path_factory.mktemp("finished") / "project")
    made.run_sweep(code=None)
    return made


def test_foreign_files_fifos_and_loops_are_skipped_with_a_warning(project):
    project.run_sweep()
    first, second = project.trials()
    folder = project.sweep.trial(first)
    os.mkfifo(folder.attempts_dir / "fifo")
    (folder.attempts_dir / "loop").symlink_to(folder.attempts_dir)
    (project.sweep.trials_dir / "notes.txt").write_text("mine")
    (project.sweep.trials_dir / first.shard / "loop").symlink_to("loop")
    os.mkfifo(project.sweep.workers_dir / "fifo")
    (project.sweep.submissions_dir / "notes.txt").write_text("mine")
    assert project.status()["counts"] == {"completed": 2}
    table = project.run("table", "count", "--format", "csv")
    assert "notes.txt" in table.err or "foreign" in table.err or "not ours" in table.err
    journal = project.sweep.trial(second).attempt(1).journal
    journal.unlink()
    os.mkfifo(journal)
    began = time.monotonic()
    assert project.status()["counts"] == {"completed": 1, "unreadable": 1}
    assert project.run("table", "count", "--format", "csv").code == 0
    assert "nothing is missing" in project.run_sweep().out
    assert time.monotonic() - began < 30


@needs_setpriv
def test_what_we_may_not_read_is_shown_as_such(project):
    project.run_sweep()
    first, second = project.trials()
    os.chown(project.sweep.trial(first).attempt(1).journal, NOBODY, NOBODY)
    os.chown(project.sweep.trial(second).attempts_dir, NOBODY, NOBODY)
    shown = without_powers(project, "status", "count", "--json")
    assert shown.code == 0, shown
    assert json.loads(shown.out)["counts"] == {"unreadable": 2}
    assert "Permission denied" in shown.out


def test_a_run_directory_that_vanishes_under_a_reader_is_gone_not_a_traceback(project):
    project.run_sweep()
    shutil.rmtree(project.sweep.trials_dir)
    assert project.status()["counts"] == {"waiting": 2}
    assert project.run("table", "count").code == 0
    shutil.rmtree(project.sweep.path)
    for command in ("status", "table"):
        refused = project.run(command, "count", code=2)
        assert "no sweep at" in refused.err


def test_a_run_directory_of_a_newer_version_is_shown_and_not_written(project):
    project.run_sweep()
    lines = project.sweep.plan_file.read_text().splitlines(keepends=True)
    header = {**json.loads(lines[0]), "format": 99}
    write_text(project.sweep.plan_file, json.dumps(header) + "\n" + "".join(lines[1:]))
    before = project.sweep.plan_file.read_bytes()
    for command in (("status", "count"), ("sweep", "sweep.yaml", "--set", "seeds=2"), ("resume", "count")):
        refused = project.run(*command, code=2)
        assert "newer dlcluster (format 99" in refused.err
        assert "'count', 2 trials" in refused.err
    assert project.sweep.plan_file.read_bytes() == before


def test_a_damaged_plan_is_named_and_can_be_made_anew(project):
    project.run_sweep()
    whole = project.sweep.plan_file.read_bytes()
    project.sweep.plan_file.write_bytes(whole[:-30])
    for command in (("status", "count"), ("table", "count"), ("sweep", "sweep.yaml")):
        refused = project.run(*command, code=6)
        assert f"{project.sweep.plan_file}: damaged: 1 of 2 trials are readable" in refused.err
        assert "Traceback" not in refused.err
    project.sweep.plan_file.unlink()
    assert "nothing is missing (2 completed)" in project.run_sweep().out
