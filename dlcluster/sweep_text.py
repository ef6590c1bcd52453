"""What `sweep` and `resume` say before and instead of running: the plan of a dry run, and that nothing is missing."""

from __future__ import annotations

from dlcluster.launch.plan import Action
from dlcluster.launch.status import count_states
from dlcluster.pipeline import SweepResult


def nothing_missing_text(result: SweepResult) -> str:
    statuses = [decision.status for decision in result.launch_plan.decisions]
    counts = ", ".join(f"{n} {state}" for state, n in count_states(statuses).items())
    name = result.sweep.name
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
    for decision in [d for d in decisions.decisions if d.action is not Action.KEEP][:10]:
        trial = decision.status.trial
        params = " ".join(f"{k}={v}" for k, v in trial.params.items())
        lines.append(f"  {trial.id}  attempt {decision.next_attempt}  seed={trial.seed} {params}")
    if n > 10:
        lines.append(f"  ... and {n - 10} more")
    return "\n".join(lines)
