"""`python -m dlcluster.worker.inspect_job JOB ROOT FD`: import a job and write what it takes to FD as a JSON line.

A process of its own, because the import runs the user's code: it may print, hang, exit, or need 8 GB.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path


def inspect(reference: str, root: Path) -> dict[str, object]:
    from dlcluster.worker.job import JobError, describe, load_job

    try:
        return {"ok": True, **describe(load_job(reference, root))}
    except JobError as error:
        return {"ok": False, "message": str(error)}
    except SyntaxError as error:
        return {"ok": False, "message": f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}"}
    except Exception as error:
        return {"ok": False, "message": f"{_user_place(error, root)}{type(error).__name__}: {error}"}


def _user_place(error: BaseException, root: Path) -> str:
    """The deepest line of the user's own code in a traceback, where the mistake most likely is."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(root)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    reply = inspect(sys.argv[1], Path(sys.argv[2]))
    os.write(int(sys.argv[3]), json.dumps(reply).encode() + b"\n")
    os._exit(0)
