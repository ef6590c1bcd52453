"""Starting workers and following them: the code they run from, then processes here or jobs of a scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcluster.errors import UsageError
from dlcluster.files import write_json
from dlcluster.journal import State
from dlcluster.launch.status import hold_message
from dlcluster.launch.view import View
from dlcluster.run_dir import Plan, SweepDir
from dlcluster.sweep_call import SweepOptions, SweepResult, launch_settings

if TYPE_CHECKING:
    from dlcluster.spec.schema import Spec


def store_code(spec: Spec, sweep: SweepDir, options: SweepOptions, view: View) -> tuple[Path, str | None]:
    """The folder that workers run from, and its hash: a snapshot, or the live code if the spec says so."""
    if spec.code == "live":
        view.say("code: live - trials run whatever is in the project when they start")
        return spec.project_root, None
    from dlcluster.launch.snapshot import take_snapshot

    before = {intent["snapshot"] for intent in _intents(sweep)}
    snapshot = take_snapshot(spec.project_root, sweep, options.runs_dir.resolve())
    if before and snapshot.hash not in before:
        view.say("the code has changed since the last call: what is missing runs from a new snapshot")
    for note in snapshot.notes:
        view.say(note)
    if snapshot.ignored:
        view.say(f"left out of the snapshot, because they look like secrets: {', '.join(snapshot.ignored[:10])}")
    return snapshot.path, snapshot.hash


def newest_code(sweep: SweepDir, plan: Plan) -> tuple[Path, str | None]:
    """The code of the newest submission: `resume` needs no spec and no project."""
    intents = _intents(sweep)
    if not intents:
        raise UsageError(f"{sweep.path}: nothing has been started yet", "use `dlcluster sweep SPEC`")
    snapshot = intents[-1]["snapshot"]
    if snapshot is None:
        return Path(intents[-1]["rules"]["code"]), None
    return sweep.code_dir / snapshot, snapshot  # where it is now: the run directory may have been moved


def executor_of_newest(sweep: SweepDir) -> str | None:
    """Where the trials of a sweep ran last: `resume` goes on there."""
    intents = _intents(sweep)
    return intents[-1].get("executor") if intents else None


def _intents(sweep: SweepDir) -> list[dict[str, Any]]:
    found = (submission.read_intent() for submission in sweep.submissions())
    return [intent for intent in found if intent]


def launch_here(
    result: SweepResult, code: Path, snapshot: str | None, options: SweepOptions, view: View
) -> SweepResult:
    """Processes of this machine: they end with this command."""
    import os

    from dlcluster.launch.follow import Follower
    from dlcluster.launch.local import LocalExecutor, make_slots, visible_gpus
    from dlcluster.launch.running import run_workers, worker_problem
    from dlcluster.launch.submission import make_rules, write_intent

    sweep, plan, launch_plan = result.sweep, result.plan, result.launch_plan
    settings = launch_settings(plan, options)
    slots = make_slots(settings, visible_gpus(), len(os.sched_getaffinity(0)), len(launch_plan.wanted))
    submission = write_intent(sweep, launch_plan.wanted, make_rules(plan, code), snapshot, checked=options.import_check)
    store_provenance(sweep, submission, plan, options)
    executor = LocalExecutor(sweep, submission, slots)
    follower = Follower(sweep, plan, launch_plan.wanted)
    view.begin(sweep, plan, launch_plan)
    result.started = True
    run_workers(executor, follower, view, settings["grace"])
    result.unfinished = follower.unfinished()
    result.interrupted = executor.is_stopping
    result.worker_codes = executor.exit_codes
    if result.unfinished:
        result.worker_problem = hold_message(sweep) or worker_problem(sweep, submission, executor.exit_codes)
    return result


def launch_jobs(
    result: SweepResult, code: Path, snapshot: str | None, options: SweepOptions, view: View
) -> SweepResult:
    """Submit, and with `wait` follow. The jobs need nothing from this process any more."""
    from dlcluster.launch.jobs import place_order, submit_order
    from dlcluster.launch.submission import make_rules

    order, wanted = result.order, result.launch_plan.wanted
    assert order is not None  # noqa: S101
    rules = {
        **make_rules(result.plan, code),
        "executor": order.launch["executor"],
        "kill_wait": order.kill_wait_s,
    }
    submission, result.scripts = place_order(
        order, wanted, rules, snapshot, checked=options.import_check, by_hand=options.by_hand
    )
    store_provenance(result.sweep, submission, result.plan, options)
    result.started = True
    if options.by_hand:
        return result
    result.submitted = submit_order(order, submission)
    return follow_jobs(result, view) if options.wait and result.submitted.job_ids else result


def follow_pending(result: SweepResult, options: SweepOptions, view: View) -> SweepResult:
    """With `wait`, follow what other commands have submitted; without, there is nothing to do."""
    pending = [d.status for d in result.launch_plan.decisions if d.status.state.state in (State.PENDING, State.RUNNING)]
    if not (options.wait and pending) or options.dry_run:
        return result
    return follow_jobs(result, view, [(status.trial.id, 0) for status in pending])


def follow_jobs(result: SweepResult, view: View, wanted: list[tuple[str, int]] | None = None) -> SweepResult:
    from dlcluster.launch.follow import Follower
    from dlcluster.launch.jobs import wait_for_jobs

    follower = Follower(result.sweep, result.plan, result.launch_plan.wanted if wanted is None else wanted)
    view.begin(result.sweep, result.plan, result.launch_plan)
    result.followed = True
    result.left_alone = not wait_for_jobs(follower, view)
    result.unfinished = follower.unfinished()
    if result.unfinished:
        result.worker_problem = hold_message(result.sweep)
    return result


def store_provenance(sweep: SweepDir, submission: str, plan: Plan, options: SweepOptions) -> None:
    """Of this submission, and of the sweep if it is the first one: later ones may come from another commit."""
    from dlcluster.worker.provenance import collect

    facts = collect(Path(plan.header["project_root"]), list(options.argv))
    write_json(sweep.submission(submission).provenance_file, facts)
    if not sweep.provenance_file.exists():
        write_json(sweep.provenance_file, facts)
