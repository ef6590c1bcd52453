"""Where jobs come from: what every executor of a scheduler can do, and the table of them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from dlcluster.launch.job_plan import JobPlan
from dlcluster.launch.sbatch import SlurmExecutor, Submitted
from dlcluster.launch.submitit_launcher import SubmititExecutor


class Executor(Protocol):
    """The jobs of one submission, on their way to a scheduler."""

    def check(self) -> JobPlan:
        """What the scheduler would accept of them; nothing is written. Raises SubmissionError, PreconditionError."""

    def write_scripts(self) -> list[Path]:
        """One for each array; what a user can submit by hand."""

    def submit(self) -> Submitted:
        """Each array at most once, whatever becomes of us or of an answer."""


EXECUTORS: dict[str, type[SlurmExecutor]] = {"slurm": SlurmExecutor, "submitit": SubmititExecutor}
