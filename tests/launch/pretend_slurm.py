"""A tiny Slurm that only pretends: real programs, alone on PATH, with a queue in which nothing ever starts by itself."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parent / "pretend_slurm_program.py"
PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")
CONFIG = {
    "AccountingStorageType": "accounting_storage/none",
    "ClusterName": "pretended",
    "MaxArraySize": "1001",
    "MinJobAge": "300 sec",
    "SLURM_VERSION": "22.05.8",
}
IS_DOWN = "Unable to contact slurm controller (connect failure)"


@dataclass(frozen=True)
class PretendedSlurm:
    """What tests see of it: its settings, its jobs, and what its programs have been asked."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def install(self, **config: str) -> PretendedSlurm:
        (self.home / ".cache").mkdir(parents=True)
        bin_folder = self.folder / "bin"
        bin_folder.mkdir()
        text = f"#!{sys.executable} -IS\n" + PROGRAM.read_text()
        for name in PROGRAMS:
            (bin_folder / name).write_text(text)
            (bin_folder / name).chmod(0o755)
        if git := shutil.which("git"):  # and nothing else: this machine may have a Slurm of its own
            (bin_folder / "git").symlink_to(git)
        settings = {"next": 101, "jobs": [], "answers": {}, "max_submit": 100_000, "accounts": None}
        self._write({**settings, "config": {**CONFIG, **config}})
        return self

    def use(self, monkeypatch: Any) -> PretendedSlurm:
        """For this process too, and for those that it starts."""
        for name in [n for n in os.environ if n.startswith(("SLURM", "SBATCH", "XDG_"))]:
            monkeypatch.delenv(name)
        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)
        return self

    def environment(self) -> dict[str, str]:
        return {"PATH": str(self.folder / "bin"), "HOME": str(self.home), "SLURM_CONF": str(self.folder / "slurm.conf")}

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "bin" / "state.json").read_text())

    def _write(self, state: dict[str, Any]) -> None:
        (self.folder / "bin" / "state.json").write_text(json.dumps(state))

    def change(self, **settings: Any) -> None:
        self._write({**self.state, **settings})

    def configure(self, **config: str) -> None:
        self.change(config={**self.state["config"], **config})
        shutil.rmtree(self.home / ".cache")  # the site is kept for an hour

    def answer(self, program: str, *answers: dict[str, Any]) -> None:
        """The next answers of a program: rc, out, err, delay; `always`: from now on; `does_it`: and does it too."""
        self.change(answers={**self.state["answers"], program: list(answers)})

    def go_down(self) -> None:
        down = {"rc": 1, "out": "", "always": True}
        errors = {name: [{**down, "err": f"{name}: error: {IS_DOWN}\n"}] for name in PROGRAMS}
        self.change(answers=errors)

    def come_back(self) -> None:
        self.change(answers={})

    def calls(self, *programs: str) -> list[dict[str, Any]]:
        log = self.folder / "bin" / "calls.jsonl"
        found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [call for call in found if not programs or call["program"] in programs]

    def n_calls(self, *programs: str) -> int:
        return len(self.calls(*programs))

    @property
    def submissions(self) -> list[dict[str, Any]]:
        """The calls of sbatch that were meant."""
        return [call for call in self.calls("sbatch") if "--test-only" not in call["argv"]]

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return self.state["jobs"]

    def live_elements(self) -> list[tuple[str, int]]:
        """(name of the job, index) of all that wait or run."""
        live = ("PENDING", "RUNNING")
        return [
            (job["name"], 0 if index == "-" else int(index))
            for job in self.jobs
            for index, (word, _reason) in job["states"].items()
            if word in live
        ]

    def put(self, word: str, reason: str = "None", *, job: int | None = None, index: str | None = None) -> None:
        """The state of elements, by the id of their job and their index; all of them by default."""
        jobs = self.jobs
        for entry in jobs:
            for name in entry["states"]:
                if job in (None, entry["id"]) and index in (None, name):
                    entry["states"][name] = [word, reason]
        self.change(jobs=jobs)

    def forget_all(self) -> None:
        """MinJobAge has passed."""
        self.change(jobs=[])

    def let_caches_expire(self) -> None:
        """As if a long time had gone by: whatever was asked is asked anew."""
        for file in (self.home / ".cache").rglob("s*ue*-*.json"):
            file.unlink()
        for file in (self.home / ".cache").rglob("sacct-*.json"):
            file.unlink()
