"""The cost of one `run.log` with five scalars, against TensorBoard's add_scalar and MLflow's file store.

    python benchmarks/log_call.py            (with the extra `peers` MLflow is measured too)

Each call of `run.log` reaches the kernel with a `write()`, so it survives the death of the process.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dlcluster.run_dir import TrialDir
from dlcluster.trial import Trial
from dlcluster.worker.run import Run
from dlcluster.worker.shared_page import SharedPage

N_CALLS = 5000
ROW = {"train_loss": 0.123456789, "val_loss": 0.23456789, "val_accuracy": 0.9876543, "lr": 1e-3, "epoch": 7}


def median_microseconds(call, n=N_CALLS):
    times = []
    for step in range(n):
        began = time.perf_counter()
        call(step)
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times)


def run_log(folder):
    trial_dir = TrialDir(folder / "trial")
    attempt = trial_dir.attempt(1)
    attempt.path.mkdir(parents=True)
    rules = {"objective": "val_accuracy", "on_nonfinite": "fail"}
    run = Run(Trial.of("job", {}, 0, 0), attempt, trial_dir, SharedPage(), rules)
    return median_microseconds(lambda step: run.log(**ROW))


def tensorboard_add_scalar(folder):
    """Five scalars a step, as its users write it; they are queued for a thread and reach the disk later."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "events"))

    def call(step):
        for name, value in ROW.items():
            writer.add_scalar(name, value, step)

    return median_microseconds(call)


def mlflow_file_store(folder):
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # since 3.x it has to be asked for
    try:
        import mlflow
    except ImportError:
        return None
    mlflow.set_tracking_uri((folder / "mlruns").as_uri())
    with mlflow.start_run():
        return median_microseconds(lambda step: mlflow.log_metrics(ROW, step=step), n=200)


def main():
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = run_log(folder)
        peers = {"TensorBoard add_scalar x 5": tensorboard_add_scalar(folder), "MLflow": mlflow_file_store(folder)}
    print(f"run.log, five scalars        {ours:9.1f} us   (target <= 20)")
    for name, value in peers.items():
        print(f"{name:28} {'not installed' if value is None else f'{value:9.1f} us   {value / ours:6.1f} x run.log'}")
    print(json.dumps({"run_log_us": ours, "peers_us": peers}))


if __name__ == "__main__":
    main()
