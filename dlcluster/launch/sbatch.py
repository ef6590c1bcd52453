"""Workers as jobs of Slurm: scripts, one sbatch an array, and never a blind second try.

A submission is on disk before sbatch runs, and its jobs have a name that is theirs alone. Whatever becomes of us or of
an answer, the job can be found by that name; it is looked for before anything is submitted again (reliability.md 4.1).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dlcluster.errors import PreconditionError, SubmissionError
from dlcluster.files import make_dir, write_json, write_text
from dlcluster.launch.batch_script import BatchScript, OptionRefused, array_text, clean_environment, make_options
from dlcluster.launch.coverage import job_name
from dlcluster.launch.job_plan import JobPlan
from dlcluster.launch.scheduler import forget_queue, read_queue
from dlcluster.launch.slurm_errors import Answer, classify, key_of
from dlcluster.launch.slurm_output import read_job_id
from dlcluster.run_dir import SubmissionDir, SweepDir

TIMEOUT_S = 300.0  # sbatch itself tries again for two minutes; ended before, it could leave a job that nobody knows
PAUSES_S = (5.0, 15.0, 45.0, 120.0)


class NotKnown(SubmissionError):
    """Whether the scheduler has accepted a job cannot be told now."""


@dataclass
class Submitted:
    """`job_ids` by batch; `n_left` jobs were not accepted, and `problem` says why; `is_open`: or it is not known."""

    job_ids: dict[int, int] = field(default_factory=dict)
    n_left: int = 0
    problem: str = ""
    is_open: bool = False


@dataclass(frozen=True)
class SlurmExecutor:
    """The jobs of one submission, through sbatch."""

    sweep: SweepDir
    submission: str
    jobs: JobPlan
    launch: Mapping[str, Any]
    margin_s: float
    shared: bool = False
    wait: Callable[[float], None] = time.sleep

    @property
    def folder(self) -> SubmissionDir:
        return self.sweep.submission(self.submission)

    @property
    def environment(self) -> dict[str, str]:
        return clean_environment(os.environ, self.launch["pass_env"])

    def script(self, number: int) -> BatchScript:
        """What sbatch gets for one array. Raises SubmissionError for a value that cannot stand in it."""
        batch = self.jobs.batches[number]
        try:
            options = make_options(
                for_a_job(self.launch),
                job_name=job_name(self.sweep.name, self.submission, number),
                comment=f"dlcluster:{self.sweep.name}:{self.submission}",
                chdir=str(self.sweep.path),
                log=str(self.folder.logs_dir),
                # a single job needs no array, and a site may have switched arrays off (MaxArraySize=0)
                array=array_text(batch.size, self.jobs.throttle_of(batch)) if batch.size > 1 else None,
                signal_s=max(1, round(self.margin_s)),
                time_s=self.launch["time"],
            )
        except OptionRefused as refused:
            raise SubmissionError(str(refused)) from None
        worker = (sys.executable, "-m", "dlcluster.worker", str(self.sweep.path))
        element = ("--submission", self.submission, "--first-element", str(batch.first))
        return BatchScript(options, tuple(self.launch["setup"]), (*worker, *element), "027" if self.shared else "077")

    def check(self) -> JobPlan:
        """Ask sbatch whether it would accept the first script, before anything is written: the jobs that it would.

        Raises SubmissionError with its words and our key, PreconditionError where there is no answer.
        """
        complaint = self._what_is_too_much()
        if not complaint:
            return self.jobs
        n_accepted, n_refused = 0, self.jobs.batches[0].size
        while n_refused - n_accepted > 1:
            n = (n_accepted + n_refused) // 2
            if replace(self, jobs=self.jobs.first_jobs(n))._what_is_too_much():
                n_refused = n
            else:
                n_accepted = n
        if n_accepted == 0:
            raise SubmissionError(f"sbatch: {complaint}", hint_for(complaint))
        return self.jobs.first_jobs(n_accepted)

    def _what_is_too_much(self) -> str:
        """What sbatch complains about if it would accept the first array if only it were smaller; "" if it would."""
        _output, complaint, verdict = run_sbatch(["sbatch", "--test-only"], self.environment, self._text(0))
        if verdict is Answer.PERMANENT:
            raise SubmissionError(f"sbatch: {complaint}", hint_for(complaint))
        if verdict is Answer.AMBIGUOUS:
            raise PreconditionError(f"sbatch: {complaint}", "the scheduler does not answer; nothing was submitted")
        return complaint if verdict is Answer.QUOTA else ""

    def _text(self, number: int) -> str:
        try:
            return self.script(number).text()
        except OptionRefused as refused:
            raise SubmissionError(str(refused)) from None

    def write_scripts(self) -> list[Path]:
        make_dir(self.folder.logs_dir)
        for number in range(len(self.jobs.batches)):
            write_text(self.folder.script(number), self._text(number))
        return [self.folder.script(number) for number in range(len(self.jobs.batches))]

    def submit(self) -> Submitted:
        """Give all arrays to sbatch. What a quota does not allow is left for the next call; nothing goes twice."""
        done = Submitted()
        if self.jobs.n_left:
            done.n_left, done.problem = self.jobs.n_left, "sbatch: the site lets in no more jobs now"
        for number in range(len(self.jobs.batches)):
            try:
                earlier = self.jobs.waits_for(number)
                job_id, cluster = self._submit_one(number, None if earlier is None else done.job_ids[earlier])
            except SubmissionError as error:
                self._give_up(number, done, error)
                break
            record_job(self.folder, number, job_id, cluster)
            done.job_ids[number] = job_id
        forget_queue()
        return done

    def _give_up(self, number: int, done: Submitted, error: SubmissionError) -> None:
        """What was refused is noted. What may have been accepted is left open: the next command looks for it."""
        rest = range(number, len(self.jobs.batches))
        done.n_left += sum(self.jobs.batches[k].size for k in rest)
        done.problem = str(error)
        done.is_open = isinstance(error, NotKnown)
        for k in rest[1:] if done.is_open else rest:
            record_job(self.folder, k, None, problem=done.problem)

    def _submit_one(self, number: int, after: int | None) -> tuple[int, str | None]:
        """The job id, from sbatch's answer or, where that was lost, from the queue. Raises SubmissionError."""
        # afterany: with afterok a job that is requeued once would keep the next array from ever starting
        chain = [f"--dependency=afterany:{after}"] if after else []
        argv = ["sbatch", "--parsable", *chain, str(self.folder.script(number))]
        name, complaint = job_name(self.sweep.name, self.submission, number), ""
        for pause in (*PAUSES_S, None):
            output, complaint, verdict = run_sbatch(argv, self.environment)
            if verdict is None:
                return read_job_id(output)
            if verdict in (Answer.AMBIGUOUS, Answer.UNKNOWN) and (found := find_by_name(name)) is not None:
                return found, None
            if verdict not in (Answer.AMBIGUOUS, Answer.TRANSIENT):
                raise SubmissionError(f"sbatch: {complaint}", hint_for(complaint))
            if pause is not None:
                self.wait(pause)
                # slurmctld may have had it in its hands all the time
                if verdict is Answer.AMBIGUOUS and (found := find_by_name(name)) is not None:
                    return found, None
        kind = NotKnown if verdict is Answer.AMBIGUOUS else SubmissionError
        raise kind(f"sbatch: {complaint}", "the same command finds out later, and submits what is missing")


