"""The commands that start something, as visible lists of named steps. With `queries`, all that knows the stages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcluster import __version__
from dlcluster.errors import UsageError, WorkerExit
from dlcluster.files import share_with_group, write_json
from dlcluster.journal import State
from dlcluster.launch.plan import LaunchPlan, make_launch_plan
from dlcluster.launch.status import TrialStatus, hold_message, read_statuses
from dlcluster.launch.top_up import merge_plan, write_plan
from dlcluster.launch.view import View
from dlcluster.run_dir import Plan, SweepDir

if TYPE_CHECKING:
    from dlcluster.spec.expand import Expansion
    from dlcluster.spec.schema import Spec

DEFAULT_RUNS_DIR = Path("runs")
MIN_FREE_BYTES = 64 << 20
MIN_FREE_INODES = 1000


@dataclass(frozen=True)
class SweepOptions:
    """What the flags of `sweep` and `resume` say."""

    runs_dir: Path = DEFAULT_RUNS_DIR
    overrides: tuple[str, ...] = ()
    name: str | None = None
    parallel: int | None = None
    dry_run: bool = False
    import_check: bool = True
    allow_large: bool = False
    argv: tuple[str, ...] = ()


@dataclass
class SweepResult:
    """What a call of `sweep` or `resume` has come to."""

    sweep: SweepDir
    plan: Plan
    launch_plan: LaunchPlan
    started: bool = False
    interrupted: bool = False
    unfinished: list[TrialStatus] = field(default_factory=list)
    worker_problem: str = ""
    worker_codes: Sequence[int] = ()

    def lost_its_place(self) -> bool:
        """Whether a worker had to end because nothing could be written any more."""
        return bool(self.unfinished) and bool({WorkerExit.DISK, WorkerExit.IO_LOST} & set(self.worker_codes))

    def nothing_began(self) -> bool:
        """Whether workers were started, and not one of the trials that were wanted has begun."""
        first = dict(self.launch_plan.wanted)
        return len(self.unfinished) == len(first) and all(s.n_attempts < first[s.trial.id] for s in self.unfinished)


def run_sweep(spec_file: Path, options: SweepOptions, view: View) -> SweepResult:
    """Run, resume or top up a sweep: what is missing, and nothing more."""
    spec = read_spec(spec_file, options)
    expansion = expand_spec(spec)
    sweep = SweepDir((options.runs_dir / spec.name).resolve())
    plan = merge_plan(sweep, plan_header(spec), expansion.trials)
    launch_plan = make_launch_plan(read_statuses(sweep, plan))
    result = SweepResult(sweep, plan, launch_plan)
    if not launch_plan.wanted:
        return result
    for warning in spec.warnings:
        view.say(f"warning: {warning}")
    if expansion.n_rejected or expansion.n_duplicates:
        view.say(expansion.summary())
    check_run_dir(sweep)
    check_code(spec, sweep, options)
    check_job(spec, sweep, options)
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
    trials = [plan.by_id(only)] if only is not None else None
    launch_plan = make_launch_plan(read_statuses(sweep, plan, trials), again)
    result = SweepResult(sweep, plan, launch_plan)
    if options.dry_run or not launch_plan.wanted:
        return result
    check_run_dir(sweep)
    share_if_asked(plan)
    code, snapshot = newest_code(sweep, plan)
    return launch(result, code, snapshot, options, view)


def read_spec(spec_file: Path, options: SweepOptions) -> Spec:
    from dlcluster.spec.schema import load_spec

    overrides = list(options.overrides)
    if options.name:
        overrides.append(f"name={options.name}")
    return load_spec(spec_file, overrides, allow_large=options.allow_large)


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


def check_run_dir(sweep: SweepDir) -> None:
    """Raise PreconditionError if the run directory cannot hold the sweep: permission, owner, space, name."""
    from dlcluster.launch.preconditions import check_place

    check_place(sweep.path, MIN_FREE_BYTES, MIN_FREE_INODES)


def check_code(spec: Spec, sweep: SweepDir, options: SweepOptions) -> None:
    """Raise UsageError if the project cannot be copied (too large, links that leave it), before anything is written."""
    from dlcluster.launch.snapshot import hash_of_code

    if spec.code == "snapshot":
        hash_of_code(spec.project_root, sweep, options.runs_dir)


def share_if_asked(plan: Plan) -> None:
    if plan.spec["share"] == "group":
        share_with_group()


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


def _intents(sweep: SweepDir) -> list[dict[str, Any]]:
    found = (submission.read_intent() for submission in sweep.submissions())
    return [intent for intent in found if intent]


def store_provenance(sweep: SweepDir, submission: str, plan: Plan, options: SweepOptions) -> None:
    """Of this submission, and of the sweep if it is the first one: later ones may come from another commit."""
    from dlcluster.worker.provenance import collect

    facts = collect(Path(plan.header["project_root"]), list(options.argv))
    write_json(sweep.submission(submission).provenance_file, facts)
    if not sweep.provenance_file.exists():
        write_json(sweep.provenance_file, facts)


def launch(result: SweepResult, code: Path, snapshot: str | None, options: SweepOptions, view: View) -> SweepResult:
    """Write the submission, start the workers, follow them to the end."""
    import os

    from dlcluster.launch.follow import Follower
    from dlcluster.launch.local import LocalExecutor, make_slots, visible_gpus
    from dlcluster.launch.running import run_workers, worker_problem
    from dlcluster.launch.submission import make_rules, write_intent

    sweep, plan, launch_plan = result.sweep, result.plan, result.launch_plan
    settings = {**plan.spec["launch"], **({"parallel": options.parallel} if options.parallel else {})}
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
