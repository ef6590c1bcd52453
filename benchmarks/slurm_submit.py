"""Submitting 2,000 trials as 2,000 jobs, and looking at them.

    eval "$(slurm/devcluster env)"; python benchmarks/slurm_submit.py [--trials 2000]

`sweep --executor slurm` with `trials_per_job: 1`: how many sbatch calls, and how much longer it takes than those calls
alone (the same scripts, submitted once more, held, by a bare loop). Then `status`: how many calls of squeue and sacct,
and its wall time when the scheduler's answer is in the cache and when it is not. Everything is cancelled at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "scancel")
JOB = "def train(run, *, x=0.0):\n    run.log(loss=x)\n"
WRAPPER = '#!/bin/sh\necho "{name} $*" >> {log}\nexec {real} "$@"\n'


def counted(folder):
    """A PATH on which each of Slurm's programs notes that it was called."""
    import shutil

    bin_dir, log = folder / "bin", folder / "calls"
    bin_dir.mkdir()
    log.write_text("")
    for name in PROGRAMS:
        wrapper = bin_dir / name
        wrapper.write_text(WRAPPER.format(name=name, log=log, real=shutil.which(name)))
        wrapper.chmod(0o755)
    return f"{bin_dir}{os.pathsep}{os.environ['PATH']}", log


def calls(log):
    """How often each program was called since the last look."""
    names = [line.split()[0] for line in log.read_text().splitlines()]
    log.write_text("")
    return {name: names.count(name) for name in PROGRAMS if name in names}


def dlcluster(folder, path, *words):
    began = time.perf_counter()
    environment = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dlcluster", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - began, done.stdout


def bare_sbatch(folder):
    """The same scripts once more, by sbatch alone; held, so that they disturb nothing."""
    began = time.perf_counter()
    ids = []
    for script in sorted((folder / "runs").rglob("job-*.sh")):
        done = subprocess.run(
            ["sbatch", "--parsable", "--hold", str(script)], capture_output=True, text=True, check=True
        )
        ids.append(done.stdout.strip())
    seconds = time.perf_counter() - began
    subprocess.run(["scancel", *ids], check=True)
    return seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=2000)
    n = parser.parse_args().trials
    with tempfile.TemporaryDirectory(prefix="dlcluster-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        path, log = counted(folder)
        (folder / "job.py").write_text(JOB)
        (folder / "setup.cfg").write_text("")
        launch = {"executor": "slurm", "trials_per_job": 1, "parallel": 1, "mem": "100M", "time": "5m",
                  "extra_args": ["--begin=now+1hour"]}  # fmt: skip
        spec = {"name": "many", "job": "job", "objective": {"metric": "loss", "goal": "minimize"}, "launch": launch,
                "sampler": {"kind": "random", "trials": n}, "space": {"x": {"uniform": [0, 1]}}}  # fmt: skip
        (folder / "sweep.json").write_text(json.dumps(spec))
        check, _ = dlcluster(folder, path, "sweep", "sweep.json", "--dry-run")
        calls(log)
        seconds, _ = dlcluster(folder, path, "sweep", "sweep.json", "--no-import-check")
        of_sweep = calls(log)
        try:
            bare = bare_sbatch(folder)
            first, _ = dlcluster(folder, path, "status", "many")
            of_status = calls(log)
            warm = min(dlcluster(folder, path, "status", "many")[0] for _ in range(3))
            of_warm = calls(log)
        finally:
            dlcluster(folder, path, "cancel", "many", "--timeout", "1")
    print(f"sweep of {n} trials as {n} jobs: {seconds:.2f} s, calls {of_sweep}; sbatch alone {bare:.2f} s: "
          f"{seconds - bare:.2f} s more (target <= 2)")  # fmt: skip
    print(f"status: {first:.2f} s with calls {of_status}; warm {warm:.2f} s with calls {of_warm} (target <= 1 s)")
    print(
        json.dumps(
            {"seconds": seconds, "bare": bare, "calls": of_sweep, "status_s": first, "warm_s": warm, "dry_s": check}
        )
    )


if __name__ == "__main__":
    main()
