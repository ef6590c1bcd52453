"""Numbers that are none, memory that runs out, and failures that would go on for ever (L10, L11, L13)."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import (
    check_files,
    check_oracle,
    end_of,
    family,
    processes_with,
    run_worker,
    start_worker,
    strict_json,
    submit,
    wait_for_step,
    wait_until,
)

MEMORY = Path("/sys/fs/cgroup/memory")


# -- L10: numbers that are none -----------------------------------------------------------------------------------

REFUSED = {
    "1j": "TypeError: metric 'extra': expected a number, got complex",
    "True": "TypeError: metric 'extra': expected a number, got bool; log int(value)",
    "'0.5'": "TypeError: metric 'extra': expected a number, got str",
    "None": "TypeError: metric 'extra': expected a number, got NoneType",
    "10**30": "ValueError: metric 'extra': 100-bit integer does not fit into 64 bits",
}
TAKEN = {"float('nan')": "nan", "float('inf')": "inf", "-float('inf')": "-inf", "1e400": "inf"}


def test_what_is_no_number_ends_the_trial_with_the_name_of_the_metric(project):
    project.write_spec(space={"start": [1.0], "values": list(REFUSED)}, launch={"parallel": 1})
    run_worker(project, submit(project))
    for trial in project.trials():
        assert project.ends(trial) == ["failed exception"]
        assert project.rows(trial, 1)[-1]["message"] == REFUSED[trial.params["values"]]
        assert project.history(trial) == []


def test_what_is_not_finite_is_recorded_as_strict_json(project):
    values = [*TAKEN, "__import__('decimal').Decimal(1).__float__()"]
    project.write_spec(space={"start": [1.0], "values": values}, launch={"parallel": 1})
    run_worker(project, submit(project))
    check_oracle(project)
    for trial in project.trials():
        word = TAKEN.get(trial.params["values"])
        for row in project.rows(trial, 1):
            if row["kind"] == "metrics":
                assert row["metrics"]["extra"] == (1.0 if word is None else None)
                assert row.get("nonfinite") == ({"extra": word} if word else None)
    if shutil.which("jq"):
        for journal in project.sweep.path.rglob("journal.jsonl"):
            subprocess.run(["jq", "-e", ".kind", journal], check=True, capture_output=True)


DIVERGES = """
import math
def train(run, *, start, steps, every, pause):
    for step in range(1, steps + 1):
        run.log(loss=(math.nan if start < 1 else math.inf) if step == 4 and start < 2 else start / step)
