"""What dlcluster adds to short trials: 200 digits trials of about 10 ms of training each, on 2 workers.

    python benchmarks/local_overhead.py [--trials 200] [--repeat 3] [--peers]

The limit is a bare `multiprocessing` fork pool that trains the same configs and records nothing. Time runs from the
first attempt's start to the last end record, imports done on both sides; start-up is printed beside it. Everything is
durable: end record, metrics and predictions are fsynced before a trial counts as finished. With `--peers` (extra
`peers`) the same trials run as cold `python train.py` starts, through submitit's local executor, Ray Tune and Hydra.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SPEC = {
    "name": "overhead",
    "job": "jobs.digits",
    "objective": {"metric": "val_accuracy", "goal": "maximize"},
    "sampler": {"kind": "random"},
    "space": {"lr": {"loguniform": [1e-3, 1.0]}},
    "fixed": {"epochs": 3, "batch_size": 256, "hidden": 32, "save_every": 0},
}


class NullRun:
    """A run that records nothing: for the pool, which only trains."""

    seed = 0

    def resume(self):
        return None

    def log(self, *_args, **_kwargs):
        pass

    save = predictions = log

    def should_stop(self):
        return False


def train_once(params):
    import torch

    from jobs.digits import train

    torch.manual_seed(0)
    began = time.perf_counter()
    train(NullRun(), **params)
    return time.perf_counter() - began


def warm_up(_):
    import torch

    import jobs.digits  # noqa: F401

    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    return os.getpid()


def configs(n):
    from dlcluster.spec.expand import expand
    from dlcluster.spec.schema import load_spec

    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "spec.json"
        spec.write_text(json.dumps({**SPEC, "sampler": {"kind": "random", "trials": n}}))
        return [dict(trial.params) for trial in expand(load_spec(spec)).trials]


def pool_seconds(n):
    """A fork pool of 2 that has imported everything; wall time of training alone, and the mean training time."""
    import torch

    import jobs.digits  # noqa: F401  (imported once, before the fork, like a zygote does)

    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(warm_up, range(4))
        pool.map(train_once, configs(8))
        began = time.perf_counter()
        times = pool.map(train_once, configs(n), chunksize=1)
        return time.perf_counter() - began, statistics.mean(times)


def dlcluster_seconds(n, folder, *, reuse):
    """Wall time from the first start record to the last end record, and the start-up before it."""
    from dlcluster.launch.view import View
    from dlcluster.pipeline import run_sweep
    from dlcluster.sweep_call import SweepOptions

    name = f"overhead-{'reuse' if reuse else 'fresh'}-{time.monotonic_ns()}"
    project = Path(folder)
    shutil.copytree(ROOT / "jobs", project / "jobs", dirs_exist_ok=True)
    (project / "setup.cfg").write_text("")
    spec = project / f"{name}.json"
    launch = {"parallel": 2, "reuse_process": reuse}
    spec.write_text(json.dumps({**SPEC, "name": name, "sampler": {"kind": "random", "trials": n}, "launch": launch}))
    began = time.time()
    result = run_sweep(spec, SweepOptions(runs_dir=project / "runs", import_check=False), View())
    starts, ends = [], []
    for trial in result.plan.trials:
        rows = result.sweep.trial(trial).attempt(1).read()[0]
        assert rows[-1]["state"] == "completed", rows[-1]
        starts.append(rows[0]["time"])
        ends.append(rows[-1]["time"])
    return max(ends) - min(starts), min(starts) - began


def fsync_ms(folder, n=50):
    path = Path(folder) / "probe"
    times = []
    with path.open("ab") as file:
        for _ in range(n):
            file.write(b"x" * 200)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    n = options.trials
    rows = []
    with tempfile.TemporaryDirectory(prefix="dlcluster-bench-") as folder:
        for _ in range(options.repeat):
            pool, training = run_apart("pool", n)
            fresh_s, fresh_start = dlcluster_seconds(n, folder, reuse=False)
            reuse_s, _ = dlcluster_seconds(n, folder, reuse=True)
            rows.append((pool, training, fresh_s, reuse_s, fresh_start))
        fsync = fsync_ms(folder)
        peers = run_peers(folder) if options.peers else {}
    report(n, rows, fsync, peers)


def run_apart(what, n):
    """Measure in a new process, so that nothing is shared between the sides."""
    import subprocess

    code = (
        f"import json, sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        f"import local_overhead\nprint(json.dumps(local_overhead.{what}_seconds({n})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def run_peers(folder):
    from peers import measure_peers

    return measure_peers(Path(folder))


def report(n, rows, fsync, peers):
    def ms(i):
        return statistics.median(1000 * row[i] / n for row in rows)

    fresh_ratio = statistics.median(row[2] / row[0] for row in rows)
    reuse_ratio = statistics.median(row[3] / row[0] for row in rows)
    print(f"{n} trials on 2 workers, medians of {len(rows)} rounds; training alone {1000 * rows[0][1]:.1f} ms a trial")
    print(f"one fsync                  {fsync:7.2f} ms")
    print(f"fork pool, records nothing {ms(0):7.2f} ms a trial")
    print(f"fresh process per trial    {ms(2):7.2f} ms a trial   {fresh_ratio:5.2f} x the pool   (target <= 5)")
    print(f"reuse_process: true        {ms(3):7.2f} ms a trial   {reuse_ratio:5.2f} x the pool   (target <= 2)")
    print(f"start-up of the command    {statistics.median(row[4] for row in rows):7.2f} s")
    for name, seconds in peers.items():
        print(f"{name:26} {1000 * seconds:7.0f} ms a trial   {1000 * seconds / ms(2):5.0f} x a fresh process here")
    values = {"pool_ms": ms(0), "fresh_ms": ms(2), "reuse_ms": ms(3), "fresh_ratio": fresh_ratio}
    values |= {"reuse_ratio": reuse_ratio, "fsync_ms": fsync, "peers_s": peers}
    print(json.dumps(values))


if __name__ == "__main__":
    main()
