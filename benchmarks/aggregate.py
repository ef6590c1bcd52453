"""Aggregating a big sweep against the limit: reading and parsing the same bytes once, a line at a time.

    python benchmarks/aggregate.py [--trials 10000] [--rows 100] [--metrics 5] [--in FOLDER] [--no-build]

Every measurement runs in a fresh process with warm file caches, three times in turn; the least counts. The last line is
JSON. Aims: cold <= 3 x the limit, unchanged second call <= 0.1 x the first, peak memory < 1 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import json, resource, sys, time
from pathlib import Path
{setup}
start, cpu = time.perf_counter(), time.process_time()
{work}
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(dict(seconds=seconds, cpu=cpu, peak_mb=peak_mb, n=n)))
"""
LIMIT = (
    "import orjson; files = sorted(Path(sys.argv[1]).glob('trials/*/*/attempts/*/journal.jsonl'))",
    "n = 0\nfor file in files:\n    for line in file.read_bytes().splitlines():\n        orjson.loads(line); n += 1",
)
AGGREGATE = (
    "from dlcluster.journal import State, TrialState\n"
    "from dlcluster.results.aggregate import aggregate\n"
    "from dlcluster.run_dir import SweepDir\n"
    "def state_of(_, a): return TrialState(State(a[-1].end['state']) if a and a[-1].end else State.WAITING)",
    "results = aggregate(SweepDir(Path(sys.argv[1])), state_of); n = int((results.trials.state == 'completed').sum())",
)
METRICS = (AGGREGATE[0], AGGREGATE[1] + "\nn = len(results.metrics)")


def build(path: Path, n_trials: int, n_rows: int, n_metrics: int) -> int:
    """Write a finished sweep; the bytes of its journals."""
    from dlcluster.files import make_dir, write_bytes, write_json_lines
    from dlcluster.run_dir import SweepDir, plan_rows
    from dlcluster.trial import Trial

    sweep = SweepDir(path)
    trials = [Trial.of("jobs.x", {"lr": 10.0**-i, "i": i}, seed, i) for i in range(n_trials // 2) for seed in (0, 1)]
    objective = {"metric": "metric_0", "goal": "maximize", "at": "last"}
    make_dir(path)
    write_json_lines(sweep.plan_file, plan_rows({"name": "big", "spec": {"objective": objective}}, trials))
    total = 0
    for k, trial in enumerate(trials):
        journal = sweep.trial(trial).attempt(1).journal
        make_dir(journal.parent)
        data = b"".join(_lines(trial, k, n_rows, n_metrics))
        write_bytes(journal, data, durable=False)
        total += len(data)
    return total


def _lines(trial, k, n_rows, n_metrics):
    from dlcluster.files import json_line

    common = {"config": trial.config, "seed": trial.seed, "params": trial.params, "attempt": 1, "snapshot": "0" * 12}
    yield json_line({"kind": "start", "time": 1.7e9, "trial": trial.id, **common, "worker": "w", "host": "h", "pid": 1})
    for step in range(1, n_rows + 1):
        metrics = {f"metric_{m}": ((step * 7919 + k * 104729 + m * 31) % 1000003) / 1000003 for m in range(n_metrics)}
        yield json_line({"kind": "metrics", "step": step, "time": 1.7e9 + step * 1.234567, "metrics": metrics})
    yield json_line(
        {"kind": "end", "time": 1.7e9 + 200, "state": "completed", "reason": "", "seconds": 200.0, "exit": 0}
    )


def measure(path: Path, program: tuple[str, str]) -> dict:
    code = CHILD.format(setup=program[0], work=program[1])
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure_all(path: Path, repetitions: int) -> dict[str, dict]:
    """The least times of each program; taken in turn, so that a busy moment of the machine meets all of them."""
    programs = {"limit": LIMIT, "cold": AGGREGATE, "warm": AGGREGATE, "warm, with metrics": METRICS}
    results: dict[str, list[dict]] = {name: [] for name in programs}
    measure(path, LIMIT)  # fills the file cache
    for _ in range(repetitions):
        for name, program in programs.items():
            if name == "cold":
                for file in (path / "results").glob("*"):
                    file.unlink()
            results[name].append(measure(path, program))
    return {
        name: {
            "seconds": min(r["seconds"] for r in found),
            "cpu": min(r["cpu"] for r in found),
            "peak_mb": max(r["peak_mb"] for r in found),
            "n": found[0]["n"],
        }
        for name, found in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("trials", 10_000), ("rows", 100), ("metrics", 5), ("repetitions", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--in", dest="folder")
    parser.add_argument("--no-build", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(options.folder or temporary) / "big"
        n_bytes = 0 if options.no_build else build(path, options.trials, options.rows, options.metrics)
        got = measure_all(path, options.repetitions)
        index_mb = sum(f.stat().st_size for f in (path / "results").iterdir()) / 2**20
    print(f"journals {n_bytes / 2**20:.0f} MiB, {got['limit']['n']} lines; index {index_mb:.0f} MiB")
    for name, row in got.items():
        times = f"{row['seconds']:7.3f} s ({row['cpu']:.3f} s of processor)"
        print(f"{name:20} {times}  peak {row['peak_mb']:5.0f} MB  n={row['n']}")
    limit, cold, warm = got["limit"], got["cold"], got["warm"]
    ratios = {
        "cold_over_limit": cold["seconds"] / limit["seconds"],
        "warm_over_cold": warm["seconds"] / cold["seconds"],
        "cold_over_limit_cpu": cold["cpu"] / limit["cpu"],
        "warm_over_cold_cpu": warm["cpu"] / cold["cpu"],
        "peak_mb": max(row["peak_mb"] for row in got.values()),
    }
    print(json.dumps({"trials": options.trials, "rows": options.rows, "limit_s": limit["seconds"], **ratios}))


if __name__ == "__main__":
    main()
