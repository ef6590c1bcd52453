"""S17: the command that submits is killed at every one of its side effects, and run again: one live job a trial."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlcluster import pipeline, pipeline_start
from dlcluster.launch import recover as recover_room
from dlcluster.launch.recover import SECOND_LOOK_S
from dlcluster.spec.schema import load_spec
from dlcluster.sweep_call import SweepOptions
from tests.launch import pretend_slurm_program as program
from tests.launch.children import Child
from tests.launch.pretend_slurm import PretendedSlurm
from tests.launch.sweeps import Made, covered_by
from tests.support import make_project, wait_until

KILLED = 99
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.chmod", "os.truncate")
MAX_EFFECTS = 2000


class Killer:
    """Ends this process at its n-th side effect: before each change of a file, before and after each program.

    Slurm's programs are called as functions here, which takes a thousandth of the time.
    """

    def __init__(self, at: int) -> None:
        self.at, self.n_seen = at, 0

    def see(self, *_arguments: object) -> None:
        self.n_seen += 1
        if self.n_seen == self.at:
            os._exit(KILLED)

    def watch(self) -> None:
        sys.addaudithook(self._on_event)
        real_write, os.fsync = os.write, self.see  # no power cut here, so nothing has to reach a disk
        os.write = lambda fd, data: self.see() or real_write(fd, data)
        subprocess.run = self._run

    def _on_event(self, event: str, arguments: tuple) -> None:
        is_write = event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        of_slurm = "/slurm-" in str(arguments[0]) if arguments else False
        if (is_write or event in CHANGES) and not (of_slurm and "/bin/" in str(arguments[0])):
            self.see()

    def _run(self, argv: list[str], env: dict[str, str], input: bytes = b"", **_options: object) -> object:
        self.see()
        folder = os.environ["PATH"]
        out, err, rc, _delay = program.answer(folder, argv[0], argv[1:], input.decode(), env)
        self.see()
        return subprocess.CompletedProcess(argv, rc, out.encode(), err.encode())


@pytest.fixture(scope="module")
def prototype(tmp_path_factory):
    """A project whose sweep of three trials becomes an array of two and a job."""
    project = make_project(tmp_path_factory.mktemp("s17") / "project")
    project.write_spec(
        code="live",
        space={"start": [1.0, 2.0, 3.0]},
        launch={"executor": "slurm", "trials_per_job": 1},
    )
    load_spec(project.spec)
    for room in Path(recover_room.__file__).parent.glob("[a-z]*.py"):  # so that not every forked command has to
        importlib.import_module(f"dlcluster.launch.{room.stem}")
    return project


class Scene:
    """A fresh runs directory and a fresh Slurm beside the project."""

    def __init__(self, project, folder, monkeypatch, name) -> None:
        self.slurm = PretendedSlurm(folder / f"slurm-{name}").install(MaxArraySize="2").use(monkeypatch)
        self.project, self.runs = project, folder / f"runs-{name}"

    def command(self, at: int = 0, programs: bool = False) -> Child:
        """`dlcluster sweep sweep.yaml --no-import-check`, killed at a side effect if `at` is not 0.

        With `programs` it starts Slurm's programs, and cannot be killed in this way.
        """
        return Child(lambda: self._sweep(None if programs else Killer(at)))

    def _sweep(self, killer: Killer | None) -> dict[str, object]:
        waits: list[float] = []
        real = recover_room.recover

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if seconds != SECOND_LOOK_S:
                time.sleep(seconds)  # for an orphan, which needs this time

        recover_room.recover = lambda *arguments, **options: real(*arguments, **options, wait=wait)
        pipeline_start.store_provenance = lambda *_arguments: None  # says where it was made; 40 more files and programs
        if killer is not None:
            killer.watch()
        options = SweepOptions(runs_dir=self.runs, import_check=False)
        result = pipeline.run_sweep(self.project.spec, options, pipeline.View())
        submitted = result.submitted
        return {
            "n_effects": killer.n_seen if killer is not None else 0,
            "n_second_looks": waits.count(SECOND_LOOK_S),
            "submitted": None if submitted is None else submitted.problem or len(submitted.job_ids),
        }

    @property
    def made(self) -> Made:
        sweep = pipeline.SweepDir(self.runs / "count")
        return Made(sweep, [trial.id for trial in sweep.read_plan().trials])

    def check(self, when: object) -> None:
        """Exactly one live job a trial, each of them on record, and nothing left to do."""
        made, live = self.made, self.slurm.live_elements()
        assert sorted(covered_by(made, live).values()) == [1, 1, 1], (when, live)
        assert len(live) == 3, (when, live)
        on_record = {
            (job or {}).get("job_id")
            for folder in made.sweep.submissions()
            for job in (folder.read_job(k) for k in range(len((folder.read_intent() or {}).get("batches", ()))))
        }
        assert {job["id"] for job in self.slurm.jobs} <= on_record, (when, on_record)


def test_every_moment_of_a_submission(prototype, tmp_path, monkeypatch):
    undisturbed = Scene(prototype, tmp_path, monkeypatch, "undisturbed")
    n_effects = undisturbed.command().result()["n_effects"]
    undisturbed.check("undisturbed")
    assert 40 < n_effects < MAX_EFFECTS
    outcomes = set()
    for at in range(1, n_effects + 1):
        scene = Scene(prototype, tmp_path, monkeypatch, at)
        code, said = scene.command(at).end()
        assert (code, said) == (KILLED, None), at
        again = scene.command().result()
        assert again["n_second_looks"] <= 1, at
        scene.check(at)
        outcomes.add((again["submitted"], again["n_second_looks"]))
        if at % 10 == 0:  # and a third time there is nothing to do
            n_submissions = len(scene.slurm.submissions)
            assert scene.command().result()["submitted"] is None, at
            assert len(scene.slurm.submissions) == n_submissions, at
    # all is submitted anew; one array was lost and found; all were there; the first had been, the second had not
    assert {submitted for submitted, _looks in outcomes} == {None, 1, 2}


def test_every_moment_of_the_command_that_cleans_up(prototype, tmp_path, monkeypatch):
    """Killed once when the first array had been accepted and was not noted, and again at each of its side effects."""

    first = Scene(prototype, tmp_path, monkeypatch, "first")
    first.command().result()
    first.made.forget_submitter()
    first.made.lose_job(0)
    first.made.lose_job(1)
    first.slurm.change(jobs=first.slurm.jobs[:1])  # the second had not been accepted

    def half_done(name):
        scene = Scene(prototype, tmp_path, monkeypatch, name)
        shutil.copytree(first.runs, scene.runs)
        scene.slurm.change(**first.slurm.state)
        return scene

    n_effects = half_done("undisturbed").command().result()["n_effects"]
    for at in range(1, n_effects + 1):
        scene = half_done(at)
        assert scene.command(at).end()[0] == KILLED, at
        scene.command().result()
        scene.check(at)


@pytest.mark.parametrize("is_late", [False, True], ids=["", "and-in-the-queue-later-still"])
def test_an_sbatch_that_goes_on_after_its_command_was_killed(is_late, prototype, tmp_path, monkeypatch):
    """Slurm is slow to accept the job: the command is killed, and run again before it has."""
    scene = Scene(prototype, tmp_path, monkeypatch, "slow")
    scene.slurm.answer("sbatch", {}, {"delay": 1.5})  # the check, then the first array
    dying = scene.command(programs=True)
    wait_until(lambda: len(scene.slurm.submissions) == 1, "sbatch")
    dying.kill()
    scene.slurm.answer("squeue", {"rc": 0, "out": ""}) if is_late else None
    assert scene.command(programs=True).result()["submitted"] == 1  # the first is found, the second was never sent
    scene.check("slow")
