"""Any program as a trial: unchanged, started without a shell, its metrics read from what it prints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.files import write_all, write_json
from dlcluster.journal import State
from dlcluster.placeholders import argument_text, fill_placeholders
from dlcluster.worker.child import CommandFailed
from dlcluster.worker.reporting import REPORT_FD
from dlcluster.worker.run import Run, Stopped
from dlcluster.worker.stopping import die_with_parent
from dlcluster.worker.values import LARGEST_INTEGER, is_name

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_FOR_THE_REST = 2.0  # of what is in the pipe when the program has ended: a child of it may go on filling it
MAX_LINE = 65_536
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf|infinity)"
PAIR = re.compile(rf"(?<![\w./-])([A-Za-z_][\w./-]*)\s*=\s*({NUMBER})(?=[\s,;|)\]]|$)", re.IGNORECASE)
CRASH_SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)


def end_reason(code: int) -> str:
    """`exit(3)`, `killed(9)` or `crashed(11)` from a return code as `subprocess` gives it."""
    if code >= 0:
        return f"exit({code})"
    return f"crashed({-code})" if -code in CRASH_SIGNALS else f"killed({-code})"


def parse_line(line: str, patterns: Mapping[str, re.Pattern[str]]) -> dict[str, float | int]:
    """The metrics on a line: those of the declared patterns if any are, else a JSON object's, else `name=value`."""
    if patterns:
        found = {name: match[1] for name, pattern in patterns.items() if (match := pattern.search(line))}
    else:
        found = _json_object(line)
        if found is None:
            found = dict(PAIR.findall(line))
    numbers = {name: _number(value) for name, value in found.items() if is_name(name)}
    return {name: number for name, number in numbers.items() if number is not None}


