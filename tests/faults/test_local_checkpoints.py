"""Checkpoints that rot between two attempts (P16), and two workers at one trial (fencing)."""

from __future__ import annotations

import json
import random
import signal

import pytest

from dlcluster.files import append_json_line
from tests.support import (
    check_oracle,
    end_of,
    expected_history,
    family,
    processes_with,
    run_worker,
    start_worker,
    submit,
    wait_for_step,
    wait_until,
)

FIXED = {"steps": 10, "every": 2, "fault": "hang", "at": 7}


def interrupted_trial(project):
    """A trial with checkpoints of the steps 4 and 6 that hung at step 7, where its worker was killed."""
    project.write_spec(space={"start": [1.0]}, fixed=FIXED)
    worker = start_worker(project, submit(project))
    (trial,) = project.trials()
    wait_until(lambda: project.sweep.trial(trial).checkpoint_file(6, ".json").exists(), "the last checkpoint")
    wait_until(lambda: project.rows(trial, 1)[-1]["kind"] == "checkpoint", "its record")
    worker.kill()
    worker.communicate()
    return trial, project.sweep.trial(trial)


def go_on(project):
    """One more attempt, of a trial that no longer hangs."""
    text = (project.root / "counter.py").read_text()
    (project.root / "counter.py").write_text(text.replace("if fault and step == at:", "if False:"))
    run_worker(project, submit(project))
    (trial,) = project.trials()
    assert project.ends(trial) == ["", "completed"]
    assert project.history(trial) == expected_history(1.0, 10)
    check_oracle(project)
    rows = project.rows(trial, 2)
    (resumed,) = [row["step"] for row in rows if row["kind"] == "resume"]
    return resumed, [row["message"] for row in rows if row["kind"] == "note"]


def path_of(folder, step, suffix):
    """Of the manifest, or of the file that it names."""
    manifest = folder.checkpoint_file(step, ".json")
    return manifest if suffix == ".json" else manifest.with_name(json.loads(manifest.read_text())["file"])


def flip_a_byte(file, rng):
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    print(f"{file.name}: byte {at}")
    file.write_bytes(data)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("suffix", [".state.json", ".json"])
def test_a_flipped_byte_costs_one_checkpoint_interval_and_is_noted(project, suffix, seed):
    _trial, folder = interrupted_trial(project)
    data = path_of(folder, 6, ".state.json")
    flip_a_byte(path_of(folder, 6, suffix), random.Random(seed))
    resumed, notes = go_on(project)
    assert resumed == 4
    (note,) = notes
    assert note.startswith("checkpoint step-00000006.json: ")
    assert "moved to step-00000006.json.corrupt-1" in note
    assert data.with_name(f"{data.name}.corrupt-1").exists()


@pytest.mark.parametrize(
    ("damage", "expected", "n_notes"),
    [
        (lambda folder: folder.checkpoint_file(6, ".json").unlink(), 4, 0),
        (lambda folder: folder.checkpoint_file(6, ".json").write_text(""), 4, 1),
        (lambda folder: folder.checkpoint_file(6, ".json").write_text('{"file": "step-00000006.state.json"}'), 4, 1),
        (lambda folder: path_of(folder, 6, ".state.json").unlink(), 4, 1),
        (lambda folder: path_of(folder, 6, ".state.json").write_text("{}"), 4, 1),
        (lambda folder: [path_of(folder, n, ".state.json").write_text("") for n in (4, 6)], 0, 2),
        (lambda folder: [folder.checkpoint_file(n, ".json").write_text("") for n in (4, 6)], 0, 2),
        (lambda folder: [path.unlink() for path in folder.checkpoints.iterdir()], 0, 0),
    ],
    ids=[
        "no manifest",
        "empty manifest",
        "short manifest",
        "no file",
        "other file",
        "both files",
        "both manifests",
        "nothing",
    ],
)
def test_what_does_not_verify_is_not_used(project, damage, expected, n_notes):
    _trial, folder = interrupted_trial(project)
    damage(folder)
    resumed, notes = go_on(project)
    assert (resumed, len(notes)) == (expected, n_notes)
    assert expected > 0 or project.run("logs", "count", project.trials()[0].id).out == "starting at 0\n"


