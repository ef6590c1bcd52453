"""A trial of several processes without torch: each step needs all of them, and any of them can go wrong."""

import ctypes
import os
import signal
import socket
import sys
import time


class Group:
    """What torch.distributed does with gloo, for one number: rank 0 collects, and tells everybody."""

    def __init__(self, closed):
        self.closed = closed  # what to say of a connection that is
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if self.rank == 0:
            with socket.create_server(place) as server:
                server.settimeout(30)
                self.others = [server.accept()[0] for _ in range(self.size - 1)]
        else:
            self.others = [self._connect(place)]
        self.files = [connection.makefile("rw") for connection in self.others]

    def _connect(self, place):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                return socket.create_connection(place, timeout=30)
            except ConnectionRefusedError:
                time.sleep(0.01)
        raise TimeoutError(place)

    def reduce(self, value, how):
        """`how` of the values of all ranks, in all ranks. Raises when a rank is gone."""
        if self.rank:
            self._say(self.files[0], value)
            return self._hear(self.files[0])
        total = how([value, *map(self._hear, self.files)])
        for file in self.files:
            self._say(file, total)
        return total

    def close(self):
        for connection in (*self.files, *self.others):
            connection.close()

    def _say(self, file, value):
        file.write(f"{value}\n")
        file.flush()

    def _hear(self, file):
        line = file.readline()
        if not line:
            raise RuntimeError(self.closed)
        return float(line)


def go_wrong(kind):
    if kind in ("raise", "late"):
        raise ValueError("went wrong")
    if kind == "exit3":
        sys.exit(3)
    if kind == "os_exit0":
        os._exit(0)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(600)


def train(
    run,
    *,
    start=1.0,
    steps=6,
    every=2,
    pause=0.0,
    fault="",
    who=1,
    at=2,
    agrees=True,
    closed="Connection closed by peer",
):
    group = Group(closed)
    state = run.resume()
    step = state["step"] if state else 0
    print("rank", run.rank, "of", run.world_size, "local", run.local_rank, "starting at", step, flush=True)
    while step < steps:
        step += 1
        if fault and step == at and who in (run.rank, -1):
            if fault == "late":  # `finally: dist.destroy_process_group()`
                group.close()
                time.sleep(0.3)
            go_wrong(fault)
        time.sleep(pause)
        total = group.reduce(start / run.world_size, sum)
        run.log(loss=total / step)
        stop = run.should_stop()
        if agrees:
            stop = group.reduce(float(stop), max)
        if stop or (every and step % every == 0):
            run.save({"step": step}, epoch=step)
        if stop:
            return
