"""`python -m dlcluster.worker RUN_DIR --submission ID --worker ID`: the same program under every executor."""

from __future__ import annotations

from dlcluster.worker.stopping import SignalLog

signals = SignalLog()
signals.install()  # first of all: an early signal must neither kill the worker nor be lost

import argparse  # noqa: E402
import contextlib  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dlcluster.worker")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--submission", required=True)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--parent", type=int, help="end with this process, which started the worker")
    options = parser.parse_args()
    if options.parent is not None:
        from dlcluster.worker.stopping import die_with_parent

        die_with_parent(signal.SIGTERM, options.parent)
    from dlcluster.worker.supervisor import work

    return work(options.run_dir, options.submission, options.worker, signals)


if __name__ == "__main__":
    code = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
