"""What a pickle of submitit becomes in its job: the worker, and nothing of submitit."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

from dlcluster.worker import from_submitit
from tests.support import REPOSITORY


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False)


BEFORE = """
import os, signal
from dlcluster.worker import from_submitit
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, _frame: print("submitit's handler", number))
os.environ.update(SUBMITIT_EXECUTOR="slurm", SUBMITIT_FOLDER="/x")
"""


def test_signals_of_the_last_moment_wait_for_the_supervisor():
    ending = """
program = "import os, signal; print(sorted(signal.sigpending()), [n for n in os.environ if 'SUBMITIT' in n])"
def exec_after_signals(path, argv, environ):
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    really(path, [path, "-c", program], environ)
really, os.execve = os.execve, exec_after_signals
from_submitit.main("/run", "id", "0")
"""
    done = in_a_process(BEFORE + ending)
    assert done.stdout == f"{sorted([signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])} []\n", done.stderr


def test_the_exit_code_is_the_workers():
    done = in_a_process(BEFORE + 'from_submitit.main("/nowhere", "20000101T000000-000000", "0")')
    assert done.returncode == 78
    assert re.fullmatch(r"dlcluster worker: /nowhere: no submission '20000101T000000-000000'\n", done.stderr)


def test_a_python_that_cannot_be_started_leaves_no_result_pickle():
    done = in_a_process(
        BEFORE + 'import sys; sys.executable = "/nowhere/python"\nfrom_submitit.main("/run", "id", "0")'
    )
    assert done.returncode == 78
    assert done.stderr == "dlcluster worker: /nowhere/python: cannot be started: No such file or directory\n"


def test_the_time_before_the_worker_counts():
    done = in_a_process(
        "import time; time.sleep(0.5)\nfrom dlcluster.worker import from_submitit as f\nprint(f.seconds_alive())"
    )
    assert 0.4 < float(done.stdout) < 30
    command = from_submitit.worker_command("/run", "id", "40", 12.34)
    assert command[-2:] == ["--elapsed", "12.3"]