"""


@pytest.mark.parametrize(
    ("policy", "end", "n_rows"), [("fail", "failed diverged", 4), ("stop", "stopped diverged", 4), ("record", "", 6)]
)
def test_a_trial_that_diverges_ends_as_the_spec_says(project, policy, end, n_rows):
    (project.root / "counter.py").write_text(DIVERGES)
    project.write_spec(space={"start": [0.5, 1.0, 2.0]}, on_nonfinite=policy, launch={"parallel": 1})
    run_worker(project, submit(project))
    nan, inf, good = project.trials()
    assert project.ends(good) == ["completed"]
    for trial in (nan, inf):
        assert project.ends(trial) == [end or "completed"]
        assert len(project.history(trial)) == n_rows
        assert project.history(trial)[3] == (4, None)
    check_files(project.sweep.path)
    for row in strict_json(project.run("status", "count", "--json").out)["trials"]:
        assert all(value is None or math.isfinite(value) for value in (row["metrics"] or {}).values())


def test_a_diverged_trial_is_neither_retried_nor_ranked(project):
    (project.root / "counter.py").write_text(DIVERGES)
    project.write_spec(space={"start": [0.5, 2.0]}, objective={"metric": "loss", "goal": "maximize"})
    said = project.run_sweep()
    assert "failed (diverged): loss is nan at step 4" in said.err
    assert "nothing is missing" in project.run_sweep().out
    rows = json.loads(project.run("table", "count", "--format", "json").out)
    assert "NaN" not in json.dumps(rows)


def test_a_loop_that_survives_everything_does_not_survive_divergence(project):
    project.write_spec(job="counter:swallow", space={"start": [1.0]})
    run_worker(project, submit(project))
    assert project.ends(project.trials()[0]) == ["failed diverged"]


# -- L11: memory --------------------------------------------------------------------------------------------------


@pytest.fixture
def memory_of_200_mb():
    """What to run in a child before a program, so that it and all it starts share 200 MB."""
    group = MEMORY / f"dlcluster-test-{secrets.token_hex(4)}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(200 << 20))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made under {MEMORY}: {error.strerror}")
    yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    wait_until(lambda: not (group / "cgroup.procs").read_text(), "the end of all processes in the cgroup", 10)
    group.rmdir()


def test_a_trial_that_takes_too_much_memory_is_named_and_not_tried_again(project, memory_of_200_mb):
    faults = ["hog", "", "sigkill"]
    project.write_spec(
        space={"start": [1.0], "fault": faults},
        fixed={"steps": 6, "every": 2, "at": 3},
        launch={"parallel": 1, "max_attempts": 1},
    )
    worker = start_worker(project, submit(project), preexec_fn=memory_of_200_mb)
    assert end_of(worker).code == 0
    hog, good, killed = project.trials()
    assert project.ends(good) == ["completed"]
    assert project.ends(hog) == ["failed oom"]
    assert set(project.ends(killed)) == {"failed killed(9)"}, "not every SIGKILL is for want of memory"
    row = project.rows(hog, 1)[-1]
    assert row["message"] == "killed: out of memory"
    assert 100 < row["peak_rss_mb"] <= 200


def test_the_command_itself_survives_in_the_same_memory(project, memory_of_200_mb):
    project.write_spec(space={"start": [1.0, 2.0]}, fixed={"steps": 6, "every": 2, "at": 3, "fault": "hog"})
    command = project.start("sweep", "sweep.yaml", "--no-import-check", preexec_fn=memory_of_200_mb)
    wait_until(lambda: project.sweep.has_plan() and all(map(project.ends, project.trials())), "both trials to end", 60)
    end_of(command)
    assert [project.ends(trial) for trial in project.trials()] == [["failed oom"]] * 2


def test_a_program_s_memory_is_measured_too(project):
    command = ["python", "-c", "hog = bytearray(60 << 20); print('loss={lr}')"]
    project.write_spec(job=None, command=command, space={"lr": [1.0]}, fixed={}, launch={"parallel": 1})
    run_worker(project, submit(project))
    assert project.rows(project.trials()[0], 1)[-1]["peak_rss_mb"] > 60


# -- L13: failures that would go on for ever ----------------------------------------------------------------------

MANY = {"start": [float(i) for i in range(1, 31)]}


def n_attempts(project):
    return sum(len(project.ends(trial)) for trial in project.trials())


def held_states(project):
    return {row["state"] for row in project.status()["trials"] if not row["attempts"]}


def test_five_identical_failures_hold_the_rest_with_one_message(project):
    project.write_spec(space=MANY, fixed={"steps": 6, "fault": "raise", "at": 1})
    done = project.run_sweep()
    assert 5 <= n_attempts(project) < 10
    assert held_states(project) == {"held"}
    assert done.err.count("error: ") == 1
    assert "exception: ValueError: went wrong" in done.err
    status = project.run("status", "count").out
    assert "held: exception: ValueError: went wrong" in status
    project.run("sweep", "sweep.yaml", "--fail-on-trial-error", code=1)


def test_a_success_before_shows_that_not_everything_is_broken(project):
    project.write_spec(
        space={"start": [float(i) for i in range(9)], "at": [1]},
        fixed={"steps": 2, "every": 0},
        launch={"parallel": 1},
    )
    (project.root / "counter.py").write_text(
        "def train(run, *, start, at, steps, every):\n    run.log(loss=1.0)\n    assert start == 0\n"
    )
    run_worker(project, submit(project))
    assert [end for trial in project.trials() for end in project.ends(trial)] == [
        "completed",
        *["failed exception"] * 8,
    ]


def test_failures_of_different_kinds_hold_nothing(project):
    (project.root / "counter.py").write_text(
        "def train(run, *, start, **_params):\n    raise [ValueError, KeyError, OSError][int(start) % 3]('x')\n"
    )
    project.write_spec(space={"start": [float(i) for i in range(12)]}, launch={"parallel": 1})
    run_worker(project, submit(project))
    assert n_attempts(project) == 12


def test_a_held_sweep_runs_on_when_the_code_is_repaired(project):
    good = (project.root / "counter.py").read_text()
    (project.root / "counter.py").write_text(good.replace("state = run.resume()", "state = run.resum()"))
    project.write_spec(space=MANY)
    run_worker(project, submit(project))
    assert held_states(project) == {"held"}
    (project.root / "counter.py").write_text(good)
    project.run_sweep()
    n_failed = sum(project.ends(trial) == ["failed exception"] for trial in project.trials())
    assert 5 <= n_failed < 10
    project.run("resume", "count", "--failed")
    assert {project.ends(trial)[-1] for trial in project.trials()} == {"completed"}
    check_oracle(project)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import json\n\njson.loads('{')\n", "counter.py:3: JSONDecodeError: Expecting property name"),
        ("def train(run:\n", "counter.py:1: SyntaxError"),
        ("import no_such_library\n", "counter.py:1: ModuleNotFoundError: No module named 'no_such_library'"),
        ("import sys\nsys.exit(3)\n", "it exited during import with 3"),
        ("import os\nos._exit(0)\n", "the process that imports the job has died"),
        ("import os\nos.kill(os.getpid(), 9)\n", "the process that imports the job has died"),
        ("x = 1\n", "counter has no function 'train'"),
    ],
)
def test_an_import_that_fails_in_the_worker_holds_everything_and_costs_no_attempt(project, code, expected):
    (project.root / "counter.py").write_text(code)
    done = run_worker(project, submit(project))
    assert done.code == 78
    assert expected in done.out
    assert n_attempts(project) == 0
    assert held_states(project) == {"held"}
    assert expected in project.run("status", "count").out
    assert not processes_with(str(project.root))


def test_after_an_import_that_failed_the_same_command_works_when_the_code_is_repaired(project):
    good = (project.root / "counter.py").read_text()
    (project.root / "counter.py").write_text("raise RuntimeError('at import')\n" + good)
    failed = project.run_sweep("--no-import-check", code=4)
    assert failed.err.count("error: ") == 1
    assert "counter.py:1: RuntimeError: at import" in failed.err
    assert n_attempts(project) == 0
    (project.root / "counter.py").write_text(good)
    project.run_sweep("--no-import-check")
    check_oracle(project)


def test_a_held_sweep_with_interrupted_trials_comes_to_an_end(project):
    """What is killed could go on; but workers of a held sweep start nothing, and the command must see that."""
    project.write_spec(space=MANY, fixed={"steps": 6, "every": 0, "fault": "sigkill", "at": 1})
    done = project.run_sweep(timeout=60)
    assert n_attempts(project) < 10
    assert "killed(9)" in done.err
    states = {row["state"] for row in project.status()["trials"]}
    assert states <= {"interrupted", "held", "failed"}


def test_workers_that_always_die_are_not_replaced_for_ever(project):
    (project.root / "counter.py").write_text(
        "import os, signal\ndef train(run, **_params):\n"
        "    os.kill(int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1]), signal.SIGKILL)\n"
        "    signal.pause()\n"
    )
    project.write_spec(space=MANY, launch={"parallel": 1})
    done = project.run_sweep(timeout=60)
    assert "ended with exit code -9" in done.err
    assert n_attempts(project) <= 4


def test_a_worker_that_cannot_even_start_is_not_started_for_ever(project):
    (project.root / "sitecustomize.py").write_text(
        "import sys\nif 'dlcluster.worker' in sys.orig_argv:\n"
        "    print('start', file=open('starts', 'a'))\n    raise SystemExit(7)\n"
    )
    project.env["PYTHONPATH"] = str(project.root)
    done = project.run_sweep("--no-import-check", code=4, timeout=60)
    assert "a worker ended with exit code 1" in done.err
    assert (project.root / "starts").read_text() == "start\n" * 2
    assert n_attempts(project) == 0


def test_a_cancelled_sweep_is_not_started_again_by_its_own_command(project):
    project.write_spec(space=MANY, fixed={"steps": 30, "every": 2, "pause": 0.05})
    command = project.start("sweep", "sweep.yaml")
    wait_for_step(project, 3, n_trials=2)
    project.run("cancel", "count")
    end_of(command)
    assert sorted(end for trial in project.trials() for end in project.ends(trial)) == ["cancelled by_user"] * 2
    assert not any(family(project).values())
