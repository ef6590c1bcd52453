"""A stand-in for `srun`: as many agents as nodes on this machine, each told all that we are told, as slurmstepd does."""

import os
import select
import signal
import subprocess
import sys


def main() -> int:
    words = sys.argv[1:]
    options = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    command = words[len(options) :]
    with open(os.environ["FAKE_SRUN_CALLS"], "a") as file:
        file.write(" ".join(words[: len(options)]) + "\n")
    tasks = [
        subprocess.Popen(
            command,
            env={**os.environ, "SLURM_PROCID": str(n), "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        for n in range(int(options["nodes"]))
    ]

    def end_step(_number, _frame):
        for task in tasks:
            task.kill()

    signal.signal(signal.SIGTERM, end_step)
    is_open = True
    while any(task.poll() is None for task in tasks):
        if is_open and select.select([0], [], [], 0.05)[0]:
            data = os.read(0, 1 << 16)
            is_open = bool(data)
            for task in tasks:
                if data:
                    task.stdin.write(data)
                    task.stdin.flush()
                else:
                    task.stdin.close()
        if any(task.poll() for task in tasks):  # --kill-on-bad-exit
            end_step(0, None)
    return max(abs(task.returncode) for task in tasks)


sys.exit(main())
