"""Which worker this is: its id, its share of the submission, and the Slurm job that it runs in."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dlcluster.worker.slurm_job import SlurmJob, from_environment, seconds_left


class BadArguments(Exception):
    """Nothing can be done with these arguments."""


@dataclass(frozen=True)
class Place:
    """`element`: which job of the submission this is; None for a worker of the local executor, which may take all.

    `fellow`: which of the workers beside the first of its job, from 1; 0 for the first, which speaks with Slurm.
    `elapsed` seconds of the job's time were gone when the worker began, and `left` are to come, if Slurm says it.
    """

    worker_id: str
    element: int | None = None
    job: SlurmJob | None = None
    elapsed: float = 0.0
    left: float | None = None
    fellow: int = 0
    first_element: int = 0
    parent: int = field(default_factory=os.getppid)  # noted before anything takes time: if it changes, it has died

    @property
    def owner(self) -> dict[str, Any]:
        """What start records and heartbeats say about it."""
        return {"worker": self.worker_id} | ({"job": self.job.to_json()} if self.job else {})

    def name_of_fellow(self, number: int) -> str:
        return f"{self.worker_id}p{number}"

    def share(self, intent: Mapping[str, Any]) -> list[Sequence[Any]]:
        """The trials that this worker may take: all of them, or the N of its job."""
        wanted, n = intent["trials"], intent.get("trials_per_job", "pull")
        if self.element is None or not isinstance(n, int):
            return wanted
        return wanted[self.element * n : (self.element + 1) * n]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadArguments(message)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises BadArguments with one line."""
    parser = Parser(prog="python -m dlcluster.worker")
    parser.add_argument("run_dir")
    parser.add_argument("--submission", required=True)
    parser.add_argument("--worker", help="the worker's id, from the local executor")
    parser.add_argument("--first-element", type=_count, help="in a job: which of all jobs its array's element 0 is")
    parser.add_argument("--fellow", type=_count, default=0, help="in a job that runs several trials at once: which")
    parser.add_argument("--elapsed", type=_seconds, default=0.0, help="seconds of the job's time that are gone")
    parser.add_argument("--parent", type=int, help="end with this process, which started the worker")
    options = parser.parse_args(arguments)
    if (options.worker is None) == (options.first_element is None):
        raise BadArguments("one of --worker and --first-element is needed")
    return options


def place_of(options: argparse.Namespace, environ: Mapping[str, str]) -> Place:
    """Only a worker that was submitted looks for a job: in a user's own allocation the variables are another job's."""
    if options.worker is not None:
        return Place(options.worker, elapsed=options.elapsed)
    job = from_environment(environ)
    element = options.first_element + (job.array_task_id or 0 if job else 0)
    restarts = f"r{job.restarts}" if job and job.restarts else ""
    left = seconds_left(environ, time.time()) if job else None
    if left is not None and left <= 0:
        left = None  # the clocks of this node and of the scheduler differ: it says nothing
    fellow = f"p{options.fellow}" if options.fellow else ""
    name = f"{options.submission}-{element:04d}{restarts}{fellow}"
    return Place(name, element, job, options.elapsed, left, options.fellow, options.first_element)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds
