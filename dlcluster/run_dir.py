"""The run directory: every path, every file format, who writes it and who reads it.

    sweep.yaml                        the spec as given                           written by `sweep`
    plan.jsonl                        a header (the resolved spec), then a row a trial        `sweep`
    provenance.json                   commit, diff, packages, host, command line of the first call
    code/<hash>/                      the snapshot that workers run from                      `sweep`
    submissions/<id>/intent.json      which trials were asked for, with which options         `sweep`, `resume`
                    /provenance.json  commit, diff, ... of this call                          `sweep`, `resume`
                    /workers.log      what its workers complained about                       workers
    trials/<shard>/<trial>/attempts/0001/journal.jsonl, log.txt     the child, then its supervisor
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

from dlcluster.errors import DamagedError, UsageError
from dlcluster.file_reading import appears, find_last_line, read_ends
from dlcluster.files import Damage, parse_json_line, read_json, read_json_lines
from dlcluster.journal import AttemptFacts, History, facts_from_rows, merge_attempts
from dlcluster.trial import ID_PATTERN, Trial

FORMAT = 1
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

    def history(self) -> History:
        """The metrics of the trial as if it had never been interrupted."""
        rows_by_attempt, damages = {}, []
        for attempt in self.attempts():
            rows, damage = attempt.read()
            rows_by_attempt[attempt.number] = rows
            if damage.n_bad_lines:
                damages.append(damage)
        return merge_attempts(rows_by_attempt, damages)


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

    def read_intent(self) -> dict[str, Any] | None:
        """None if it was never finished. A worker that starts at once may have to wait until its node can see it."""
        intent = read_json(self.intent)
        return read_json(self.intent) if intent is None and appears(self.intent) else intent


@dataclass(frozen=True)
class Plan:
    """`header` has `format`, `name`, `fingerprint`, `spec` (resolved, as JSON), `project_root`, `version`."""

    header: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.header["spec"]

    def by_id(self, trial_id: str) -> Trial:
        """The trial with this id. Never used as a path before it has been found here. Raises UsageError."""
        found = [t for t in self.trials if t.id == trial_id] if ID_PATTERN.fullmatch(trial_id) else []
        if not found:
            raise UsageError(f"no such trial id: {trial_id!r}", "`dlcluster status RUN` lists the trials")
        return found[0]


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
        rows, damage, _ = read_json_lines(self.plan_file)
        if not rows or rows[0].get("kind") != "sweep":
            raise self._damaged("its first line is not readable")
        header, n_planned = rows[0], rows[0].get("n_trials", len(rows) - 1)
        self._refuse_newer(header)
        if damage.n_bad_lines or n_planned != len(rows) - 1:
            raise self._damaged(f"{len(rows) - 1} of {n_planned} trials are readable")
        try:
            return Plan(header, tuple(Trial.from_json(row) for row in rows[1:]))
        except KeyError as key:
            raise self._damaged(f"a trial without {key}") from None

    def _damaged(self, problem: str) -> DamagedError:
        return DamagedError(
            f"{self.plan_file}: damaged: {problem}",
            "move it away and run `dlcluster sweep` with its spec again: finished trials are found, none runs twice",
        )

    def _refuse_newer(self, header: Mapping[str, Any]) -> None:
        if not isinstance(header.get("format"), int):
            raise self._damaged("no format in its first line")
        if header["format"] > FORMAT:
            raise UsageError(
                f"{self.path}: written by a newer dlcluster (format {header['format']}, this one reads {FORMAT}; "
                f"name {header.get('name')!r}, {header.get('n_trials', 'unknown')} trials)"
            )


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