# -- two workers at one trial -------------------------------------------------------------------------------------


def take_over(project, trial):
    """What another worker does that believes the first one to be dead."""
    attempt = project.sweep.trial(trial).attempt(2)
    attempt.path.mkdir()
    append_json_line(attempt.journal, {"kind": "start", "time": 0.0, "attempt": 2, "host": "elsewhere"})


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("deaf", [False, True])
def test_a_worker_whose_trial_was_taken_over_stops_it_and_writes_not_another_byte(project, deaf):
    fixed = {"steps": 10_000, "every": 0, "pause": 0.01}
    if deaf:
        fixed.update(deaf=True, pause=3600.0, ignores_sigterm=True)
    project.write_spec(space={"start": [1.0]}, fixed=fixed, launch={"parallel": 1})
    worker = start_worker(project, submit(project))
    (trial,) = project.trials()
    log = project.sweep.trial(trial).attempt(1).log
    wait_until(lambda: log.exists() and "starting" in log.read_text(), "the trial")
    take_over(project, trial)
    wait_until(lambda: not family(project)["child"], "the end of the trial", 3)
    before = content(project.sweep.trial(trial).path)
    done = end_of(worker)
    assert done.code == 0, done
    assert content(project.sweep.trial(trial).path) == before
    assert project.ends(trial) == ["", ""]
    assert not processes_with(str(project.root))


def test_a_fenced_trial_saves_nothing(project):
    """It notices by itself, before its supervisor does, when it saves."""
    project.write_spec(space={"start": [1.0]}, fixed={"steps": 10_000, "every": 1, "pause": 0.02})
    worker = start_worker(project, submit(project))
    wait_for_step(project, 3)
    (trial,) = project.trials()
    take_over(project, trial)
    checkpoints = project.sweep.trial(trial).checkpoints
    worker.send_signal(signal.SIGSTOP)  # the supervisor looks away
    try:
        wait_until(lambda: not family(project)["child"], "the trial to end by itself", 5)
        before = content(checkpoints)
    finally:
        worker.send_signal(signal.SIGCONT)
    assert end_of(worker).code == 0
    assert content(checkpoints) == before
    assert project.ends(trial) == ["", ""]


def test_an_end_that_comes_after_the_take_over_is_not_recorded(project):
    """The trial ends while its supervisor is stopped; in between somebody else has begun."""
    project.write_spec(space={"start": [1.0]}, fixed={"steps": 20, "every": 0, "pause": 0.05})
    worker = start_worker(project, submit(project))
    wait_for_step(project, 2)
    (trial,) = project.trials()
    worker.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: not family(project)["child"], "the end of the trial", 10)
        take_over(project, trial)
    finally:
        worker.send_signal(signal.SIGCONT)
    assert end_of(worker).code == 0
    assert project.ends(trial) == ["", ""]


def test_two_workers_of_one_submission_never_share_a_trial(project):
    project.write_spec(space={"start": [float(i) for i in range(1, 25)]}, fixed={"steps": 3, "every": 0})
    submission = submit(project)
    workers = [start_worker(project, submission, n) for n in range(3)]
    assert [end_of(worker).code for worker in workers] == [0, 0, 0]
    check_oracle(project)
    assert all(project.ends(trial) == ["completed"] for trial in project.trials())


def test_two_commands_at_once_run_every_trial_once(project):
    project.write_spec(space={"start": [float(i) for i in range(1, 7)]}, fixed={"steps": 10, "every": 2, "pause": 0.02})
    commands = [project.start("sweep", "sweep.yaml") for _ in range(2)]
    assert [end_of(command).code for command in commands] == [0, 0]
    check_oracle(project)
    assert all(project.ends(trial) == ["completed"] for trial in project.trials())
