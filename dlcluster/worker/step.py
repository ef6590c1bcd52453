"""The processes of a trial's agents as one: a program to talk to through pipes, here or on all nodes of a job.

On this node it is one agent. On several nodes it is srun, which starts one agent on each, gives all of them what we
write, and us what they write; so nothing travels through files, and the end of either side is seen by the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from dlcluster.liveness import start_tick
from dlcluster.worker.stopping import PR_SET_CHILD_SUBREAPER, STOP_SIGNALS

AGENT = (sys.executable, "-m", "dlcluster.worker.node_agent")


def srun_command(n_nodes: int, cpus_per_node: int) -> list[str]:
    """One task a node, which gets all the CPUs that the job has there."""
    return [
        "srun",
        f"--nodes={n_nodes}",
        f"--ntasks={n_nodes}",
        "--ntasks-per-node=1",  # the job's own number is that of its ranks
        f"--cpus-per-task={cpus_per_node}",  # 22.05 to 23.02: a step does not take it over from its job
        "--distribution=block",
        "--kill-on-bad-exit=1",  # without it the others would go on when an agent or its node is gone
        "--wait=0",
        "--input=all",
        "--output=all",
        "--error=all",
        "--export=ALL",
        "--mpi=none",  # else each agent would begin to talk with the site's PMI
        "--job-name=dlcluster-trial",
        *AGENT,
    ]


class Step:
    """Started at once. `output` becomes readable with each report, and is at its end when all agents have gone."""

    def __init__(self, command: Sequence[str], *, detached: bool, environ: Mapping[str, str] = os.environ) -> None:
        their_input, self._input = os.pipe()
        self.output, their_output = os.pipe()
        self._unsent = b""
        try:
            start = _start_detached if detached else _start
            self._is_ours = not detached
            self.pid = start(command, their_input, their_output, environ)
        except BaseException:
            self._close_pipes()
            raise
        finally:
            os.close(their_input)
            os.close(their_output)
        self._tick = start_tick(self.pid)
        for end in (self._input, self.output):
            os.set_blocking(end, False)

    def write(self, data: bytes) -> None:
        """Never waits: what does not fit into the pipe now goes with `flush`."""
        self._unsent += data
        self.flush()

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, OSError):
            while self._unsent:
                self._unsent = self._unsent[os.write(self._input, self._unsent) :]

    @property
    def input_if_full(self) -> int | None:
        """The pipe to wait for, if something could not be written yet."""
        return self._input if self._unsent else None

    def read(self) -> bytes | None:
        """What is there now; empty at the end, None if nothing has come."""
        try:
            return os.read(self.output, 1 << 20)
        except BlockingIOError:
            return None

    def is_alive(self) -> bool:
        """A detached program is somebody else's child: what tells it from a later one with its pid is when it began."""
        if self._is_ours:
            with contextlib.suppress(ChildProcessError):
                return os.waitpid(self.pid, os.WNOHANG)[0] == 0
            return False
        return self._tick is not None and start_tick(self.pid) == self._tick

    def send_signal(self, number: int) -> None:
        """To srun a SIGTERM means to end its step at once, with SIGKILL for all tasks."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def close_input(self) -> None:
        """All agents see the end of what they are told: they end their ranks, and themselves."""
        if self._input >= 0:
            os.close(self._input)
            self._input, self._unsent = -1, b""

    def close(self) -> None:
        self._close_pipes()

    def _close_pipes(self) -> None:
        self.close_input()
        if self.output >= 0:
            os.close(self.output)
            self.output = -1


def _start(command: Sequence[str], their_input: int, their_output: int, environ: Mapping[str, str]) -> int:
    # Inherited: a request that comes before the agent can hear waits until it can, instead of killing it.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        process = subprocess.Popen(
            list(command), stdin=their_input, stdout=their_output, env=dict(environ), start_new_session=True
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
    process.returncode = 0  # reaped by `is_alive`, by its pid
    return process.pid


def _start_detached(command: Sequence[str], their_input: int, their_output: int, environ: Mapping[str, str]) -> int:
    """As nobody's child. Under proctrack/linuxproc Slurm's SIGTERM goes to all that descends from the batch script, and
    srun would answer it by killing the step at once; so it must not descend from us. It ends with its step, and that
    with the job, whatever becomes of us.
    """
    pid_read, pid_write = os.pipe()
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)  # else it would come back to us
    try:
        middle = os.fork()
        if middle == 0:
            _be_middle(command, their_input, their_output, environ, pid_write)
        os.waitpid(middle, 0)
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        os.close(pid_write)
    with open(pid_read) as file:
        return int(file.read() or 0)


def _be_middle(
    command: Sequence[str], their_input: int, their_output: int, environ: Mapping[str, str], pid_write: int
) -> None:
    try:
        signal.set_wakeup_fd(-1)
        for number in (*STOP_SIGNALS, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        pid = os.fork()
        if pid == 0:
            os.dup2(their_input, 0)
            os.dup2(their_output, 1)
            os.execvpe(command[0], list(command), dict(environ))  # noqa: S606  (a shell is what it is not to be)
        os.write(pid_write, str(pid).encode())
    except OSError as error:
        os.write(2, f"dlcluster worker: {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(0)
