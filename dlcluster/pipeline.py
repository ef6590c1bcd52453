"""The commands that start something, as visible lists of named steps. With `queries`, all that knows the stages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcluster import __version__
from dlcluster.files import share_with_group
from dlcluster.journal import State
from dlcluster.launch.plan import make_launch_plan
from dlcluster.launch.status import read_statuses
from dlcluster.launch.top_up import merge_plan, write_plan
from dlcluster.launch.view import View
from dlcluster.pipeline_checks import (
    check_code,
    check_job,
    check_run_dir,
    check_scheduler,
    find_lost_jobs,
    refuse_if_unknown,
)
from dlcluster.pipeline_start import (
    executor_of_newest,
    follow_pending,
    launch_here,
    launch_jobs,
    newest_code,
    store_code,
)
from dlcluster.run_dir import Plan, SweepDir
from dlcluster.sweep_call import SweepOptions, SweepResult

if TYPE_CHECKING:
    from dlcluster.spec.expand import Expansion
    from dlcluster.spec.schema import Spec


def run_sweep(spec_file: Path, options: SweepOptions, view: View) -> SweepResult:
    """Run, resume or top up a sweep: what is missing, and nothing more."""
    spec = read_spec(spec_file, options)
    expansion = expand_spec(spec)
    sweep = SweepDir((options.runs_dir / spec.name).resolve())
    plan = merge_plan(sweep, plan_header(spec), expansion.trials)
    find_lost_jobs(sweep, options, view)
    launch_plan = make_launch_plan(read_statuses(sweep, plan, max_age_s=0.0))
    refuse_if_unknown(launch_plan)
    result = SweepResult(sweep, plan, launch_plan)
    if not launch_plan.wanted:
        return follow_pending(result, options, view)
    for warning in spec.warnings:
        view.say(f"warning: {warning}")
    if expansion.n_rejected or expansion.n_duplicates:
        view.say(expansion.summary())
    check_run_dir(sweep)
    check_code(spec, sweep, options)
    check_job(spec, sweep, options)
    result.order = check_scheduler(result, options)
    if options.dry_run:
        return result
    share_if_asked(plan)
    result.plan = write_plan(sweep, plan, spec.text)
    code, snapshot = store_code(spec, sweep, options, view)
    return launch(result, code, snapshot, options, view)


def resume_sweep(
    sweep: SweepDir, again: Collection[State], only: str | None, options: SweepOptions, view: View
) -> SweepResult:
    """Run what is left of a sweep, from its run directory alone; `again` names final states to run again too."""
    plan = sweep.read_plan()
    options = replace(options, executor=options.executor or executor_of_newest(sweep))
    trials = [plan.by_id(only)] if only is not None else None
    find_lost_jobs(sweep, options, view)
    launch_plan = make_launch_plan(read_statuses(sweep, plan, trials, max_age_s=0.0), again)
    refuse_if_unknown(launch_plan)
    result = SweepResult(sweep, plan, launch_plan)
    if not launch_plan.wanted:
        return follow_pending(result, options, view)
    check_run_dir(sweep)
    result.order = check_scheduler(result, options)
    if options.dry_run:
        return result
    share_if_asked(plan)
    code, snapshot = newest_code(sweep, plan)
    return launch(result, code, snapshot, options, view)


def read_spec(spec_file: Path, options: SweepOptions) -> Spec:
    from dlcluster.launch.profiles import chosen_profile, find_profile
    from dlcluster.spec.schema import load_spec

    overrides = list(options.overrides)
    if options.name:
        overrides.append(f"name={options.name}")
    return load_spec(
        spec_file,
        overrides,
        allow_large=options.allow_large,
        find_profile=find_profile,
        profile=chosen_profile(None),
    )


def expand_spec(spec: Spec) -> Expansion:
    from dlcluster.spec.expand import expand

    return expand(spec)


def plan_header(spec: Spec) -> dict[str, Any]:
    """What a run directory says about its sweep: the resolved spec, so that nobody has to read YAML again."""
    return {
        "name": spec.name,
        "fingerprint": spec.fingerprint,
        "identity": spec.identity(),
        "spec": spec.to_json(),
        "project_root": str(spec.project_root),
        "version": __version__,
    }


def share_if_asked(plan: Plan) -> None:
    if plan.spec["share"] == "group":
        share_with_group()


def launch(result: SweepResult, code: Path, snapshot: str | None, options: SweepOptions, view: View) -> SweepResult:
    """Write the submission and start the workers: here, followed to their end, or as jobs of a scheduler."""
    start = launch_here if result.order is None else launch_jobs
    return start(result, code, snapshot, options, view)
