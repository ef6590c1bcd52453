"""Short trials on Slurm: 200 digits trials of about 10 ms of training each on 4 workers, from the command to the end.

    eval "$(slurm/devcluster env)"; python benchmarks/slurm_trials.py [--trials 200] [--peer-trials 16] [--repeat 1]

Against Hydra's submitit launcher with array_parallelism 4, and one submitit job per trial, 4 at a time; both have their
defaults otherwise. They are measured on fewer trials, since each pays a Python start and an import of torch, and the
time for 200 is that of one trial times 200. Needs a cluster (SLURM_CONF) and the extra `peers`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from local_overhead import SPEC  # noqa: E402
from peers import HYDRA_PY, PARAMS, rates, script  # noqa: E402

WORKERS, MEM_MB = 4, 1500
LAUNCHER = {
    "hydra/launcher": "submitit_slurm",
    "hydra.launcher.array_parallelism": WORKERS,
    "hydra.launcher.mem_gb": None,
    "hydra.launcher.cpus_per_task": 1,
    "hydra.launcher.timeout_min": 10,
    "+hydra.launcher.additional_parameters.mem": f"{MEM_MB}M",
}


def ours(n, folder):
    """The whole command with `--wait`: check of the job, submission, jobs, table."""
    project = folder / f"ours-{time.monotonic_ns()}"
    (project / "jobs").mkdir(parents=True)
    for name in ("__init__.py", "digits.py"):
        source = ROOT / "jobs" / name
        if source.exists():
            (project / "jobs" / name).write_text(source.read_text())
    (project / "setup.cfg").write_text("")
    spec = project / "sweep.json"
    launch = {"executor": "slurm", "parallel": WORKERS, "mem": f"{MEM_MB}M", "time": "10m"}
    spec.write_text(json.dumps({**SPEC, "sampler": {"kind": "random", "trials": n}, "launch": launch}))
    began = time.time()
    command = [sys.executable, "-m", "dlcluster", "sweep", str(spec), "--wait", "--quiet"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = time.time() - began
    starts, ends = [], []
    for journal in (project / "runs").rglob("journal.jsonl"):
        rows = [json.loads(line) for line in journal.read_text().splitlines()]
        assert rows[-1]["state"] == "completed", rows[-1]
        starts.append(rows[0]["time"])
        ends.append(rows[-1]["time"])
    assert len(ends) == n
    return whole, max(ends) - began


def hydra_submitit(n, folder):
    """`--multirun` with the launcher's array of at most 4 at once."""
    main = script(folder, "hydra_main.py", HYDRA_PY)
    options = [f"{key}={'null' if value is None else value}" for key, value in LAUNCHER.items()]
    values = ",".join(map(str, rates(n)))
    began = time.time()
    command = [sys.executable, main, "--multirun", f"hydra.sweep.dir={folder}/hydra", *options, f"lr={values}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return time.time() - began


def submitit_jobs(n, folder):
    """One `submit` a trial, never more than 4 waiting or running."""
    import submitit
    from local_overhead import train_once

    executor = submitit.AutoExecutor(folder / "submitit")
    executor.update_parameters(timeout_min=10, cpus_per_task=1, slurm_mem=f"{MEM_MB}M", slurm_array_parallelism=WORKERS)
    began = time.time()
    jobs, waiting = [], [{**PARAMS, "lr": lr} for lr in rates(n)]
    while waiting or jobs:
        while waiting and len(jobs) < WORKERS:
            jobs.append(executor.submit(train_once, waiting.pop()))
        jobs = [job for job in jobs if not job.paths.result_pickle.exists()]
        time.sleep(0.05)
    return time.time() - began


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--peer-trials", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    n, m = options.trials, options.peer_trials
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])  # the peers unpickle by import
    with tempfile.TemporaryDirectory(prefix="dlcluster-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        mine = [ours(n, folder) for _ in range(options.repeat)]
        whole = statistics.median(row[0] for row in mine)
        print(f"dlcluster, {n} trials on {WORKERS} workers: {whole:.1f} s; last record after "
              f"{statistics.median(row[1] for row in mine):.1f} s")  # fmt: skip
        ratios = {}
        for label, measure in (
            ("hydra-submitit-launcher", hydra_submitit),
            ("one submitit job a trial", submitit_jobs),
        ):
            seconds = measure(m, folder)
            ratios[label] = seconds / m * n / whole
            print(f"{label}, {m} trials: {seconds:.1f} s: {ratios[label]:.1f} x for {n} (target >= 20)")
    print(json.dumps({"seconds": whole, "ratios": ratios}))


if __name__ == "__main__":
    main()
