"""The state of a sweep in words: for people, for machines, and the log of one trial as it grows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dlcluster.journal import State
from dlcluster.launch.status import TrialStatus, count_states, read_statuses
from dlcluster.launch.usage import usage_of
from dlcluster.run_dir import Plan, SweepDir
from dlcluster.screen import duration, first_line, metrics_text

NEEDS_ATTENTION = frozenset(
    {State.RUNNING, State.HELD, State.INTERRUPTED, State.FAILED, State.CANCELLED, State.STOPPED}
)
MAX_TRIALS_SHOWN, MAX_REASONS_SHOWN = 40, 3
LOOK_S = 0.3


def status_text(sweep: SweepDir, plan: Plan, statuses: Sequence[TrialStatus], show_all: bool) -> str:
    counts = ", ".join(f"{n} {state}" for state, n in count_states(statuses).items())
    lines = [f"{plan.header['name']}: {len(statuses)} trials: {counts}", f"  {sweep.path}"]
    usage = usage_of(((s.seconds, s.wasted) for s in statuses), plan.spec["launch"]).text()
    if usage:
        lines.append(f"  {usage}")
    lines += [f"  pending: {n} {reason}" for reason, n in pending_reasons(statuses)]
    held = next((s.state.reason for s in statuses if s.state.state is State.HELD), "")
    if held:
        lines.append(f"  held: {held}")
    chosen = [s for s in statuses if show_all or s.state.state in NEEDS_ATTENTION]
    lines += [trial_line(status) for status in (chosen if show_all else chosen[:MAX_TRIALS_SHOWN])]
    if not show_all and len(chosen) > MAX_TRIALS_SHOWN:
        lines.append(f"  ... and {len(chosen) - MAX_TRIALS_SHOWN} more (--all)")
    return "\n".join(lines)


def pending_reasons(statuses: Sequence[TrialStatus]) -> list[tuple[str, int]]:
    """Why trials do not run yet, the most frequent reason first; also that the scheduler does not answer."""
    reasons = Counter(
        s.state.reason
        for s in statuses
        if s.state.state is State.PENDING or s.state.reason.startswith("scheduler unreachable")
    )
    return [(reason, n) for reason, n in reasons.most_common(MAX_REASONS_SHOWN) if reason]


def trial_line(status: TrialStatus) -> str:
    state = status.state.state.value if status.state.state is State.HELD else str(status.state)
    parts = [f"  {status.trial.id}  {state}", f"attempt {status.n_attempts}", f"seed {status.trial.seed}"]
    if status.step:
        parts.append(f"step {status.step} {metrics_text(status.last_metrics)}")
    if status.seconds:
        parts.append(duration(status.seconds))
    if status.message and status.state.state is not State.COMPLETED:
        parts.append(first_line(status.message)[:80])
    return "  ".join(parts)


def status_json(plan: Plan, statuses: Sequence[TrialStatus]) -> dict[str, Any]:
    return {
        "name": plan.header["name"],
        "counts": count_states(statuses),
        "usage": asdict(usage_of(((s.seconds, s.wasted) for s in statuses), plan.spec["launch"])),
        "trials": [
            {
                **status.trial.to_json(),
                "state": status.state.state.value,
                "reason": status.state.reason,
                "attempts": status.n_attempts,
                "step": status.step,
                "metrics": status.last_metrics,
                "seconds": status.seconds,
                "message": status.message,
            }
            for status in statuses
        ],
    }


def follow_log(sweep: SweepDir, trial_id: str, log: Path, follow: bool) -> Iterator[bytes]:
    """What is in the log, and with `follow` what comes, until the trial is no longer running."""
    plan = sweep.read_plan()
    trial = plan.by_id(trial_id)
    position = 0
    while True:
        running = follow and read_statuses(sweep, plan, [trial])[0].state.state is State.RUNNING
        try:
            with open(log, "rb") as file:
                file.seek(position)
                data = file.read()
        except FileNotFoundError:
            data = b""
        position += len(data)
        if data:
            yield data
        if not running:
            return
        time.sleep(LOOK_S)
