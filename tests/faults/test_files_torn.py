"""F1 and F2: files that end in the middle of a line, have zeros in them, or lose their writer. Everything before holds."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dlcluster.errors import DamagedError, UsageError
from dlcluster.files import append_json_line, read_json, read_json_lines
from dlcluster.journal import State, merge_attempts
from dlcluster.launch.status import StateRule, hold_message, read_status, read_statuses
from dlcluster.owners import Owners
from dlcluster.run_dir import SweepDir
from dlcluster.worker import checkpoints
from tests.support import REPOSITORY, expected_history, history_of, make_project, wait_until

PAGE = 4096
REALISTIC = {
    "fixed": {"steps": 8, "every": 2, "pause": 0.0, "fault": "sigkill", "at": 6},
    "space": {"start": [1.0]},
    "launch": {"parallel": 1, "max_attempts": 3},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run directory as commands and workers leave it: three attempts, checkpoints, a failure, two submissions."""
    project = make_project(tmp_path_factory.mktemp("torn") / "project")
    project.write_spec(**REALISTIC)
    project.run_sweep(code=None)
    project.run("resume", "count", "--failed", code=None)
    return project.sweep.path


@pytest.fixture
def copy(finished, tmp_path):
    """A copy whose files a test may cut."""
    shutil.copytree(finished, tmp_path / "count")
    return SweepDir(tmp_path / "count")


def the_trial(sweep):
    return sweep.read_plan().trials[0]


def damaged_versions(whole, cuts):
    """The file cut at each offset: as it is, with zeros in place of the rest, and with a page of zeros before the rest."""
    for cut in cuts:
        yield cut, "cut", whole[:cut]
        yield cut, "zeros", whole[:cut] + b"\0" * min(len(whole) - cut, PAGE)
        yield cut, "hole", whole[:cut] + b"\0" * min(len(whole) - cut, PAGE) + whole[cut + PAGE :]


def files_of(sweep, pattern):
    found = sorted(sweep.path.glob(pattern))
    assert found, pattern
    return found


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_journal_cut_anywhere_keeps_what_was_before_and_takes_the_next_record(copy, full):
    sweep, trial = copy, the_trial(copy)
    plan = sweep.read_plan()
    for journal in files_of(sweep, "trials/*/*/attempts/*/journal.jsonl"):
        whole = journal.read_bytes()
        intact = read_json_lines(journal)[0]
        for cut, kind, data in damaged_versions(whole, cuts_of(whole, full)):
            journal.write_bytes(data)
            n_before = whole[:cut].count(b"\n")
            rows, damage, _ = read_json_lines(journal)
            assert rows[:n_before] == intact[:n_before], (cut, kind)
            assert damage.n_bad_lines <= 1
            status = read_status(sweep, trial, StateRule(sweep, plan))
            assert status.state.state in State
            history_of(sweep.trial(trial))
            append_json_line(journal, {"kind": "note", "message": "next"})
            rows, damage, _ = read_json_lines(journal)
            assert rows[:n_before] == intact[:n_before], (cut, kind)
            assert rows[-1]["message"] == "next", (cut, kind)
            assert damage.n_bad_lines <= 1, (cut, kind)
        journal.write_bytes(whole)


