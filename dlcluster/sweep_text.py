"""What `sweep` and `resume` say before and instead of running: the plan of a dry run, and that nothing is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlcluster.journal import State
from dlcluster.launch.plan import Action
from dlcluster.launch.status import count_states
from dlcluster.launch.usage import seconds_left
from dlcluster.screen import duration
from dlcluster.sweep_call import SweepResult

if TYPE_CHECKING:
    from dlcluster.launch.cancel import Cancelled


def nothing_missing_text(result: SweepResult) -> str:
    statuses = [decision.status for decision in result.launch_plan.decisions]
    counts = ", ".join(f"{n} {state}" for state, n in count_states(statuses).items())
    name = result.sweep.name
    pending = [status for status in statuses if status.state.state.value in ("pending", "running")]
    if pending:
        return f"{name}: nothing to do: {counts}. `dlcluster status {name}` shows how it goes, --wait follows it."
    line = f"{name}: nothing is missing ({counts}). `dlcluster table {name}` shows the results."
    if any(status.state.state.value in ("failed", "cancelled") for status in statuses):
        line += f"\n`dlcluster resume {name} --failed` runs failed and cancelled trials again."
    return line


def dry_run_text(result: SweepResult) -> str:
    """The plan: what would be started, what is kept, and what it will take on disk."""
    plan, decisions = result.plan, result.launch_plan
    n, n_configs = len(decisions.wanted), len({t.config for t in plan.trials})
    lines = [
        f"{plan.header['name']}: {len(plan.trials)} trials, {n_configs} configs",
        f"  run directory   {result.sweep.path}",
        f"  to start        {decisions.count(Action.START)}",
        f"  to go on with   {decisions.count(Action.GO_ON)}",
        f"  to keep         {decisions.count(Action.KEEP)}",
        f"  files           about {5 * n} files and folders, checkpoints and predictions aside",
    ]
    if result.order is not None:
        lines.append(f"  jobs            {result.order.jobs.text()}")
    left = time_left(result)
    if left is not None:
        lines.append(f"  time            about {duration(left)} of running, by the median of what has completed")
    for decision in [d for d in decisions.decisions if d.action is not Action.KEEP][:10]:
        trial = decision.status.trial
        params = " ".join(f"{k}={v}" for k, v in trial.params.items())
        lines.append(f"  {trial.id}  attempt {decision.next_attempt}  seed={trial.seed} {params}")
    if n > 10:
        lines.append(f"  ... and {n - 10} more")
    return "\n".join(lines)


def time_left(result: SweepResult) -> float | None:
    """Seconds that what is to run will take, by the trials that have completed; None if none has."""
    done = [d.status.seconds for d in result.launch_plan.decisions if d.status.state.state is State.COMPLETED]
    settings = result.plan.spec["launch"]
    jobs = result.order.jobs if result.order is not None else None
    at_once = settings["parallel"] or (jobs.n_jobs * settings["trials_per_gpu"] if jobs else 1)
    return seconds_left(done, len(result.launch_plan.wanted), at_once)


def submitted_text(result: SweepResult) -> str:
    """What has become of a submission: the jobs, and how to see what they do."""
    done, order, name = result.submitted, result.order, result.sweep.name
    assert done is not None and order is not None  # noqa: S101 - only called after a submission
    ids = " ".join(str(job_id) for job_id in done.job_ids.values())
    n = sum(order.jobs.batches[k].size for k in done.job_ids)
    lines = [f"{name}: {len(result.launch_plan.wanted)} trials submitted as {n} job(s): {ids}"] if done.job_ids else []
    if done.problem:
        lines.append(f"error: {done.problem}")
        left = f"{done.n_left} job(s) {'may not have been' if done.is_open else 'were not'} submitted"
        is_shared = order.jobs.trials_per_job == "pull" and done.job_ids
        lines.append(f"{left}; {'the others take their trials' if is_shared else 'the same command goes on with them'}")
    else:
        lines.append(f"`dlcluster status {name}` shows how it goes, `dlcluster sweep ... --wait` follows it")
    return "\n".join(lines)


def scripts_text(result: SweepResult) -> str:
    """Where the scripts are, and how to submit them."""
    if not result.scripts:
        return nothing_missing_text(result)
    lines = [f"{result.sweep.name}: {len(result.launch_plan.wanted)} trials; nothing was submitted. To submit:"]
    return "\n".join([*lines, *(f"  sbatch {script}" for script in result.scripts)])


def cancelled_text(name: str, told: Cancelled, ended: bool) -> str:
    parts = []
    if told.workers:
        parts.append(f"{len(told.workers)} worker(s) told to stop" + ("" if ended else "; not all have ended yet"))
    if told.n_jobs:
        parts.append(f"{told.n_jobs} job(s) taken out of the queue")
    return f"{name}: {', '.join(parts) or 'nothing is running'}"