def _json_object(line: str) -> dict[str, Any] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        return {name: value for name, value in json.loads(line).items() if not isinstance(value, str)}
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float | int | None:
    """A number from text, or as JSON has it; None for anything else. What does not fit into 64 bits is a float."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, float):
        return value
    with contextlib.suppress(ValueError):
        if abs(number := int(value)) <= LARGEST_INTEGER:
            return number
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


class CommandJob:
    """A training function whose body is a program."""

    def __init__(self, command: Sequence[str], rules: Mapping[str, Any]) -> None:
        self.command, self.rules = list(command), rules
        self.patterns = {name: re.compile(text) for name, text in (rules["metrics"] or {}).items()}

    def __call__(self, run: Run, **params: Any) -> None:
        run.raises_when_asked = False  # the program is asked by a signal, and may log while it saves
        signal.signal(signal.SIGTERM, _let_the_program_decide)
        name = f"params.rank{run.rank}.json" if run.rank else "params.json"
        config_file = run.dir / "attempts" / f"{run.attempt:04d}" / name
        names = {
            "seed": run.seed,
            "trial_id": run.trial_id,
            "trial_dir": str(run.dir),
            "config_file": str(config_file),
        }
        if any("{config_file}" in element for element in self.command):
            write_json(config_file, {**params, "seed": run.seed}, durable=False)
        try:
            self._run_program(
                run, fill_placeholders(self.command, {**params, **names}), self._environment(params, names)
            )
        finally:
            config_file.unlink(missing_ok=True)

    def _environment(self, params: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, str]:
        own = {f"DLCLUSTER_PARAM_{_variable(name)}": argument_text(value) for name, value in params.items()}
        own.update({f"DLCLUSTER_{name.upper()}": str(value) for name, value in names.items()})
        return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **own}

    def _run_program(self, run: Run, argv: list[str], environment: dict[str, str]) -> None:
        if argv[0] in ("python", "python3"):
            argv[0] = sys.executable
        report_read, report_write = os.pipe()
        runner = os.getpid()
        try:
            program = subprocess.Popen(
                argv,
                cwd=self.rules["cwd"],
                env={**environment, REPORT_FD: str(report_write), "DLCLUSTER_ATTEMPT": str(run.attempt)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                pass_fds=[report_write],
                preexec_fn=lambda: die_with_parent(signal.SIGKILL, runner),  # noqa: PLW1509  (no threads here)
            )
        except OSError as error:
            raise JobStartError(f"{argv[0]}: {error.strerror}") from error
        finally:
            os.close(report_write)
        reader = Reader(run, self.patterns, program.stdout.fileno(), report_read)
        try:
            asked = reader.follow(program)
        finally:
            program.kill()
            code = program.wait()
            program.stdout.close()
            os.close(report_read)
        self._judge(run, reader.returned if reader.returned is not None else code, asked)

    def _judge(self, run: Run, code: int, asked: bool) -> None:
        if asked or code == WorkerExit.INTERRUPTED:
            reason = "stop_requested" if asked else end_reason(code)
            raise Stopped(State.INTERRUPTED, reason, WorkerExit.INTERRUPTED)
        if code != 0:
            raise CommandFailed(end_reason(code), code if code > 0 else 128 - code)


class JobStartError(Exception):
    """The program of a command could not be started."""


class Reader:
    """Copies what a program prints to the log, and logs the metrics it finds there."""

    def __init__(self, run: Run, patterns: Mapping[str, re.Pattern[str]], out_fd: int, report_fd: int) -> None:
        self.run, self.patterns = run, patterns
        self.out_fd, self.report_fd = out_fd, report_fd
        self.rest = {out_fd: b"", report_fd: b""}
        self.returned: int | None = None
        self._first_row = True

    def follow(self, program: subprocess.Popen[bytes]) -> bool:
        """Read until the program has ended. Returns whether it was asked to stop before that."""
        asked = False
        with selectors.DefaultSelector() as selector:
            for fd in self.rest:
                selector.register(fd, selectors.EVENT_READ)
            while program.poll() is None:
                self._read_or_wait(selector, program)
                if self.run.is_asked() and not asked:
                    asked = True
                    program.terminate()
            self.returned = program.returncode
            self._take_what_is_left(selector)
        return asked

    def _read_or_wait(self, selector: selectors.BaseSelector, program: subprocess.Popen[bytes]) -> None:
        if not selector.get_map():  # it has closed its output, and works on
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(SECONDS_BETWEEN_LOOKS)
        for key, _events in selector.select(SECONDS_BETWEEN_LOOKS) if selector.get_map() else ():
            if not self._take(key.fd):
                selector.unregister(key.fd)

    def _take_what_is_left(self, selector: selectors.BaseSelector) -> None:
        """The program has ended; a child of it may hold the pipe open for ever, so only what is there is read."""
        end = time.monotonic() + SECONDS_FOR_THE_REST
        while (ready := selector.select(0)) and time.monotonic() < end:
            for key, _events in ready:
                if not self._take(key.fd):
                    selector.unregister(key.fd)
            if not selector.get_map():
                return
        for fd in self.rest:
            self._log_lines(fd, b"")

    def _take(self, fd: int) -> bool:
        data = os.read(fd, 65_536)
        if data:
            self.run.tick()
        if fd == self.out_fd and data:
            write_all(1, data)
        self._log_lines(fd, data)
        return bool(data)

    def _log_lines(self, fd: int, data: bytes) -> None:
        for line in self._lines(fd, data):
            self._log(fd, line)

    def _lines(self, fd: int, data: bytes) -> Iterator[str]:
        *lines, rest = (self.rest[fd] + data).replace(b"\r", b"\n").split(b"\n")
        if not data and rest:
            lines, rest = [*lines, rest], b""
        self.rest[fd] = rest[-MAX_LINE:]
        for line in lines:
            yield line.decode(errors="replace")

    def _log(self, fd: int, line: str) -> None:
        if fd == self.report_fd:
            row = json.loads(line)
            metrics = {k: float(v) if isinstance(v, str) else v for k, v in row["metrics"].items()}
            step = row.get("step")
        else:
            metrics = dict(parse_line(line, self.patterns))
            step = metrics.pop("step", None)
            if step is None and isinstance(metrics.get("epoch"), int):
                step = metrics["epoch"]
        if metrics:
            self._log_row(metrics, step if isinstance(step, int) and step >= 0 else None)

    def _log_row(self, metrics: dict[str, Any], step: int | None) -> None:
        if self._first_row and self.run.attempt > 1:
            self.run.went_on_from(max(0, step - 1) if step else 0)  # the program's own checkpoints decide
        self._first_row = False
        self.run.log(metrics, step=step)


def _let_the_program_decide(_number: int, _frame: Any) -> None:
    """A SIGTERM to the whole group is for the program. (Ignoring it would be inherited by the program.)

    Under Slurm with proctrack/linuxproc the program has then had two: slurmstepd's own, and that of the request. A
    program that saves when it gets one must not mind a second, as it must not under any scheduler.
    """


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()
