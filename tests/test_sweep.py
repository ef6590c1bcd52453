"""The commands a user types, from the outside."""

from __future__ import annotations

import json
import time

import pytest

from tests.support import check_files, check_oracle, expected_history


def test_a_sweep_runs_every_trial_and_leaves_nothing_running(project):
    done = project.run_sweep()
    assert "start" in done.out
    check_oracle(project)
    for trial in project.trials():
        assert project.ends(trial) == ["completed"]


def test_the_same_command_again_says_that_nothing_is_missing(project):
    project.run_sweep()
    began = time.monotonic()
    again = project.run_sweep()
    assert "nothing is missing (2 completed)" in again.out
    assert time.monotonic() - began < 5
    assert all(project.ends(trial) == ["completed"] for trial in project.trials())


def test_nothing_missing_imports_neither_job_nor_pandas(project):
    project.run_sweep()
    (project.root / "counter.py").write_text("raise SystemExit('imported')")
    project.env["PYTHONPROFILEIMPORTTIME"] = "1"
    again = project.run_sweep()
    assert "nothing is missing" in again.out
    assert "pandas" not in again.err
    assert "torch" not in again.err


def test_more_seeds_and_more_trials_top_up(project):
    project.write_spec(space={"start": {"uniform": [1, 2]}}, sampler={"kind": "random", "trials": 2}, seeds=1)
    project.run_sweep()
    first = {trial.id for trial in project.trials()}
    project.run_sweep("--set", "sampler.trials=3", "--set", "seeds=2")
    trials = project.trials()
    assert len(trials) == 6
    assert {trial.id for trial in trials[:2]} == first
    assert all(project.ends(trial) == ["completed"] for trial in trials)


def test_another_sweep_under_the_same_name_is_refused_with_the_differing_keys(project):
    project.run_sweep()
    before = project.sweep.plan_file.read_bytes()
    project.write_spec(fixed={"steps": 7, "every": 2, "pause": 0.0})
    refused = project.run_sweep(code=2)
    assert "fixed.steps: 6 in the run directory, 7 now" in refused.err
    assert "--name" in refused.err
    assert project.sweep.plan_file.read_bytes() == before


def test_a_dry_run_writes_nothing(project):
    said = project.run_sweep("--dry-run")
    assert "2 trials, 2 configs" in said.out
    assert "to start        2" in said.out
    assert not project.runs.exists()


def test_a_parameter_that_the_job_does_not_take_is_refused_before_anything_is_written(project):
    project.write_spec(space={"strat": [1.0, 2.0]})
    refused = project.run_sweep(code=2)
    assert "strat" in refused.err
    assert "start" in refused.err
    assert not project.runs.exists()


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("nowhere", "no module named 'nowhere'"),
        ("counter:trian", "has no function 'trian'; it has: "),
        ("missing.py:train", "no such file: missing.py"),
        ("broken", "broken.py:2"),
        ("raises", r"raises.py:3: RuntimeError: at import"),
        ("leaves", "exited during import"),
        ("counter:signal", "is not a function"),
    ],
)
def test_a_job_that_cannot_be_used_is_named_with_its_place(project, job, expected):
    (project.root / "broken.py").write_text("x = 1\ndef train(run:\n")
    (project.root / "raises.py").write_text("import os\n\nraise RuntimeError('at import')\n")
    (project.root / "leaves.py").write_text("import os\nos._exit(0)\n")
    project.write_spec(job=job)
    refused = project.run_sweep(code=2)
    assert expected in refused.err
    assert "sweep.yaml:1:" in refused.err
    assert not project.runs.exists()


def test_status_json_and_table_formats_agree(project):
    project.run_sweep()
    assert project.status()["counts"] == {"completed": 2}
    rows = json.loads(project.run("table", "count", "--format", "json").out)
    assert rows
    csv = project.run("table", "count", "--format", "csv").out
    assert csv.count("\n") >= 3
    for name in ("markdown", "latex", "terminal"):
        assert project.run("table", "count", "--format", name).out


def test_failed_trials_stay_visible_and_run_again_only_when_asked(project):
    project.write_spec(fixed={"steps": 6, "every": 2, "fault": "raise", "at": 4})
    done = project.run_sweep()
    assert "failed" in done.out
    assert project.status()["counts"] == {"failed": 2}
    assert "nothing is missing" in project.run_sweep().out
    project.run("resume", "count")
    assert all(len(project.ends(trial)) == 1 for trial in project.trials())
    project.run("resume", "count", "--failed")
    assert all(project.ends(trial) == ["failed exception"] * 2 for trial in project.trials())
    project.run_sweep("--fail-on-trial-error", code=1)


