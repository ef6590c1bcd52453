"""`python -m dlcluster.worker RUN_DIR --submission ID ...`: the same program under every executor.

The local executor gives it `--worker ID`. A batch script gives it `--first-element K` and ends in an `exec`, so that
slurmstepd is its parent and signals reach it; they arrive ignored, and it takes them up before it does anything else.
"""

from __future__ import annotations

from dlcluster.worker.stopping import SignalLog

signals = SignalLog()
signals.install()  # first of all: an early signal must neither kill the worker nor be lost

import contextlib  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from dlcluster.errors import WorkerExit  # noqa: E402


def main() -> int:
    from dlcluster.worker.environment import complain
    from dlcluster.worker.place import BadArguments, parse_arguments, place_of

    try:
        options = parse_arguments(sys.argv[1:])
    except BadArguments as error:
        complain(str(error))
        return int(WorkerExit.BAD_ENVIRONMENT)
    place = place_of(options, os.environ)
    parent = options.parent or (place.parent if place.job else None)
    if parent is not None:
        from dlcluster.worker.stopping import die_with_parent

        die_with_parent(signal.SIGTERM, parent)
    from dlcluster.worker.supervisor import work

    return work(Path(options.run_dir), options.submission, place, signals)


if __name__ == "__main__":
    code = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
