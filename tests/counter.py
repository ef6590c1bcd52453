"""The counter trial: deterministic, no torch, and able to go wrong in every way that a training run can."""

import ctypes
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import dlcluster


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def go_wrong(kind):
    if kind == "raise":
        raise ValueError("went wrong")
    if kind == "unprintable":
        raise Unprintable
    if kind == "exit3":
        sys.exit(3)
    if kind == "os_exit0":
        os._exit(0)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    use_up(kind)


def use_up(kind):
    """Memory, time or the disk."""
    if kind == "hog":
        hog = []
        while True:
            hog.append(bytearray(os.urandom(1) * (8 << 20)))
    if kind == "hang":
        time.sleep(600)
    if kind == "diskfull":
        raise OSError(28, "No space left on device", "somewhere")


def leave_children(n, pid_file):
    """Like data loaders: forked, and sleeping for ever unless somebody ends them."""
    pids = []
    for _ in range(n):
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        pids.append(pid)
    # and one that has left the process group altogether, with a child of its own
    stray = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
    with open(pid_file, "w") as file:
        file.write(" ".join(map(str, [*pids, stray.pid])))


def terminate_a_process():
    """As a data loader does; it would hang or raise if the process ran a signal handler of ours."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    process.start()
    process.terminate()
    process.join(5)
    print("terminated:", process.exitcode, flush=True)


def train(
    run,
    *,
    start=1.0,
    steps=6,
    every=2,
    pause=0.0,
    fault="",
    at=0,
    relative=False,
    deaf=False,
    ignores_sigterm=False,
    children=0,
    values=None,
):
    state = run.resume()
    step = state["step"] if state else 0
    at = at + step if relative else at
    if ignores_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if children:
        leave_children(children, run.dir / "children.txt")
        terminate_a_process()
    print("starting at", step, flush=True)
    while step < steps:
        step += 1
        if fault and step == at:
            go_wrong(fault)
        if deaf:
            end = time.monotonic() + pause
            while time.monotonic() < end:
                math.factorial(2000)
        elif pause:
            time.sleep(pause)
        extra = {"extra": eval(values)} if values else {}  # noqa: S307  (values of the tests themselves)
        run.log(loss=start / step, **extra)
        if every and step % every == 0:
            run.save({"step": step}, epoch=step)
        if run.should_stop() and not deaf:
            run.save({"step": step}, epoch=step)
            return


def swallow(run, *, start=1.0, steps=6, every=2, pause=0.0):
    """A loop that survives every error must not survive being stopped."""
    for step in range(1, steps + 1):
        try:
            run.log(loss=float("nan") if step == 3 else start / step)
        except dlcluster.Stopped:
            continue
