"""What a call of `sweep`, `resume` or `sbatch` asks for, and what it has come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcluster.errors import WorkerExit
from dlcluster.launch.plan import LaunchPlan
from dlcluster.launch.status import TrialStatus
from dlcluster.run_dir import Plan, SweepDir

if TYPE_CHECKING:
    from dlcluster.launch.jobs import Order
    from dlcluster.launch.sbatch import Submitted

DEFAULT_RUNS_DIR = Path("runs")


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
    executor: str | None = None
    wait: bool = False
    by_hand: bool = False
    assume_lost: bool = False
    argv: tuple[str, ...] = ()


@dataclass
class SweepResult:
    """What a call of `sweep` or `resume` has come to."""

    sweep: SweepDir
    plan: Plan
    launch_plan: LaunchPlan
    started: bool = False
    interrupted: bool = False
    followed: bool = False
    left_alone: bool = False
    unfinished: list[TrialStatus] = field(default_factory=list)
    worker_problem: str = ""
    worker_codes: Sequence[int] = ()
    order: Order | None = None
    submitted: Submitted | None = None
    scripts: Sequence[Path] = ()

    def lost_its_place(self) -> bool:
        """Whether a worker had to end because nothing could be written any more."""
        return bool(self.unfinished) and bool({WorkerExit.DISK, WorkerExit.IO_LOST} & set(self.worker_codes))

    def nothing_began(self) -> bool:
        """Whether workers were started, and not one of the trials that were wanted has begun."""
        first = dict(self.launch_plan.wanted)
        return len(self.unfinished) == len(first) and all(s.n_attempts < first[s.trial.id] for s in self.unfinished)


def launch_settings(plan: Plan, options: SweepOptions) -> dict[str, Any]:
    """The `launch:` section, with what the command line says on top."""
    asked = {"parallel": options.parallel, "executor": options.executor}
    return {**plan.spec["launch"], **{key: value for key, value in asked.items() if value is not None}}
