"""The zygote: imports the job once and forks a child for every trial (or for many, with `reuse_process`).

It never touches CUDA and starts no threads, so that its children can. When its supervisor dies, the kernel sends it a
SIGTERM, and it takes the child's whole process group with it. Slurm's SIGTERM, which proctrack/linuxproc sends to every
process of a job, is none of its business: the supervisor has had it too.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.worker import child
from dlcluster.worker.huge_pages import collapse_memory
from dlcluster.worker.job import user_place
from dlcluster.worker.shared_page import SharedPage
from dlcluster.worker.stopping import die_with_parent, forget_handlers, kill_group


def run_zygote(control: socket.socket, supervisor: int, page: SharedPage, rules: Mapping[str, Any]) -> None:
    """Serve fork requests until the control socket closes. Never returns."""
    zygote = Zygote(control, supervisor, page, rules)
    forget_handlers()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, zygote.go_with_supervisor)
    die_with_parent(signal.SIGKILL, supervisor)  # there is no child yet, and an import may be deaf to anything less
    try:
        job = zygote.prepare()
        signal.signal(signal.SIGTERM, zygote.go_with_supervisor)  # the job's imports may have taken it
        die_with_parent(signal.SIGTERM, supervisor)
        if job is not None:
            zygote.serve(job)
    finally:
        os._exit(0)


class Zygote:
    def __init__(self, control: socket.socket, supervisor: int, page: SharedPage, rules: Mapping[str, Any]) -> None:
        self.control, self.supervisor, self.page, self.rules = control, supervisor, page, rules
        self.child_pid = 0

    def go_with_supervisor(self, _number: int, _frame: Any) -> None:
        is_from_slurm = os.getppid() == self.supervisor and not self.page.is_kill_announced()
        if self.rules.get("in_job") and is_from_slurm:
            return
        if self.child_pid:
            kill_group(self.child_pid, signal.SIGKILL)
        os._exit(0)

    def prepare(self) -> child.Job | None:
        """Import the job, and tell the supervisor whether that worked."""
        job, problem = import_job(self.rules)
        self._tell({"ready": job is not None} | ({"message": problem} if problem else {}))
        return job

    def serve(self, job: child.Job) -> None:
        while True:
            message, fds, _flags, _address = socket.recv_fds(self.control, 64, 1)
            if not message:
                return
            self._fork(job, socket.socket(fileno=fds[0]))
            _pid, status, usage = os.wait4(self.child_pid, 0)
            kill_group(self.child_pid, signal.SIGKILL)  # what the trial left running
            self.child_pid = 0
            code = os.waitstatus_to_exitcode(status)
            self._tell({"exit": code, "peak_rss_mb": round(usage.ru_maxrss / 1024, 1)})

    def _fork(self, job: child.Job, channel: socket.socket) -> None:
        # The signal waits while the pid is not yet known: the child must not be forgotten when the supervisor dies now.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_child(job, channel, zygote)
        self.child_pid = pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        channel.close()
        self._tell({"pid": pid})

    def _be_child(self, job: child.Job, channel: socket.socket, zygote: int) -> None:
        code = int(WorkerExit.BAD_ENVIRONMENT)
        try:
            forget_handlers()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            die_with_parent(signal.SIGKILL, zygote)
            self.control.close()
            code = child.serve(channel, job, self.page, self.rules)
        except BaseException as error:
            child.print_traceback(error)
        finally:
            os._exit(code)

    def _tell(self, message: dict[str, Any]) -> None:
        self.control.sendall(json.dumps(message).encode() + b"\n")


def import_job(rules: Mapping[str, Any]) -> tuple[child.Job | None, str]:
    """The training function, ready to be forked with; or None, and what the import raised."""
    try:
        job = _load(rules)
    except BaseException as error:
        return None, _why_not(error, rules)
    gc.collect()
    gc.freeze()  # what is shared with the children stays shared: the collector does not write to it
    collapse_memory()
    return job, ""


def _why_not(error: BaseException, rules: Mapping[str, Any]) -> str:
    """What an import raised, with the deepest line of the user's own code."""
    if isinstance(error, SystemExit):
        return f"it exited during import with {error.code!r}"
    child.print_traceback(error)
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}"
    return f"{user_place(error, Path(rules['code']))}{type(error).__name__}: {child.text_of(error)}"


def _load(rules: Mapping[str, Any]) -> child.Job:
    if command := rules["command"]:
        from dlcluster.worker.command import CommandJob

        return CommandJob(command, rules)
    from dlcluster.worker.job import load_job, preload_lazy_imports

    sys.dont_write_bytecode = True  # the snapshot is what its hash says it is
    os.chdir(rules["code"])
    job = load_job(rules["job"], Path(rules["code"]))
    preload_lazy_imports()
    if rules["tensorboard"]:
        import dlcluster.event_files  # noqa: F401  (imported once here, not in every child)
    return job
