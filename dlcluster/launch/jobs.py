"""A submission to a scheduler, step by step: what it would be, whether it would be accepted, and handing it over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlcluster.errors import PreconditionError
from dlcluster.journal import State
from dlcluster.launch.executor import EXECUTORS, Executor
from dlcluster.launch.file_systems import Reach, file_system_of
from dlcluster.launch.follow import Follower
from dlcluster.launch.job_plan import JobPlan, make_job_plan
from dlcluster.launch.partitions import read_partitions
from dlcluster.launch.sbatch import Submitted
from dlcluster.launch.site import read_site
from dlcluster.launch.submission import write_intent
from dlcluster.launch.view import View
from dlcluster.run_dir import SweepDir

LOOK_S = 1.0
SETTLE_S = 15.0  # what a job has written last may not be visible here at once
NO_SUBMISSION = "20000101T000000-000000"  # as long as any other, for a script that is only shown to sbatch


@dataclass(frozen=True)
class Order:
    """What is to be handed to a scheduler."""

    sweep: SweepDir
    launch: Mapping[str, Any]
    jobs: JobPlan
    margin_s: float
    shared: bool
    kill_wait_s: float

    def executor(self, submission: str) -> Executor:
        kind = EXECUTORS[self.launch["executor"]]
        return kind(self.sweep, submission, self.jobs, self.launch, self.margin_s, self.shared)


def make_order(sweep: SweepDir, launch: Mapping[str, Any], n_trials: int, margin_s: float, *, shared: bool) -> Order:
    """Raises PreconditionError without a scheduler."""
    site = read_site()
    if site is None:
        raise PreconditionError("Slurm not found: sbatch is not in PATH", "use --executor local, or a login node")
    jobs = make_job_plan(launch, n_trials, site.chunk_size)
    return Order(sweep, launch, jobs, margin_s, shared, float(site.kill_wait_s))


def check_order(order: Order) -> Order:
    """What the scheduler would accept of it; nothing is written. Raises SubmissionError, PreconditionError."""
    accepted = replace(order, jobs=order.executor(NO_SUBMISSION).check())
    check_reach(order.sweep.path, order.launch.get("partition"))
    return accepted


def check_reach(path: Path, partition: str | None) -> None:
    """A disk of this machine will do only if all nodes of the partition are this machine. Raises PreconditionError."""
    system = file_system_of(path)
    if system is None or system.reach is not Reach.THIS_MACHINE:
        return
    wanted = [p for p in read_partitions() if (p.name == partition if partition else p.is_default)]
    elsewhere = [node.name for p in wanted for node in p.nodes_elsewhere]
    if elsewhere:
        raise PreconditionError(
            f"{path}: on {system.kind}, a disk of this machine; jobs also run on {elsewhere[0]}",
            "choose a --runs-dir that all nodes share: your home folder, say",
        )


def place_order(
    order: Order,
    wanted: list[tuple[str, int]],
    rules: Mapping[str, Any],
    snapshot: str | None,
    *,
    checked: bool,
    by_hand: bool = False,
) -> tuple[str, list[Path]]:
    """Everything on disk that the jobs need, before any of them is submitted: the submission's id, the scripts."""
    submission = write_intent(
        order.sweep,
        wanted,
        rules,
        snapshot,
        checked=checked,
        jobs=order.jobs,
        executor=order.launch["executor"],
        by_hand=by_hand,
    )
    return submission, order.executor(submission).write_scripts()


def submit_order(order: Order, submission: str) -> Submitted:
    return order.executor(submission).submit()


def wait_for_jobs(follower: Follower, view: View) -> bool:
    """Show what the jobs do until nothing is left that one of them would run. False if the user has had enough.

    Nothing depends on it: killed, or ended with Ctrl-C, it leaves the jobs as they are.
    """
    idle_since = None
    try:
        while not view.n_interrupts():
            began = time.monotonic()
            progress = follower.look()
            view.show(progress, follower.newly_finished)
            if progress.n_finished == progress.n_wanted:
                return True
            if progress.running or any(s.state.state is State.PENDING for s in follower.unfinished()):
                idle_since = None
            else:
                idle_since = idle_since or began
                if time.monotonic() - idle_since > SETTLE_S:
                    return True
            _wait(view, max(LOOK_S, time.monotonic() - began))
        return False
    finally:
        view.end()


def _wait(view: View, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not view.n_interrupts():
        time.sleep(0.05)
