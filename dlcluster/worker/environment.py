"""What a worker's process is like before anything is imported: threads, modes, variables, and the code it runs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcluster.file_reading import appears
from dlcluster.files import share_with_group, tree_sha256

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class SnapshotChanged(Exception):
    """The code is not what was submitted."""


def apply_rules(rules: Mapping[str, Any]) -> None:
    """The same environment under every executor: as many threads as CPUs were asked for, then the spec's `env:`."""
    os.umask(0o027 if rules["share"] == "group" else 0o077)
    if rules["share"] == "group":
        share_with_group()
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(rules["cpus"])))
    os.environ.update({name: str(value) for name, value in rules["env"].items()})


def check_snapshot(code: Path, expected: str | None) -> None:
    """Raise SnapshotChanged unless the code has the hash under which it was submitted (None: it is live code)."""
    if expected is None:
        return
    if not appears(code):
        raise SnapshotChanged(f"{code}: the snapshot of the code is missing")
    if code.stat().st_uid != os.getuid():
        raise SnapshotChanged(f"{code}: the snapshot of the code belongs to somebody else")
    if not tree_sha256(code).startswith(expected):
        raise SnapshotChanged(f"{code}: the snapshot of the code has been changed since it was submitted")


def complain(text: str) -> None:
    """One line on standard error, which may be closed, or a log on the very disk that is full."""
    with contextlib.suppress(OSError, ValueError):
        print(f"dlcluster worker: {text}", file=sys.stderr, flush=True)
