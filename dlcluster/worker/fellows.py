"""Several trials at once in one job: the workers that the job's own supervisor starts beside itself.

Each is a worker like any other, with its own zygote, folder, claims and clock. Two things are left to the first: what
Slurm tells the job it passes on, and whether the job is started again it asks once, when all have ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dlcluster.worker.orders import Orders
from dlcluster.worker.place import Place
from dlcluster.worker.stopping import STOP_SIGNALS

LOOK_S = 0.2
KILL_AT = 0.5  # of the time between their own last moment and Slurm's SIGKILL
SECONDS_TO_GO = 10.0  # beyond its time, of one that should have ended by itself


class Fellows:
    """None without a job. `spared`: their pids, so that nobody takes them for something that a trial left behind."""

    def __init__(self, run_dir: Path, submission: str, place: Place, n: int, spared: set[int]) -> None:
        self.run_dir, self.submission, self.place = run_dir, submission, place
        self.n = n if place.job is not None and not place.fellow else 0
        self.names = [place.name_of_fellow(number) for number in range(1, self.n + 1)]
        self._spared = spared
        self._running: list[subprocess.Popen[bytes]] = []
        self._began = time.monotonic()

    def start(self) -> None:
        # Inherited: a request that comes before a fellow can hear waits until it can, instead of killing it.
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            for number in range(1, self.n + 1):
                process = subprocess.Popen(self._command(number), stdin=subprocess.DEVNULL, start_new_session=True)
                self._running.append(process)
                self._spared.add(process.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)

    def _command(self, number: int) -> list[str]:
        elapsed = self.place.elapsed + time.monotonic() - self._began
        return [
            *(sys.executable, "-m", "dlcluster.worker", str(self.run_dir), "--submission", self.submission),
            *("--first-element", str(self.place.first_element), "--fellow", str(number)),
            *("--elapsed", f"{elapsed:.1f}", "--parent", str(os.getpid())),
        ]

    def are_running(self) -> bool:
        for process in [process for process in self._running if process.poll() is not None]:
            self._running.remove(process)
            self._spared.discard(process.pid)
        return bool(self._running)

    def pass_on(self, number: int) -> None:
        """A signal of Slurm reaches the batch script's own process only, or all: a second one changes nothing."""
        for process in self._running:
            process.send_signal(number)

    def wait_for_one(self, may_go_on: Callable[[], bool], wait: Callable[[float], None]) -> bool:
        """Until one has ended: it may have left something to do. False if none was running."""
        if not self.are_running():
            return False
        n = len(self._running)
        while self.are_running() and len(self._running) == n and may_go_on():
            wait(LOOK_S)
        return True

    def have_begun(self, beats: Iterable[Mapping[str, Any]]) -> bool:
        """Whether one of them has brought a trial to any end, by the heartbeats of all workers."""
        return any(beat.get("last") for beat in beats if beat.get("worker") in self.names)

    def see_off(self, orders: Orders, wait: Callable[[float], None]) -> None:
        """Wait for all of them; kill those that Slurm would kill in a moment, or that are far beyond their time.

        A deadline, markers and a grace time they see for themselves; only of a lost slurmstepd they cannot know.
        """
        if orders.reason == "stop_requested":
            self.pass_on(signal.SIGTERM)
        while self.are_running():
            orders.look_around()
            if self._is_too_late(orders):
                break
            wait(LOOK_S)
        self._kill()

    def _is_too_late(self, orders: Orders) -> bool:
        now = orders.clock.now()
        killed_at = getattr(orders, "killed_at", None)
        if orders.reason == "stepd_lost":
            return True  # the job is somebody else's by now, or will be soon
        if killed_at is not None and orders.latest_end is not None:
            return now >= orders.latest_end + KILL_AT * (killed_at - orders.latest_end)
        return orders.clock.end is not None and now >= orders.clock.end + SECONDS_TO_GO

    def _kill(self) -> None:
        for process in self._running:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5.0)
            self._spared.discard(process.pid)
        self._running.clear()
