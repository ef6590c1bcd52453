"""The run directory: every path, every file format, who writes it and who reads it.

    sweep.yaml                        the spec as given                           written by `sweep`
    plan.jsonl                        a header (the resolved spec), then a row a trial        `sweep`
    provenance.json                   commit, diff, packages, host, command line of the first call
    code/<hash>/                      the snapshot that workers run from                      `sweep`
    submissions/<id>/intent.json      which trials were asked for, with which options         `sweep`, `resume`
                    /job-000.sh, job-000.json   a script for sbatch, and the job it became    `sweep`, `resume`
                    /logs/                      what Slurm and its jobs print                 Slurm
                    /cancelled                  what nobody has begun yet is not to be run    `cancel`
                    /provenance.json  commit, diff, ... of this call                          `sweep`, `resume`
                    /workers.log      what its workers complained about                       workers
    trials/<shard>/<trial>/attempts/0001/journal.jsonl, log.txt     the child (or rank 0), then its supervisor
                          /attempts/0001/log.node1.txt  what ranks print on other nodes: the agent of that node
                          /attempts/0001/params.json   while a command runs that asks for {config_file}
                          /checkpoints/step-00000300.json   a manifest, which names its data file: the child
                          /predictions/validation-00000300.npz      the child
                          /tensorboard/attempt-0001/    the child; or event files of `dlcluster tensorboard`
    workers/<id>/heartbeat.json, spare, stop|cancel|hold            that worker (markers: a command)
    results/                          tables and indexes of readers: a cache, deleting it loses nothing

Only the process that claimed an attempt's folder writes in it. Readers write below results/ only, and `dlcluster
tensorboard` event files.

`predictions/<split>-<step>.npz`: arrays without objects; `ids` (n,) integers or text, sorted, and either `correct` (n,)
bool or `scores` (n,) float32, for the model as it was at that step.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcluster.errors import UsageError
from dlcluster.file_reading import appears, find_last_line, read_ends
from dlcluster.files import Damage, parse_json_line, read_json, read_json_lines
from dlcluster.journal import AttemptFacts, facts_from_rows
from dlcluster.plan_file import FORMAT, Plan, read_plan_file
from dlcluster.trial import Trial

TAIL_BYTES = 16_384
ATTEMPT_PATTERN = re.compile(r"\d{4,}")
MARKERS = ("stop", "cancel", "hold")
CHECKPOINT_WORDS = b'"kind":"checkpoint"'


@dataclass(frozen=True)
class AttemptDir:
    """One try at running a trial."""

    path: Path

    @property
    def number(self) -> int:
        return int(self.path.name)

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def log_of_node(self, node: int) -> Path:
        """What the ranks of a trial on several nodes print, by node: the first one's are in the log."""
        return self.log if node == 0 else self.path / f"log.node{node}.txt"

    def read(self) -> tuple[list[dict[str, Any]], Damage]:
        """All records of the attempt; none if it has been claimed and nothing more."""
        try:
            rows, damage, _ = read_json_lines(self.journal)
        except (FileNotFoundError, NotADirectoryError):
            return [], Damage(self.journal)
        return rows, damage

    def facts(self) -> AttemptFacts:
        """How the attempt stands, from the ends of its journal only. Raises OSError if it cannot be read."""
        try:
            head, tail, is_all = read_ends(self.journal, TAIL_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return facts_from_rows(self.number, [])
        rows = _rows_of(tail if is_all else tail.partition(b"\n")[2])
        if is_all:
            return facts_from_rows(self.number, rows)
        rows = _rows_of(head[: head.find(b"\n") + 1]) + rows
        facts = facts_from_rows(self.number, rows)
        if facts.committed_step or facts.is_completed:
            return facts
        return facts_from_rows(self.number, _rows_of(find_last_line(self.journal, CHECKPOINT_WORDS) + b"\n") + rows)


def _rows_of(data: bytes) -> list[dict[str, Any]]:
    """The records on the complete lines of a piece of a journal."""
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")
    return [row for row in map(parse_json_line, lines) if row is not None]


@dataclass(frozen=True)
class TrialDir:
    """Everything that one trial has left behind."""

    path: Path

    @property
    def attempts_dir(self) -> Path:
        return self.path / "attempts"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def attempt(self, number: int) -> AttemptDir:
        return AttemptDir(self.attempts_dir / f"{number:04d}")

    def attempts(self) -> list[AttemptDir]:
        """All attempts, oldest first. Listed, never guessed: a single negative look-up may be a stale NFS cache."""
        try:
            names = os.listdir(self.attempts_dir)
        except (FileNotFoundError, NotADirectoryError):
            return []
        numbers = sorted(int(name) for name in names if ATTEMPT_PATTERN.fullmatch(name))
        return [self.attempt(number) for number in numbers]

    def checkpoint_file(self, step: int, suffix: str) -> Path:
        return self.checkpoints / f"step-{step:08d}{suffix}"

    def predictions_file(self, split: str, step: int) -> Path:
        return self.predictions / f"{split}-{step:08d}.npz"


@dataclass(frozen=True)
class WorkerDir:
    """What a worker says about itself, and what it is told."""

    path: Path

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat.json"

    @property
    def spare(self) -> Path:
        """Space to give back when the disk is full, so that the last record can be written."""
        return self.path / "spare"

    def marker(self, name: str) -> Path:
        return self.path / name

    def markers(self) -> set[str]:
        try:
            return set(os.listdir(self.path)) & set(MARKERS)
        except FileNotFoundError:
            return set()

    def read_heartbeat(self) -> dict[str, Any] | None:
        return read_json(self.heartbeat)


@dataclass(frozen=True)
class SubmissionDir:
    """One call that asked for trials to be run."""

    path: Path

    @property
    def intent(self) -> Path:
        return self.path / "intent.json"

    @property
    def provenance_file(self) -> Path:
        return self.path / "provenance.json"

    @property
    def logs_dir(self) -> Path:
        """Where Slurm writes what jobs print: it must be there before a job starts."""
        return self.path / "logs"

    @property
    def cancelled(self) -> Path:
        return self.path / "cancelled"

    def read_called_off(self) -> frozenset[str] | None:
        """The trials that are not to be begun any more; None for all of them."""
        try:
            return frozenset(self.cancelled.read_text().split()) or None
        except FileNotFoundError:
            return frozenset()

    def script(self, batch: int) -> Path:
        return self.path / f"job-{batch:03d}.sh"

    def job_file(self, batch: int) -> Path:
        """`job_id` (null: it was refused), `cluster`, `time`, `problem`."""
        return self.path / f"job-{batch:03d}.json"

    def read_job(self, batch: int) -> dict[str, Any] | None:
        return read_json(self.job_file(batch))

    def read_intent(self) -> dict[str, Any] | None:
        """None if it was never finished. A worker that starts at once may have to wait until its node can see it."""
        intent = read_json(self.intent)
        return read_json(self.intent) if intent is None and appears(self.intent) else intent


@dataclass(frozen=True)
class SweepDir:
    """The run directory of one sweep."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def spec_file(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.jsonl"

    @property
    def provenance_file(self) -> Path:
        return self.path / "provenance.json"

    @property
    def code_dir(self) -> Path:
        return self.path / "code"

    @property
    def trials_dir(self) -> Path:
        return self.path / "trials"

    @property
    def results_dir(self) -> Path:
        return self.path / "results"

    @property
    def status_index(self) -> Path:
        """A cache of `status`: deleting it loses nothing."""
        return self.results_dir / "status.json"

    @property
    def submissions_dir(self) -> Path:
        return self.path / "submissions"

    @property
    def workers_dir(self) -> Path:
        return self.path / "workers"

    def submission(self, submission_id: str) -> SubmissionDir:
        return SubmissionDir(self.submissions_dir / submission_id)

    def submissions(self) -> list[SubmissionDir]:
        """Oldest first: ids begin with the time."""
        return [SubmissionDir(path) for path in _subfolders(self.submissions_dir)]

    def worker(self, worker_id: str) -> WorkerDir:
        return WorkerDir(self.workers_dir / worker_id)

    def workers(self) -> list[WorkerDir]:
        return [WorkerDir(path) for path in _subfolders(self.workers_dir)]

    def trial(self, trial: Trial) -> TrialDir:
        return TrialDir(self.trials_dir / trial.shard / trial.id)

    def has_plan(self) -> bool:
        """Not from one look-up alone: a plan that was overlooked would be overwritten."""
        return self.plan_file.is_file() or (appears(self.plan_file) and self.plan_file.is_file())

    def read_plan(self) -> Plan:
        """The header and all trials. Raises UsageError if there is no sweep here, DamagedError if it is unreadable."""
        if not self.has_plan():
            raise UsageError(f"{self.path}: no sweep here (no plan.jsonl)", "see `--runs-dir`")
        return read_plan_file(self.plan_file)


def plan_rows(header: Mapping[str, Any], trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """What `plan.jsonl` holds."""
    rows = [trial.to_json() for trial in trials]
    return [{"kind": "sweep", "format": FORMAT, **header, "n_trials": len(rows)}, *rows]


def _subfolders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path / name for name in sorted(names)]
