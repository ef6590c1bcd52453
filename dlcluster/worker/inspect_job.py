"""`python -m dlcluster.worker.inspect_job JOB ROOT FD`: import a job and write what it takes to FD as a JSON line.

A process of its own, because the import runs the user's code: it may print, hang, exit, or need 8 GB.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

MAX_MESSAGE = 4000


def inspect(reference: str, root: Path) -> dict[str, object]:
    from dlcluster.worker.job import JobError, describe, load_job, user_place

    try:
        return {"ok": True, **describe(load_job(reference, root))}
    except JobError as error:
        return {"ok": False, "message": str(error)}
    except SyntaxError as error:
        return {"ok": False, "message": f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}"}
    except Exception as error:
        return {"ok": False, "message": f"{user_place(error, root)}{type(error).__name__}: {error}"}


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    reply = inspect(sys.argv[1], Path(sys.argv[2]))
    if "message" in reply:
        reply["message"] = str(reply["message"])[:MAX_MESSAGE]
    os.write(int(sys.argv[3]), json.dumps(reply).encode() + b"\n")
    os._exit(0)
