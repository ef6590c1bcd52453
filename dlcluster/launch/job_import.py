"""Asks a Python job what parameters it takes, in a child process: its import runs the user's code."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

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
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return {"ok": False, "message": f"importing {reference} took more than {timeout_s:g} s; it was ended"}
        reply = replies.read(1 << 20)
    if not reply:
        return {"ok": False, "message": f"{reference}: the process exited during import (code {code})"}
    return json.loads(reply)


def _limit_cpu() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
