"""Workers from their start to their end, followed through the files that they write."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dlcluster.errors import WorkerExit
from dlcluster.journal import State
from dlcluster.launch.follow import Follower
from dlcluster.launch.local import LocalExecutor
from dlcluster.launch.view import View
from dlcluster.run_dir import SweepDir

LOOK_S = 0.5
# Of a worker that could not even complain, because its log lies on the same disk.
WITHOUT_WORDS = {WorkerExit.DISK: "the disk is full", WorkerExit.IO_LOST: "cannot be written any more"}


def run_workers(executor: LocalExecutor, follower: Follower, view: View, grace_s: float) -> None:
    """Start the workers and show what they do, round after round, until nothing is left that they could do."""
    try:
        executor.start()
        while follow(executor, follower, view) and executor.start_again():
            pass
    finally:
        if executor.poll():
            executor.ask_to_stop()
        executor.close(grace_s)  # something went wrong here: no reason for trials not to save
        view.end()


def follow(executor: LocalExecutor, follower: Follower, view: View) -> bool:
    """Show progress until no worker is left. Returns whether there are trials that another round could run."""
    n_asked = 0
    while executor.poll():
        progress = follower.look()
        view.show(progress, follower.newly_finished)
        while n_asked < view.n_interrupts():
            n_asked += 1
            executor.ask_to_stop()
        if n_asked >= 2:
            executor.close()
            return False
        _wait(executor, view, n_asked)
    progress = follower.look()
    view.show(progress, follower.newly_finished)
    left = follower.unfinished()
    return n_asked == 0 and any(s.state.state in (State.WAITING, State.INTERRUPTED) for s in left)


def _wait(executor: LocalExecutor, view: View, n_asked: int) -> None:
    """Until the next look, or until there is something to do."""
    end = time.monotonic() + LOOK_S
    while time.monotonic() < end and view.n_interrupts() == n_asked and executor.poll():
        time.sleep(0.02)


def worker_problem(sweep: SweepDir, submission: str, exit_codes: Sequence[int]) -> str:
    """What the workers complained about, if one of them could not go on."""
    if not any(code not in (0, 75) for code in exit_codes):
        return ""
    try:
        lines = (sweep.submission(submission).path / "workers.log").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line for line in lines if line.startswith("dlcluster worker:")]
    if said:
        return said[-1]
    code = max(exit_codes, key=abs)
    return f"{sweep.path}: {WITHOUT_WORDS.get(code, f'a worker ended with exit code {code}')}"