def test_logs_show_what_a_trial_printed(project):
    project.run_sweep()
    trial = project.trials()[0]
    assert project.run("logs", "count", trial.id).out == "starting at 0\n"
    assert project.run("logs", "count", trial.id, "-f").out == "starting at 0\n"
    refused = project.run("logs", "count", "../../x", code=2)
    assert "no such trial id" in refused.err


def test_export_writes_trials_and_metrics(project):
    project.run_sweep()
    project.run("export", "count", "trials", "--out", "trials.csv")
    project.run("export", "count", "metrics", "--format", "parquet", "--out", "metrics.parquet")
    assert (project.root / "trials.csv").read_text().count("\n") == 3
    import pandas

    frame = pandas.read_parquet(project.root / "metrics.parquet")
    assert len(frame) == 12


def test_reuse_process_gives_the_same_numbers(project):
    project.write_spec(launch={"parallel": 1, "reuse_process": True})
    project.run_sweep()
    check_oracle(project)
    journals = [project.rows(trial, 1) for trial in project.trials()]
    assert all(rows[-1]["state"] == "completed" for rows in journals)
    assert project.run("logs", "count", project.trials()[1].id).out == "starting at 0\n"


def test_trials_of_a_reused_process_survive_the_death_of_one(project):
    project.write_spec(
        launch={"parallel": 1, "reuse_process": True},
        space={"start": [1.0, 2.0, 3.0], "fault": {"choice": ["", "segfault"]}},
        fixed={"steps": 6, "every": 2, "at": 4},
    )
    project.run_sweep()
    ends = {(t.params["start"], t.params["fault"]): project.ends(t) for t in project.trials()}
    assert {end for (_start, fault), (end,) in ends.items() if fault} == {"failed crashed(11)"}
    assert {end for (_start, fault), (end,) in ends.items() if not fault} == {"completed"}


def test_files_are_private_whatever_the_umask(project):
    import os

    project.run_sweep(preexec_fn=lambda: os.umask(0))
    for path in project.sweep.path.rglob("*"):
        assert path.lstat().st_mode & 0o077 == 0, path
    check_files(project.sweep.path)


def test_a_finished_trial_takes_five_inodes(project):
    project.write_spec(fixed={"steps": 3, "every": 0})
    project.run_sweep()
    for trial in project.trials():
        folder = project.sweep.trial(trial).path
        assert 1 + len(list(folder.rglob("*"))) == 5


def test_editing_the_code_changes_nothing_that_is_planned_and_is_said(project):
    project.write_spec(fixed={"steps": 6, "every": 2, "fault": "raise", "at": 5}, space={"start": [1.0]})
    project.run_sweep()
    text = (project.root / "counter.py").read_text()
    (project.root / "counter.py").write_text(text.replace("start / step", "0 * step"))
    project.run("resume", "count", "--failed")
    assert project.history(project.trials()[0]) == expected_history(1.0, 4)
    said = project.run_sweep("--set", "seeds=2")
    assert "the code has changed since the last call" in said.err


def test_a_job_is_imported_for_its_check_only_when_the_code_is_new(project):
    probe = project.root.parent / "imports.txt"
    text = (project.root / "counter.py").read_text()
    (project.root / "counter.py").write_text(f"{text}\nopen({str(probe)!r}, 'a').write('x')\n")
    project.write_spec(launch={"parallel": 1})
    project.run_sweep()
    assert probe.read_text() == "xx"  # once to look at it, once in the worker
    project.run_sweep("--set", "seeds=2")
    assert probe.read_text() == "xxx"
    (project.root / "other.py").write_text("")
    project.run_sweep("--set", "seeds=3")
    assert probe.read_text() == "xxxxx"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["swep", "x"], "Did you mean 'sweep'"),
        (["sweep", "sweep.yaml", "--parralel", "2"], "--parallel"),
        (["sweep", "sweep.yaml", "--parallel", "ten"], "ten"),
        (["sweep", "sweep.yaml", "--name", "a", "--name", "b"], "--name is given twice"),
        (["status", "nothing"], "no sweep at 'nothing'"),
        (["sweep", "missing.yaml"], "missing.yaml"),
    ],
)
def test_bad_command_lines_are_explained(project, arguments, expected):
    refused = project.run(*arguments, code=2)
    assert expected in refused.err
    assert "Traceback" not in refused.err