def for_a_job(launch: Mapping[str, Any]) -> dict[str, Any]:
    """The `launch:` section of a job: `cpus` and `mem` are those of one trial, and it runs several at once."""
    n, mem = launch["trials_per_gpu"], launch.get("mem")
    if mem is not None:
        digits = mem.rstrip("KMGT")
        mem = f"{int(digits) * n}{mem[len(digits) :]}"
    return {**launch, "cpus": launch["cpus"] * n, "mem": mem}


def record_job(
    folder: SubmissionDir, number: int, job_id: int | None, cluster: str | None = None, problem: str = ""
) -> None:
    write_json(folder.job_file(number), {"job_id": job_id, "cluster": cluster, "time": time.time(), "problem": problem})


def run_sbatch(
    argv: list[str], environment: Mapping[str, str], script: str | None = None
) -> tuple[str, str, Answer | None]:
    """What it printed, what it complained about, and what that means; None if it has accepted the job."""
    try:
        done = subprocess.run(
            argv,
            env=dict(environment),
            input=(script or "").encode(),
            capture_output=True,
            timeout=TIMEOUT_S,
            cwd="/",
            check=False,
        )
    except FileNotFoundError:
        raise PreconditionError("sbatch: not found", "Slurm is not here; use --executor local") from None
    except subprocess.TimeoutExpired:
        return "", f"no answer within {TIMEOUT_S:g} s", Answer.AMBIGUOUS
    output, complaint = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace").strip()
    if done.returncode == 0 and script is None:
        try:
            read_job_id(output)
        except ValueError as error:
            return output, str(error), Answer.AMBIGUOUS
        return output, complaint, None
    verdict = None if done.returncode == 0 else classify(complaint)
    return output, complaint or f"exit code {done.returncode}", verdict


def hint_for(complaint: str) -> str:
    key = key_of(complaint)
    return f"see launch.{key} in the spec" if key else ""


def find_by_name(name: str) -> int | None:
    """The id of the job with this name, if the scheduler knows one. Raises NotKnown if it does not answer."""
    queue = read_queue(0.0)
    if not queue.is_known:
        raise NotKnown(
            f"sbatch and squeue do not answer ({queue.answer.problem}): whether the job was accepted is not known",
            "the same command finds out, and submits what is missing",
        )
    return next((row.job_id for row in queue.rows if row.name == name), None)
