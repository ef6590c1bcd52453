"""The plan of a sweep as it grows: what is planned stays, what is new is added, another sweep is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dlcluster.errors import SubmissionError, UsageError
from dlcluster.files import make_dir, write_json_lines, write_text
from dlcluster.run_dir import Plan, SweepDir, plan_rows
from dlcluster.trial import Trial

MAX_TRIES = 10


def merge_plan(sweep: SweepDir, header: Mapping[str, Any], trials: Sequence[Trial]) -> Plan:
    """What is planned already, in its order, then what is new. Raises UsageError if the name holds another sweep."""
    if not sweep.has_plan():
        return Plan(header, tuple(trials))
    known = sweep.read_plan()
    refuse_another_sweep(sweep, known.header["identity"], header["identity"])
    seen = {trial.id for trial in known.trials}
    return Plan(header, (*known.trials, *(trial for trial in trials if trial.id not in seen)))


def refuse_another_sweep(sweep: SweepDir, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Same name, other question: the two must not be mixed in one run directory."""
    found = list(differences(known, given))
    if not found:
        return
    lines = [f"  {key}: {old!r} in the run directory, {new!r} now" for key, old, new in found]
    raise UsageError(
        f"{sweep.path} holds another sweep; these keys differ:\n" + "\n".join(lines),
        "give the new sweep another name (--name NAME), or delete the old run directory",
    )


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The leaves in which two JSON values differ, with their key paths; 1, 1.0 and true are three values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new or type(old) is not type(new):
        yield path, old, new


def write_plan(sweep: SweepDir, plan: Plan, spec_text: str) -> Plan:
    """Store the plan. Another command may be topping up the same sweep right now.

    There is no lock: after each write the file is read again, and what the other has written meanwhile is merged. What
    a third write takes away between the two, the command that asked for it puts back when it is run again.
    """
    for folder in (sweep.path, sweep.trials_dir, sweep.workers_dir, sweep.submissions_dir, sweep.results_dir):
        make_dir(folder)
    for _ in range(MAX_TRIES):
        merged = merge_plan(sweep, plan.header, plan.trials)
        write_json_lines(sweep.plan_file, plan_rows(merged.header, merged.trials))
        stored = {trial.id for trial in sweep.read_plan().trials}
        if all(trial.id in stored for trial in merged.trials):
            write_text(sweep.spec_file, spec_text)
            return merged
    raise SubmissionError(f"{sweep.plan_file}: other commands keep replacing the plan", "run this one again")