def cuts_of(whole, full):
    if full or len(whole) < 400:
        return range(len(whole) + 1)
    ends = {i + d for i, byte in enumerate(whole) if byte == 10 for d in (-1, 0, 1)}
    return sorted({*range(0, len(whole) + 1, max(1, len(whole) // 200)), *(ends & set(range(len(whole) + 1)))})


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.long)])
def test_tables_read_a_cut_journal_like_the_reader_of_one_trial(copy, full):
    """The aggregator parses many lines at once; what it counts must be what `history` counts."""
    from dlcluster.results.aggregate import aggregate

    sweep, trial = copy, the_trial(copy)
    plan = sweep.read_plan()
    journals = files_of(sweep, "trials/*/*/attempts/*/journal.jsonl")
    for journal in journals if full else journals[-1:]:
        whole = journal.read_bytes()
        cuts = cuts_of(whole, full)
        for cut, kind, data in damaged_versions(whole, cuts if full else list(cuts)[::6]):
            journal.write_bytes(data)
            results = aggregate(sweep, StateRule(sweep, plan), use_index=False)
            history = history_of(sweep.trial(trial))
            assert results.metrics["step"].tolist() == [row["step"] for row in history.metrics], (cut, kind)
            assert results.metrics["loss"].tolist() == [row["metrics"]["loss"] for row in history.metrics], (cut, kind)
            n_bad = sum(damage.n_bad_lines for damage in history.damages)
            assert results.trials["n_bad_lines"].tolist() == [n_bad], (cut, kind)
        journal.write_bytes(whole)


def test_files_that_are_replaced_as_a_whole_are_whole_or_not_there(copy):
    """Heartbeats, intents, manifests, provenance, the hold marker: cut anywhere, no reader raises or invents anything."""
    sweep = copy
    trial = the_trial(sweep)
    (sweep.workers()[0].marker("hold")).write_text("because\n")
    readers = {
        "workers/*/heartbeat.json": lambda path: Owners(sweep).alive_beats(),
        "workers/*/hold": lambda path: hold_message(sweep),
        "submissions/*/intent.json": lambda path: [s.read_intent() for s in sweep.submissions()],
        "provenance.json": read_json,
        "trials/*/*/checkpoints/*.json": lambda path: checkpoints.manifests(sweep.trial(trial)),
    }
    for pattern, read in readers.items():
        for path in files_of(sweep, pattern):
            whole = path.read_bytes()
            for cut, _kind, data in damaged_versions(whole, cuts_of(whole, full=False)):
                path.write_bytes(data)
                read(path)
                if path.suffix == ".json":
                    assert read_json(path) in (None, json.loads(whole)), (path, cut)
                read_statuses(sweep, sweep.read_plan())
            path.write_bytes(whole)


def test_a_plan_cut_anywhere_is_named_as_damaged_and_never_taken_for_a_shorter_one(copy):
    whole = copy.plan_file.read_bytes()
    for cut, kind, data in damaged_versions(whole, range(len(whole))):
        if data == whole:
            continue
        copy.plan_file.write_bytes(data)
        with pytest.raises(DamagedError) as raised:
            copy.read_plan()
        assert str(copy.plan_file) in str(raised.value), (cut, kind)
    copy.plan_file.unlink()
    with pytest.raises(UsageError):
        copy.read_plan()


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_checkpoint_cut_anywhere_is_set_aside_and_the_one_before_is_loaded(copy, tmp_path, full):
    trial = copy.trial(the_trial(copy))
    newest, older = checkpoints.manifests(trial)[:2]
    expected = checkpoints._load(older)[0]
    backup = tmp_path / "checkpoints"
    shutil.copytree(trial.checkpoints, backup)
    for file in (newest, trial.checkpoints / json.loads(newest.read_text())["file"]):
        whole = file.read_bytes()
        for cut, kind, data in damaged_versions(whole, cuts_of(whole, full)):
            if data.strip(b"\0\n") == whole.strip():
                continue
            file.write_bytes(data)
            notes = []
            found = checkpoints.load_newest(trial, notes.append)
            assert found is not None, (cut, kind)
            assert (found[0], found[0].step) == (expected, expected.step), (cut, kind)
            assert len(notes) == 1
            shutil.rmtree(trial.checkpoints)
            shutil.copytree(backup, trial.checkpoints)


def test_predictions_cut_anywhere_never_stop_a_reader(tmp_path):
    """They are compact arrays: cut ones are missing ones, with a reason."""
    from dlcluster.results import predictions as reading
    from tests.results.builder import Sweep

    made = Sweep(tmp_path / "x", params=({"lr": 0.1},), seeds=(0,))
    made.complete(0, [0.5, 0.75])
    made.predictions(0, 2, correct=[True, False, True])
    file = made.trial_dir(0).predictions_file("validation", 2)
    whole = file.read_bytes()
    assert reading.read_predictions(file).values.tolist() == [1, 0, 1]
    for cut, _kind, data in damaged_versions(whole, cuts_of(whole, full=False)):
        if data != whole:
            file.write_bytes(data)
            assert reading.read_predictions(file) is None, cut


def test_an_index_cut_anywhere_is_made_anew(copy):
    from dlcluster.results.aggregate import aggregate

    plan = copy.read_plan()
    intact = aggregate(copy, StateRule(copy, plan))
    expected = intact.metrics.to_csv(index=False), intact.trials.to_csv(index=False)
    indexes = [path for path in copy.results_dir.iterdir() if path.is_file()]
    assert indexes
    for path in indexes:
        whole = path.read_bytes()
        for cut in [*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1]:
            path.write_bytes(whole[:cut])
            found = aggregate(copy, StateRule(copy, plan))
            assert (found.metrics.to_csv(index=False), found.trials.to_csv(index=False)) == expected, cut
            path.write_bytes(whole)


def test_a_run_directory_after_a_power_cut_is_finished_by_the_same_command(project):
    """The journal ends in zeros and half a line, the newest checkpoint is torn: a worker goes on from the one before."""
    project.write_spec(space={"start": [1.0]}, fixed={"steps": 8, "every": 3, "fault": "sigkill", "at": 8})
    project.run_sweep("--set", "launch.max_attempts=1", code=None)
    (trial,) = project.trials()
    folder = project.sweep.trial(trial)
    for attempt in folder.attempts()[1:]:
        shutil.rmtree(attempt.path)
    journal = folder.attempt(1).journal
    lines = [line for line in journal.read_bytes().splitlines(keepends=True) if b'"kind":"end"' not in line]
    journal.write_bytes(b"".join(lines)[:-20] + b"\0" * 100)
    newest = checkpoints.manifests(folder)[0]
    assert json.loads(newest.read_text())["step"] == 6
    (folder.checkpoints / json.loads(newest.read_text())["file"]).write_bytes(b"")
    text = (project.root / "counter.py").read_text()
    (project.root / "counter.py").write_text(text.replace('if kind == "sigkill":', 'if kind == "never":'))
    project.run_sweep("--set", "launch.max_attempts=9")
    assert project.ends(trial)[-1] == "completed"
    assert project.history(trial) == expected_history(1.0, 8)
    rows = project.rows(trial, 2)
    assert [row["step"] for row in rows if row["kind"] == "resume"] == [3]
    assert any("moved to" in row.get("message", "") for row in rows if row["kind"] == "note")


# -- F2: the writer is killed ---------------------------------------------------------------------------------------

WRITER = """
import sys
from dlcluster.files import AppendFile
file = AppendFile(__import__("pathlib").Path(sys.argv[1]))
first, size = int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
while True:
    file.write_row({"n": first, "text": "x" * size})
    first += 1
    print(first, flush=True)          # only what the caller has been told of counts as written
"""


@pytest.mark.parametrize("n_rounds", [30, pytest.param(500, marks=pytest.mark.long)])
def test_a_writer_killed_at_any_moment_loses_nothing_it_had_confirmed(tmp_path, n_rounds):
    path, draw, n_confirmed = tmp_path / "journal.jsonl", random.Random(1), 0
    for round_number in range(n_rounds):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(n_confirmed), str(draw.choice([10, 3000, 200_000]))],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        assert writer.stdout.readline() == b"ready\n"
        try:
            for _ in range(draw.randrange(40)):
                n_confirmed = int(writer.stdout.readline())
        finally:
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().splitlines()
            writer.wait()
            writer.stdout.close()
        if rest and rest[-1].strip().isdigit():
            n_confirmed = int(rest[-1])
        if round_number % 10 == 0 or round_number == n_rounds - 1:
            rows, damage, _ = read_json_lines(path)
            assert {row["n"] for row in rows} >= set(range(n_confirmed))
            assert damage.n_bad_lines <= round_number + 1
            if path.stat().st_size > 50_000_000:
                path.unlink()
                n_confirmed = 0


