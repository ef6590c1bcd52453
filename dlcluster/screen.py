"""What a person sees while trials run: a live picture on a terminal, plain and stable lines in a pipe."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from dlcluster.journal import State
from dlcluster.launch.view import View

if TYPE_CHECKING:
    from dlcluster.launch.follow import Progress
    from dlcluster.launch.plan import LaunchPlan
    from dlcluster.launch.status import TrialStatus
    from dlcluster.run_dir import Plan, SweepDir

SECONDS_BETWEEN_LINES = 10.0
MAX_RUNNING_SHOWN = 8
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `5 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def metrics_text(metrics: Mapping[str, Any] | None, limit: int = 4) -> str:
    shown = [f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in (metrics or {}).items()]
    return " ".join(shown[:limit])


def counts_text(progress: Progress) -> str:
    """`18/72 done, 1 failed`: failures are never hidden in a total."""
    others = [f"{n} {word}" for word, n in progress.counts.items() if word != State.COMPLETED.value]
    return ", ".join([f"{progress.n_finished}/{progress.n_wanted} done", *others])


class PlainView(View):
    """Lines that mean the same tomorrow, for pipes and log files. Takes the first Ctrl-C as a request to stop."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._interrupts = 0
        self._old_handlers: dict[int, Any] = {}
        self._next_line = 0.0
        self._said_failures = 0

    def say(self, text: str) -> None:
        if not self.quiet:
            with contextlib.suppress(OSError):  # the terminal may be gone, and the trials shall still be saved
                print(text, file=sys.stderr, flush=True)

    def begin(self, sweep: SweepDir, plan: Plan, launch_plan: LaunchPlan) -> None:
        self.say(
            f"{plan.header['name']}: {len(launch_plan.wanted)} of {len(plan.trials)} trials to run in {sweep.path}"
        )
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup, and meant to be
                self._old_handlers[number] = signal.signal(number, self._interrupt)
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self.say("\nstopping: running trials save and end; once more to kill them")

    def n_interrupts(self) -> int:
        return self._interrupts

    def show(self, progress: Progress, finished: Sequence[TrialStatus]) -> None:
        for status in finished:
            if status.state.state is State.FAILED and self._said_failures < 5:
                self._said_failures += 1
                self.say(f"trial {status.trial.id} {status.state}: {first_line(status.message)}")
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            self.say(summary_line(progress))

    def end(self) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._old_handlers = {}


def first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def summary_line(progress: Progress) -> str:
    parts = [counts_text(progress), f"{len(progress.running)} running"]
    if progress.best:
        parts.append(f"best {progress.best[0]:.4g}")
    if progress.seconds_left is not None:
        parts.append(f"about {duration(progress.seconds_left)} left")
    return ", ".join(parts)


class LiveView(PlainView):
    """A bar, the running trials with their last metrics, the best so far and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Any = None
        self._varying: tuple[str, ...] = ()

    def begin(self, sweep: SweepDir, plan: Plan, launch_plan: LaunchPlan) -> None:
        from rich.console import Console
        from rich.live import Live

        super().begin(sweep, plan, launch_plan)
        values: dict[str, set[str]] = {}
        for trial in plan.trials:
            for name, value in trial.params.items():
                values.setdefault(name, set()).add(repr(value))
        self._varying = tuple(name for name, seen in values.items() if len(seen) > 1)
        self._live = Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
        self._live.start()

    def say(self, text: str) -> None:
        if self._live:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            super().say(text)

    def show(self, progress: Progress, finished: Sequence[TrialStatus]) -> None:
        self._next_line = float("inf")  # the picture says it all
        super().show(progress, finished)
        self._live.update(self._picture(progress))

    def _picture(self, progress: Progress) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = ProgressBar(total=max(1, progress.n_wanted), completed=progress.n_finished, width=40)
        grid = Table.grid(padding=(0, 2))
        for status in progress.running[:MAX_RUNNING_SHOWN]:
            params = {name: status.trial.params[name] for name in self._varying if name in status.trial.params}
            grid.add_row(
                Text(status.trial.id),
                Text(f"{metrics_text(params)} seed={status.trial.seed}"),
                Text(metrics_text(status.last_metrics)),
            )
        return Group(bar, Text(summary_line(progress)), grid)

    def end(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None
        super().end()


def make_view(*, quiet: bool) -> PlainView:
    """A live picture if a person is watching, else plain lines."""
    return LiveView() if sys.stderr.isatty() and not quiet else PlainView(quiet=quiet)
