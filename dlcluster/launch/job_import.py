"""Asks a Python job what parameters it takes, in a child process: its import runs the user's code."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

TIMEOUT_S = 60
CPU_LIMIT_S = 60


def inspect_job(reference: str, root: Path, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """`{"ok": True, "parameters": ..., "takes_any": ...}`, or `{"ok": False, "message": ...}` whatever the job does."""
    reply_read, reply_write = os.pipe()
    with os.fdopen(reply_read, "rb") as replies:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "dlcluster.worker.inspect_job", reference, str(root), str(reply_write)],
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # an import may print without end
                stderr=subprocess.DEVNULL,
                preexec_fn=_limit_cpu,  # noqa: PLW1509  (no threads here)
                pass_fds=[reply_write],
                start_new_session=True,
            )
        finally:
            os.close(reply_write)
        reply = _read_reply(replies, time.monotonic() + timeout_s)
        code = _end(process)
    if reply is None:
        return {"ok": False, "message": f"importing {reference} took more than {timeout_s:g} s; it was ended"}
    if not reply.endswith(b"\n"):
        return {"ok": False, "message": f"{reference}: the process exited during import (code {code})"}
    return json.loads(reply)


def _read_reply(replies: BinaryIO, deadline: float) -> bytes | None:
    """One line, or what there is when the process has gone; None if the time is up.

    The end of the line ends the waiting, not the end of the pipe: a child of the import may hold that open for ever.
    """
    reply = b""
    while not reply.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([replies], [], [], left)[0]:
            return None
        data = os.read(replies.fileno(), 1 << 16)
        if not data:
            break
        reply += data
    return reply


def _end(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that has answered or died; it and its children are ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _limit_cpu() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
