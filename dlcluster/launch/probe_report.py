"""`python -m dlcluster.launch.probe_report FOLDER [--torch]`: what a worker would find on a node, as report.json.

Started by the job of `dlcluster doctor --probe`. Standard library only, like a worker.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dlcluster
from dlcluster.files import write_json
from dlcluster.launch.file_systems import file_system_of
from dlcluster.launch.local import visible_gpus

REPORT = "report.json"
IMPORT_TIMEOUT_S = 100.0
TORCH_CODE = "import torch; print(torch.__version__, torch.version.cuda or 'none', torch.cuda.device_count())"


def collect(folder: Path) -> dict[str, Any]:
    system = file_system_of(folder)
    return {
        "host": socket.gethostname(),
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "time": time.time(),
        "python": ".".join(str(number) for number in sys.version_info[:3]),
        "dlcluster": dlcluster.__version__,
        "package": str(Path(dlcluster.__file__).resolve().parent),
        "n_cpus": len(os.sched_getaffinity(0)),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "n_gpus": len(visible_gpus()),
        "file_system": system.kind if system else "",
    }


def try_torch(timeout_s: float = IMPORT_TIMEOUT_S) -> dict[str, Any]:
    """What torch says when a child process imports it: that takes seconds and memory, and may even crash."""
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", TORCH_CODE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"ok": False, "message": f"more than {timeout_s:g} s passed"}
    words = done.stdout.split()
    if done.returncode or len(words) != 3:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"ok": False, "message": last[:200]}
    seconds = round(time.monotonic() - begun, 1)
    return {"ok": True, "version": words[0], "cuda": words[1], "n_gpus": int(words[2]), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dlcluster.launch.probe_report")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--elapsed", help="seconds since the job began: every batch script says so")
    options = parser.parse_args()
    report = collect(options.folder)
    write_json(options.folder / REPORT, report)  # first without torch, whose import may take longer than the job has
    if options.torch:
        torch = try_torch()
        write_json(options.folder / REPORT, {**report, "torch": torch, "time": time.time()})  # as old as the file


if __name__ == "__main__":
    main()
