"""Where a command says what it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlcluster.launch.follow import Progress
    from dlcluster.launch.plan import LaunchPlan
    from dlcluster.launch.status import TrialStatus
    from dlcluster.run_dir import Plan, SweepDir


class View:
    """Where a command says what it does; the screen of the command line is one, and this silent one is another."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def begin(self, sweep: SweepDir, plan: Plan, launch_plan: LaunchPlan) -> None:
        """Trials are about to run."""

    def show(self, progress: Progress, finished: Sequence[TrialStatus]) -> None:
        """Called about twice a second while trials run."""

    def end(self) -> None:
        """No trial runs any more."""

    def n_interrupts(self) -> int:
        """How often the user has asked to stop."""
        return 0
