"""What is checked before anything is written or submitted; each step raises the error that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dlcluster.errors import PreconditionError
from dlcluster.launch.plan import LaunchPlan
from dlcluster.launch.view import View
from dlcluster.run_dir import SweepDir
from dlcluster.sweep_call import SweepOptions, SweepResult, launch_settings

if TYPE_CHECKING:
    from dlcluster.launch.jobs import Order
    from dlcluster.spec.schema import Spec

MIN_FREE_BYTES = 64 << 20
MIN_FREE_INODES = 1000


def find_lost_jobs(sweep: SweepDir, options: SweepOptions, view: View) -> None:
    """Jobs of a command that died before it could note them; none for a sweep that never saw a scheduler."""
    if not options.dry_run and any(submission.script(0).exists() for submission in sweep.submissions()):
        from dlcluster.launch.recover import recover

        for line in recover(sweep, assume_lost=options.assume_lost):
            view.say(line)


def refuse_if_unknown(launch_plan: LaunchPlan) -> None:
    """Nothing is started while it cannot be told what is already waiting. Raises PreconditionError."""
    silent = [d.status.state for d in launch_plan.decisions if d.status.state.reason.startswith("scheduler unreach")]
    if silent:
        raise PreconditionError(
            f"{silent[0].reason}: whether jobs wait for {len(silent)} trial(s) cannot be told",
            "try again when it answers; running trials go on without it",
        )


def check_run_dir(sweep: SweepDir) -> None:
    """Raise PreconditionError if the run directory cannot hold the sweep: permission, owner, space, name."""
    from dlcluster.launch.preconditions import check_place

    check_place(sweep.path, MIN_FREE_BYTES, MIN_FREE_INODES)


def check_code(spec: Spec, sweep: SweepDir, options: SweepOptions) -> None:
    """Raise UsageError if the project cannot be copied (too large, links that leave it), before anything is written."""
    from dlcluster.launch.snapshot import hash_of_code

    if spec.code == "snapshot":
        hash_of_code(spec.project_root, sweep, options.runs_dir)


def check_job(spec: Spec, sweep: SweepDir, options: SweepOptions) -> None:
    """Compare the parameters with what the job takes, before anything is written. Raises SpecError."""
    from dlcluster.errors import SpecError
    from dlcluster.launch.job_import import inspect_job
    from dlcluster.spec.job_check import check_parameters

    description = None
    if spec.job is not None and options.import_check:
        if has_passed(spec, sweep, options):
            return
        description = inspect_job(spec.job, spec.project_root)
        if not description["ok"]:
            hint = "--no-import-check leaves this to the workers"
            raise SpecError([spec.problem(("job",), "E301", description["message"], hint)])
    if spec.command is not None or description is not None:
        problems = check_parameters(spec, description or {})
        if problems:
            raise SpecError(problems)


def has_passed(spec: Spec, sweep: SweepDir, options: SweepOptions) -> bool:
    """Whether the same code has been checked against the same parameters before an earlier submission."""
    from dlcluster.launch.snapshot import hash_of_code
    from dlcluster.launch.submission import snapshots_that_passed

    passed = snapshots_that_passed(sweep)
    return (
        bool(passed) and spec.code == "snapshot" and hash_of_code(spec.project_root, sweep, options.runs_dir) in passed
    )


def check_scheduler(result: SweepResult, options: SweepOptions) -> Order | None:
    """What would be submitted, checked by the scheduler itself; None if workers run on this machine."""
    settings = launch_settings(result.plan, options)
    if settings["executor"] == "local":
        return None
    from dlcluster.launch.jobs import check_order, make_order
    from dlcluster.launch.submission import make_rules

    rules = make_rules(result.plan, Path("/"))
    shared = result.plan.spec["share"] == "group"
    order = make_order(result.sweep, settings, len(result.launch_plan.wanted), rules["margin"], shared=shared)
    return order if options.by_hand else check_order(order)
