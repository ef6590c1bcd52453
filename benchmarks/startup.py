"""How long the command takes to say its help, against `python -c pass`.

python benchmarks/startup.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

PAIRS = 15


def wall_ms(arguments):
    began = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - began)


def main():
    bare = [sys.executable, "-c", "pass"]
    ours = [sys.executable, "-m", "dlcluster", "--help"]
    for command in (bare, ours):
        wall_ms(command)
    pairs = [(wall_ms(ours), wall_ms(bare)) for _ in range(PAIRS)]
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"python -c pass     {statistics.median(b for _, b in pairs):6.1f} ms")
    print(f"dlcluster --help   {statistics.median(a for a, _ in pairs):6.1f} ms   {ratio:.1f} x   (target <= 10)")
    print(json.dumps({"help_ratio": ratio}))


if __name__ == "__main__":
    main()
