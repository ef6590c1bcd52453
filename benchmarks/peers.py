"""The same short digits trial through other launchers, 2 at a time: seconds a trial. Needs the extra `peers`.

Each peer is used as its own documentation shows, with its defaults; the trial is `train_once` of local_overhead.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
N_TRIALS = 8
PARAMS = {"lr": 0.1, "epochs": 3, "batch_size": 256, "hidden": 32, "save_every": 0}

TRAIN_PY = """
import sys
sys.path[:0] = [{here!r}, {root!r}]
from local_overhead import train_once
train_once(dict({params!r}, lr=float(sys.argv[1])))
"""

HYDRA_PY = """
import sys
sys.path[:0] = [{here!r}, {root!r}]
import hydra
from omegaconf import OmegaConf
from local_overhead import train_once

@hydra.main(version_base=None, config_path=None, config_name="config")
def main(cfg):
    train_once(OmegaConf.to_container(cfg))

from hydra.core.config_store import ConfigStore
ConfigStore.instance().store(name="config", node={params!r})
main()
"""


def rates(n):
    return [10 ** (-3 + 3 * i / n) for i in range(n)]


def script(folder, name, text):
    path = folder / name
    path.write_text(text.format(here=str(HERE), root=str(HERE.parent), params=PARAMS))
    return str(path)


def cold_python(folder):
    """What a shell loop does: `python train.py --lr ...`, 2 at once."""
    train = script(folder, "train.py", TRAIN_PY)
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda lr: subprocess.run([sys.executable, train, str(lr)], check=True), rates(N_TRIALS)))
    return (time.perf_counter() - began) / N_TRIALS


def submitit_local(folder):
    import os

    import submitit
    from local_overhead import train_once

    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent)])  # its jobs unpickle by import
    executor = submitit.LocalExecutor(folder / "submitit")
    executor.update_parameters(timeout_min=5)
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:  # it has no throttle of its own
        list(pool.map(lambda lr: executor.submit(train_once, {**PARAMS, "lr": lr}).result(), rates(N_TRIALS)))
    return (time.perf_counter() - began) / N_TRIALS


def ray_tune(folder):
    import ray
    from ray import tune

    def trainable(config):
        sys.path[:0] = [str(HERE), str(HERE.parent)]
        from local_overhead import train_once

        return {"seconds": train_once({**PARAMS, "lr": config["lr"]})}

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        began = time.perf_counter()
        run_config = tune.RunConfig(storage_path=str(folder / "ray"), verbose=0)
        tune.Tuner(trainable, param_space={"lr": tune.grid_search(rates(N_TRIALS))}, run_config=run_config).fit()
        return (time.perf_counter() - began) / N_TRIALS
    finally:
        ray.shutdown()


def hydra_multirun(folder):
    """One process, one trial after the other: nothing is isolated; the import is paid once and left out here."""
    main = script(folder, "hydra_main.py", HYDRA_PY)
    sweep = [sys.executable, main, "--multirun", f"hydra.sweep.dir={folder}/hydra"]

    def seconds(n):
        began = time.perf_counter()
        values = ",".join(map(str, rates(n)))
        subprocess.run([*sweep, f"lr={values}"], check=True, cwd=folder, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    return (seconds(4 * N_TRIALS) - seconds(1)) / (4 * N_TRIALS - 1)


def measure_peers(folder):
    """Seconds a trial by peer; a peer that is not installed is left out."""
    found = {}
    for name, measure in [
        ("cold python train.py", cold_python),
        ("submitit local executor", submitit_local),
        ("Ray Tune", ray_tune),
        ("Hydra multirun", hydra_multirun),
    ]:
        try:
            found[name] = measure(folder)
        except ImportError as error:
            print(f"{name}: not measured ({error})")
    return found
