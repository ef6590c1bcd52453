"""Planning speed: random trials a second with six parameters, against the bare work of sampling and hashing.

The limit draws six numbers a trial with the standard library, writes them as JSON and hashes them once; `expand` also
validates, maps to distributions, rounds, and makes two ids. Claim: at least 20,000 trials a second.

    python benchmarks/planning.py [number of trials]
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dlcluster.spec.expand import expand
from dlcluster.spec.schema import load_spec

REPETITIONS = 5
SPEC = """
name: planning
job: jobs.digits
objective: {{metric: val_accuracy, goal: maximize}}
sampler: {{kind: random, trials: {n}, seed: 0}}
space:
  lr: {{loguniform: [1e-5, 1.0]}}
  weight_decay: {{loguniform: [1e-6, 1e-2]}}
  momentum: {{uniform: [0.8, 0.99]}}
  dropout: {{quniform: [0, 0.5, 0.05]}}
  hidden: {{lograndint: [16, 512]}}
  optimizer: {{choice: [sgd, adam, adamw]}}
"""


def bare_loop(n: int) -> int:
    """The same six parameters without any of our code."""
    draw, ids = random.Random(0).random, set()
    for _ in range(n):
        params = {
            "lr": math.exp(math.log(1e-5) + draw() * math.log(1e5)),
            "weight_decay": math.exp(math.log(1e-6) + draw() * math.log(1e4)),
            "momentum": 0.8 + draw() * 0.19,
            "dropout": 0.05 * int(draw() * 11),
            "hidden": int(math.exp(math.log(16) + draw() * math.log(513 / 16))),
            "optimizer": ("sgd", "adam", "adamw")[int(draw() * 3)],
        }
        ids.add(hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:12])
    return len(ids)


def best_rate(work: Callable[[], object], n: int) -> float:
    """Trials a second in the best of `REPETITIONS` runs."""
    best = math.inf
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return n / best


def main(n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planning.yaml"
        path.write_text(SPEC.format(n=n))
        spec = load_spec(path)
        assert len(expand(spec).trials) == n
        ours = best_rate(lambda: expand(spec), n)
        with_loading = best_rate(lambda: expand(load_spec(path)), n)
    bare = best_rate(lambda: bare_loop(n), n)
    print(f"expand            {ours:10,.0f} trials/s")
    print(f"load and expand   {with_loading:10,.0f} trials/s")
    print(f"bare loop         {bare:10,.0f} trials/s    ratio {ours / bare:.2f}")
    row = {"benchmark": "planning", "trials": n, "trials_per_s": round(ours), "bare_per_s": round(bare)}
    print(json.dumps(row | {"with_loading_per_s": round(with_loading), "ratio": round(ours / bare, 3)}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