def test_a_writer_killed_within_a_write_leaves_one_torn_line_at_most(tmp_path):
    """A line larger than a pipe or a page is not written at once by the kernel: cut it where a kill could have."""
    path = tmp_path / "journal.jsonl"
    for n in range(20):
        append_json_line(path, {"n": n})
        with open(path, "ab") as file:
            file.write(b'{"n":' + b"9" * (n * 300))
    append_json_line(path, {"n": 20})
    rows, damage, _ = read_json_lines(path)
    assert [row["n"] for row in rows] == list(range(21))
    assert damage.n_bad_lines == 20
    assert merge_attempts({1: rows}, []).metrics == []


def test_a_trial_whose_worker_is_killed_while_it_writes_goes_on(project):
    project.write_spec(fixed={"steps": 400, "every": 5, "pause": 0.003}, space={"start": [1.0]}, launch={"parallel": 1})
    command = project.start("sweep", "sweep.yaml")
    (trial,) = wait_until(lambda: project.sweep.plan_file.exists() and project.trials(), "the plan")
    draw = random.Random(3)
    for n in range(2):
        attempt = project.sweep.trial(trial).attempt(n + 1)
        start = wait_until(lambda a=attempt: [r for r in a.read()[0] if r["kind"] == "start"], f"attempt {n + 1}")
        goal = draw.randrange(20, 60)
        wait_until(lambda a=attempt, g=goal: len(a.read()[0]) > g, "some records")
        os.kill(start[0]["pid"], signal.SIGKILL)
    out, err = command.communicate(timeout=60)
    assert project.ends(trial)[-1] == "completed", (out, err)
    assert project.history(trial) == expected_history(1.0, 400)
    assert len(project.ends(trial)) == 3
    for attempt in project.sweep.trial(trial).attempts():
        assert attempt.read()[1].n_bad_lines <= 1
    assert Path(project.sweep.path).is_dir()
