"""The child: the trial itself, in a process of its own that nothing but the trial can hurt."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.files import is_disk_full, open_log, share_with_group
from dlcluster.journal import State
from dlcluster.run_dir import AttemptDir, TrialDir
from dlcluster.trial import Trial
from dlcluster.worker.follower import Follower
from dlcluster.worker.run import Fenced, Lost, Run, Stopped, seed_everything
from dlcluster.worker.seat import ALONE, Seat
from dlcluster.worker.shared_page import SharedPage
from dlcluster.worker.stopping import forget_handlers, hear_requests

MAX_MESSAGE = 2000
# Of one of several ranks, until it has ended: freed, the frames that an exception holds would close connections, and
# what the other ranks say about that could be heard before this rank's own report.
_kept: list[BaseException] = []
Job = Callable[..., Any]


class CommandFailed(Exception):
    """A program ended otherwise than with 0: `reason` is `exit(3)`, `killed(9)` or `crashed(11)`."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.reason, self.exit_code = reason, exit_code


def serve(channel: socket.socket, job: Job, page: SharedPage, rules: Mapping[str, Any]) -> int:
    """Run the trials that arrive on the channel, one after another, until it closes. Returns the exit code."""
    begin(page, rules)
    code = 0
    with channel.makefile("r") as requests:
        for line in requests:
            outcome = run_trial(json.loads(line), job, page, rules)
            if isinstance(outcome, WorkerExit):
                return outcome
            channel.sendall(json.dumps(outcome).encode() + b"\n")
            code = outcome["exit"]
    return code


def begin(page: SharedPage, rules: Mapping[str, Any]) -> None:
    """What any process of a trial does first: a process group of its own, signals and modes."""
    os.setsid()
    forget_handlers()
    if rules.get("in_job"):
        hear_requests(page)
    os.umask(0o027 if rules["share"] == "group" else 0o077)
    if rules["share"] == "group":
        share_with_group()


def run_trial(
    request: Mapping[str, Any], job: Job, page: SharedPage, rules: Mapping[str, Any], seat: Seat = ALONE
) -> dict[str, Any] | WorkerExit:
    """Train once. Returns how it ended, as the supervisor will record it; a bare code if not a byte may be written.

    A rank other than 0 has been given an output by who started it.
    """
    trial = Trial.from_json(request["trial"])
    attempt = AttemptDir(Path(request["attempt_dir"]))
    trial_dir = TrialDir(attempt.path.parent.parent)
    writer = None
    run = None
    try:
        if seat.is_first:
            redirect_output(attempt.log)
        faulthandler.enable()  # a segmentation fault leaves its traceback in the log
        faulthandler.register(signal.SIGQUIT, file=2)  # so does a trial that hangs: where all its threads stand
        os.chdir(rules["cwd"])
        run = (Run if seat.is_first else Follower)(trial, attempt, trial_dir, page, rules, seat=seat)
        writer = open_event_writer(run, rules)
        seed_everything(trial.seed)
        job(run, **trial.params)
        outcome = _after_return(run)
    except Fenced:
        return WorkerExit.FENCED
    except Lost:
        return WorkerExit.IO_LOST
    except Stopped as stopped:
        _keep(stopped, seat)
        outcome = _outcome(stopped.state, stopped.reason, stopped.exit_code, stopped.message)
    except BaseException as error:
        _keep(error, seat)
        outcome = describe_failure(error, job)
    finally:
        if writer:
            writer.close()
        _flush()
    if run:
        with contextlib.suppress(OSError):  # what has been logged is written; how it ended must not get lost over this
            run.close()
        if run.verdict and outcome["state"] != State.FAILED.value:
            verdict = run.verdict  # the training code swallowed the exception: it ends in the same state all the same
            outcome = _outcome(verdict.state, verdict.reason, verdict.exit_code, verdict.message)
        outcome.update(written=run.written, step=run.step, first_save_s=run.first_save_s)
    return outcome


def _keep(error: BaseException, seat: Seat) -> None:
    if seat.world_size > 1:
        _kept.append(error)


def open_event_writer(run: Run, rules: Mapping[str, Any]) -> Any:
    """A TensorBoard writer that sees every row that is logged, if the spec asks for one."""
    if not rules["tensorboard"] or run.rank:
        return None
    from dlcluster.event_files import EventWriter

    writer = EventWriter(run.dir / "tensorboard" / f"attempt-{run.attempt:04d}")
    writer.hparams({**run.params, "seed": run.seed}, rules["objective"])
    run.on_metrics = writer.scalars
    return writer


def _after_return(run: Run) -> dict[str, Any]:
    if run.was_asked_to_stop():
        return _outcome(State.INTERRUPTED, "stop_requested", WorkerExit.INTERRUPTED)
    return _outcome(State.COMPLETED, "", WorkerExit.DONE)


def _outcome(state: State, reason: str, code: int, message: str = "", **more: Any) -> dict[str, Any]:
    return {"state": state.value, "reason": reason, "exit": int(code), "message": message[:MAX_MESSAGE], **more}


def describe_failure(error: BaseException, job: Job | None = None) -> dict[str, Any]:
    """State, reason, message and signature (what makes two failures one) of an exception, whose traceback is logged."""
    if isinstance(error, SystemExit):
        return _after_exit(error.code)
    if isinstance(error, CommandFailed):
        return _outcome(State.FAILED, error.reason, error.exit_code, str(error), signature=error.reason)
    print_traceback(error)
    message = f"{type(error).__name__}: {text_of(error)}"
    reason, code = _reason_of(error)
    return _outcome(State.FAILED, reason, code, message, signature=f"{type(error).__name__} at {_place_of(error)}")


def _after_exit(code: Any) -> dict[str, Any]:
    if code in (None, 0):
        return _outcome(State.COMPLETED, "", WorkerExit.DONE)
    if not isinstance(code, int):
        with contextlib.suppress(Exception):  # it may be an object that cannot be printed
            print(code, file=sys.stderr)
        code = 1
    return _outcome(State.FAILED, f"exit({code})", code, signature=f"exit({code})")


def _reason_of(error: BaseException) -> tuple[str, int]:
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        return "cuda_oom", WorkerExit.USER_EXCEPTION
    if isinstance(error, MemoryError):
        return "oom", WorkerExit.USER_EXCEPTION
    if is_disk_full(error):
        return "disk", WorkerExit.DISK
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ESTALE):
        return "io_lost", WorkerExit.IO_LOST
    return "exception", WorkerExit.USER_EXCEPTION


def text_of(error: BaseException) -> str:
    """The text of an exception, also of one that cannot even be printed."""
    try:
        return str(error)
    except Exception as problem:
        return f"<its text cannot be had: {type(problem).__name__}>"


def print_traceback(error: BaseException) -> None:
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception:
        text = "".join(traceback.format_tb(error.__traceback__)) + f"{type(error).__name__}: {text_of(error)}\n"
    with contextlib.suppress(OSError, ValueError):  # the disk is full, or the job has closed its stderr
        sys.stderr.write(text)


def _place_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


def redirect_output(log: Path) -> None:
    """From here on everything that this process and its children print goes to the attempt's log."""
    _flush()
    fd = open_log(log)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
