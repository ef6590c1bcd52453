"""How many jobs a submission becomes, in which arrays, and what they may cost at most: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

DEFAULT_JOBS = 8  # of `trials_per_job: pull`, where `parallel` does not say


@dataclass(frozen=True)
class Batch:
    """One call of sbatch: the array 0 to size - 1, whose task i is element first + i of the submission."""

    first: int
    size: int


@dataclass(frozen=True)
class JobPlan:
    """Elements are the jobs of a submission; with `pull` each may take any trial, else each has its own.

    `n_left`: jobs that the site does not let in now; without them some trials wait for another submission.
    """

    batches: tuple[Batch, ...]
    trials_per_job: str | int
    at_once: int | None
    gpus_per_job: int
    time_s: float | None
    n_left: int = 0

    def first_jobs(self, n: int) -> JobPlan:
        """The first n, where a site lets in no more. Those of `pull` are enough for all trials: nothing is left."""
        batches = tuple(Batch(b.first, min(b.size, n - b.first)) for b in self.batches if b.first < n)
        n_left = 0 if self.trials_per_job == "pull" else self.n_jobs - n
        return replace(self, batches=batches, n_left=self.n_left + n_left)

    @property
    def n_jobs(self) -> int:
        return sum(batch.size for batch in self.batches)

    @property
    def max_gpu_hours(self) -> float | None:
        """What the jobs may use until each has reached its time limit once; None without GPUs or without a limit."""
        return None if self.time_s is None else self.n_jobs * self.gpus_per_job * self.time_s / 3600

    def throttle_of(self, batch: Batch) -> int | None:
        """The N of `--array=...%N`. Where it matters, the arrays follow one another: %N holds for one array only."""
        return self.at_once if self.at_once is not None and self.at_once < batch.size else None

    def waits_for(self, number: int) -> int | None:
        """The array that has to end before this one may start, because together they would be more than `parallel`."""
        if self.at_once is None or self.n_jobs <= self.at_once:
            return None
        n_arrays_at_once = max(1, self.at_once // self.batches[0].size)  # the first is the largest
        return number - n_arrays_at_once if number >= n_arrays_at_once else None

    def text(self) -> str:
        n, n_arrays = self.n_jobs, len(self.batches)
        jobs = f"{n} job{'s' * (n != 1)} in {n_arrays} array{'s' * (n_arrays != 1)}"
        limit = f", at most {self.at_once} at once" if self.at_once is not None and self.at_once < self.n_jobs else ""
        if self.n_left:
            limit += f" ({self.n_left} more when the site lets them in)"
        cost = self.max_gpu_hours
        return f"{jobs}{limit}" + (f", at most {cost:,.1f} GPU-hours before anything is requeued" if cost else "")


def make_job_plan(launch: Mapping[str, Any], n_trials: int, chunk_size: int) -> JobPlan:
    """Split what is wanted into arrays of at most `chunk_size` tasks.

    A job runs `trials_per_gpu` trials at once. With `pull`, `parallel` is the number of trials at once, and there are
    no more jobs than those need; with `trials_per_job: N` there is a job for every N trials, so many of them at once.
    """
    per_job, packed, parallel = launch["trials_per_job"], launch["trials_per_gpu"], launch["parallel"]
    at_once = None if parallel is None else ceil_div(parallel, packed)
    if per_job == "pull":
        n_jobs = min(at_once or DEFAULT_JOBS, ceil_div(n_trials, packed))
    else:
        n_jobs = ceil_div(n_trials, per_job)
    batches = tuple(Batch(first, min(chunk_size, n_jobs - first)) for first in range(0, n_jobs, chunk_size))
    return JobPlan(batches, per_job, at_once, (launch["gpus"] or 0) * launch["nodes"], launch["time"])


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
