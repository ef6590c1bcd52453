"""For a program that dlcluster runs as a `command:`: `import dlcluster; dlcluster.log(loss=0.3)`. No other change.

Outside of dlcluster these functions do nothing, so that the program runs as it always did.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

from dlcluster.worker.values import check_name, split_nonfinite

REPORT_FD = "DLCLUSTER_REPORT_FD"

SECONDS_BETWEEN_TICKS = 1.0

_asked_to_stop = False
_last_tick = -SECONDS_BETWEEN_TICKS


def log(metrics: Mapping[str, Any] | None = None, /, *, step: int | None = None, **more: Any) -> None:
    """Report numbers, as `run.log` does in a Python job."""
    values = {**(metrics or {}), **more}
    for name in values:
        check_name(name)
    numbers, nonfinite = split_nonfinite(values)
    fd = os.environ.get(REPORT_FD)
    if fd is None:
        return
    _listen()
    row = {"metrics": {**numbers, **nonfinite}, **({} if step is None else {"step": int(step)})}
    os.write(int(fd), json.dumps(row).encode() + b"\n")


def tick() -> None:
    """Say that the program is not hanging, where it prints and logs for a long time nothing. Cheap: once a second."""
    global _last_tick
    fd, now = os.environ.get(REPORT_FD), time.monotonic()
    if fd is not None and now - _last_tick >= SECONDS_BETWEEN_TICKS:
        _last_tick = now
        os.write(int(fd), b'{"metrics": {}}\n')


def should_stop() -> bool:
    """Whether the trial has been asked to stop: save what is needed to go on, then exit."""
    _listen()
    tick()
    return _asked_to_stop


def _listen() -> None:
    """Take SIGTERM as a request instead of as an end, unless the program has its own handler."""
    if REPORT_FD not in os.environ or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _note_request)


def _note_request(_number: int, _frame: Any) -> None:
    global _asked_to_stop
    _asked_to_stop = True
