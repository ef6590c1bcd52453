"""A project of the cluster's ordinary user, and the commands this user types."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcluster.trial import Trial
from tests.slurm.cluster import DevCluster
from tests.support import COUNTER, REPOSITORY, Finished, Project, check_oracle, default_spec, end_of, pause, wait_until

LAUNCH = {"executor": "slurm", "parallel": 2, "mem": "300M", "time": "10m", "margin": "20s", "grace": "10s"}
AS_ROOT = {"user": None, "group": None, "extra_groups": None}
LOOK_S = 0.3  # between two questions of a test; more often would take the CPU from the jobs
PATIENCE_S = 150.0  # Slurm looks at limits and grace times every 30 s, and a requeued job waits some more


@dataclass
class SlurmProject(Project):
    """Everything below the user's home; what it runs, it runs as this user."""

    cluster: DevCluster = None  # type: ignore[assignment]

    def environment(self) -> dict[str, str]:
        more = {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(self.root / "cache"), "COLUMNS": "100"}
        return {**more, **self.token(), **self.env}

    def start(self, *arguments: str, elsewhere: bool = False, **options: Any) -> subprocess.Popen[str]:
        """`elsewhere`: as on a login node, from which no process of a job can be seen."""
        argv = [self.cluster.user_python(), "-W", "ignore", "-m", "dlcluster", *arguments]
        if elsewhere:
            argv, options = on_another_host(self.cluster, argv), {**AS_ROOT, **options}
        return self.cluster.start_as_user(argv, env=self.environment(), **{"cwd": self.root, **options})

    def write_spec(self, spec: Mapping[str, Any] | None = None, **changes: Any) -> None:
        launch = {**LAUNCH, "pass_env": ["PYTHONPATH", *self.token()], **changes.pop("launch", {})}
        value = {**default_spec(), **(spec or {}), **changes, "launch": launch}
        self.spec.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))

    # -- jobs

    def jobs(self, *states: str) -> list[dict[str, str]]:
        """The rows of squeue of this project's jobs: id, state, reason, node."""
        listing = self.cluster.run_as_user(
            ["squeue", "-h", "--me", "-t", "all", "-r", "-o", "%i|%T|%N|%j|%k|%r"], env={"SLURM_BITSTR_LEN": "0"}
        ).out
        rows = [dict(zip(("id", "state", "node", "name", "comment", "reason"), line.split("|"), strict=False))
                for line in listing.splitlines()]  # fmt: skip
        ours = {submission.path.name for submission in self.sweep.submissions()}
        return [r for r in rows if any(name in r["name"] for name in ours) and (not states or r["state"] in states)]

    def live_jobs(self) -> list[dict[str, str]]:
        gone = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY"}
        return [row for row in self.jobs() if row["state"] not in gone]

    def submission_words(self) -> str:
        """What Slurm and the workers have printed into the logs of all jobs."""
        logs = [log for s in self.sweep.submissions() for log in sorted(s.logs_dir.glob("*.log"))]
        return "".join(log.read_text(errors="replace") for log in logs)

    def wait_for_jobs(self, timeout: float = PATIENCE_S) -> None:
        wait_until(
            lambda: not self.live_jobs() or pause(0.3),
            f"the end of all jobs; {self.submission_words()[-500:]}",
            timeout,
        )

    def wait_for_steps(self, n: int = 1, timeout: float = 60) -> Trial:
        """A trial that has logged at least n steps and goes on."""

        def running() -> Trial | None:
            for trial in self.trials():
                attempts = self.sweep.trial(trial).attempts()
                if attempts:
                    facts = attempts[-1].facts()
                    if facts.end is None and facts.last_metrics and facts.last_metrics["step"] >= n:
                        return trial
            return pause(LOOK_S / 4)

        return wait_until(running, f"a trial with {n} steps: {self.submission_words()[-500:]}", timeout)

    # -- the oracle

    def ends(self, trial: Trial) -> list[str]:
        """Of each attempt: its newest end, since a worker may learn why it was ended after it has written one."""
        attempts = self.sweep.trial(trial).attempts()
        found = [[r for r in a.read()[0] if r["kind"] == "end"] for a in attempts]
        return [f"{ends[-1]['state']} {ends[-1]['reason']}".strip() if ends else "" for ends in found]

    def restarts(self) -> list[int]:
        """Of all attempts of all trials: in which life of its job each was made."""
        starts = [
            row
            for trial in self.trials()
            for attempt in self.sweep.trial(trial).attempts()
            for row in attempt.read()[0]
            if row["kind"] == "start"
        ]
        return [row["job"]["restarts"] for row in starts]

    def check(self, *allowed_failures: str) -> None:
        """O1-O6 of the oracle, and O7: nothing of ours is left in the queue."""
        self.wait_for_jobs()
        check_oracle(self, allowed_failures)
        assert self.live_jobs() == []


def make_slurm_project(cluster: DevCluster, name: str = "", **changes: Any) -> SlurmProject:
    root = cluster.home / f"{name or 'p'}-{secrets.token_hex(3)}"
    root.mkdir()
    (root / "setup.cfg").write_text("")
    shutil.copy(COUNTER, root / "counter.py")
    project = SlurmProject(root, cluster=cluster)
    project.write_spec(**changes)
    give_to_user(cluster, root)
    return project


def on_another_host(cluster: DevCluster, argv: Sequence[object]) -> list[object]:
    """A command of the user with a host name and process numbers of its own; to be started by root."""
    user = cluster.user
    become = f'hostname login && exec setpriv --reuid={user.pw_uid} --regid={user.pw_gid} --clear-groups "$@"'
    new = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts")
    return [*new, "sh", "-c", become, "sh", *argv]


def sweep_all(projects: Iterable[SlurmProject], *more: str, timeout: float = 120) -> list[Finished]:
    """`dlcluster sweep sweep.yaml` in all projects at the same time; each must leave with 0."""
    processes = [project.start("sweep", "sweep.yaml", *more) for project in projects]
    ended = [end_of(process, timeout) for process in processes]
    assert [finished.code for finished in ended] == [0] * len(ended), ended
    return ended


@dataclass(frozen=True)
class Shims:
    """Programs at the head of the PATH of a project's commands, and a note of each call."""

    folder: Path

    @property
    def calls(self) -> list[tuple[float, str]]:
        """When (seconds since 1970), and which program with which words."""
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(float(time), words) for time, _, words in (line.partition(" ") for line in lines)]

    def n_calls(self, program: str) -> int:
        return sum(words.split()[0] == program for _time, words in self.calls)

    def replace(self, program: str, script: str = 'exec /usr/bin/{program} "$@"') -> None:
        """Note the call, then do what `script` says; by default, what the program does."""
        note = f'echo "$(date +%s.%N) {program} $*" >> {self.folder}/calls'
        path = self.folder / program
        path.write_text(f"#!/bin/sh\n{note}\n{script.format(program=program, folder=self.folder)}\n")
        path.chmod(0o755)


def make_shims(project: SlurmProject, *programs: str, folder: Path | None = None) -> Shims:
    """Until `project.env` is emptied, commands find these before Slurm's own programs."""
    shims = Shims(folder or project.root / "bin")
    shims.folder.mkdir()
    for program in programs:
        shims.replace(program)
    give_to_user(project.cluster, shims.folder)
    project.env = {**project.env, "PATH": f"{shims.folder}:{project.cluster.env['PATH']}"}
    return shims


def give_to_user(cluster: DevCluster, root: Path) -> None:
    user = cluster.user
    for path in (root, *root.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)
