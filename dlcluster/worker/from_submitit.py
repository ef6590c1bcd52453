"""What a pickle of submitit names: it becomes `python -m dlcluster.worker` in its own process, and never returns.

The pickle holds this function's name and strings, nothing else. By the time submitit calls it, submitit has installed
signal handlers that would checkpoint and requeue, and has loaded numpy, whose threads must be counted before it is.
An exec leaves all of that behind: the process that slurmstepd started, and signals, is the supervisor, exactly as it is
with our own batch script, and no line of submitit runs after it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import NoReturn

from dlcluster.errors import WorkerExit
from dlcluster.liveness import start_tick
from dlcluster.worker.environment import complain
from dlcluster.worker.stopping import STOP_SIGNALS


def main(run_dir: str, submission: str, first_element: str) -> NoReturn:
    """The worker of the job that this process is."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # they wait until the supervisor has handlers of its own
    command = worker_command(run_dir, submission, first_element, seconds_alive())
    try:
        os.execve(sys.executable, command, without_submitit(os.environ))  # noqa: S606  (a shell is what it is not to be)
    except OSError as error:
        complain(f"{sys.executable}: cannot be started: {error.strerror}")
        os._exit(WorkerExit.BAD_ENVIRONMENT)  # an exception would become a result pickle, and an exit code 1


def worker_command(run_dir: str, submission: str, first_element: str, elapsed_s: float) -> list[str]:
    place = ["--submission", submission, "--first-element", first_element, "--elapsed", f"{elapsed_s:.1f}"]
    return [sys.executable, "-m", "dlcluster.worker", run_dir, *place]


def without_submitit(environ: Mapping[str, str]) -> dict[str, str]:
    """Trials see the same variables under every executor."""
    return {name: value for name, value in environ.items() if not name.startswith("SUBMITIT_")}


def seconds_alive() -> float:
    """Since slurmstepd started this process as a shell, the setup lines before our exec included."""
    tick = start_tick(os.getpid())
    if tick is None:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - tick / os.sysconf("SC_CLK_TCK"))
