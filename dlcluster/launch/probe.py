"""One tiny job that looks at a compute node as a worker would: does it see the run directory, Python and the GPUs?"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from dlcluster.errors import DlclusterError, PreconditionError, SubmissionError, UsageError
from dlcluster.file_reading import NEGATIVE_CACHE_S
from dlcluster.files import make_dir, read_json, write_text
from dlcluster.launch.batch_script import BatchScript, clean_environment, make_options
from dlcluster.launch.directives import OptionRefused
from dlcluster.launch.findings import Finding
from dlcluster.launch.partitions import Partition, parse_records
from dlcluster.launch.probe_findings import OVER, End, findings_of, late_finding
from dlcluster.launch.probe_report import REPORT
from dlcluster.launch.site import ask_slurm
from dlcluster.launch.slurm_output import read_job_id

TIME_S, SIGNAL_S = 120.0, 10
DEADLINE_S = 600.0
PAUSES_S = (2.0, 5.0, 10.0, 20.0)
SUBMIT_TIMEOUT_S = 300.0  # sbatch itself tries for two minutes
MEMORY, MEMORY_MB = "2G", 2048


@dataclass(frozen=True)
class Probe:
    """What the job asks for, and how it is waited for. `say` gets lines for a person who is waiting."""

    launch: Mapping[str, Any]
    partition: Partition | None
    say: Callable[[str], None]
    with_torch: bool = False
    deadline_s: float = DEADLINE_S
    sleep: Callable[[float], None] = time.sleep

    def run(self, runs_dir: Path) -> list[Finding]:
        """Submit the job, wait for it, tell what it saw. Whatever happens, neither job nor folder is left behind.

        Raises SubmissionError if the job is not accepted, PreconditionError if its folder cannot be made.
        """
        runs_dir = Path(runs_dir).resolve()
        folder = runs_dir / f"dlcluster-probe-{secrets.token_hex(5)}"
        was_there = runs_dir.exists()
        try:
            with _ended_by_signals():
                make_dir(folder)
                return self._run(folder)
        except OSError as error:
            raise PreconditionError(f"{error.filename or runs_dir}: {error.strerror}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if not was_there:
                with suppress(OSError):
                    runs_dir.rmdir()

    def _run(self, folder: Path) -> list[Finding]:
        script = folder / "job.sh"
        write_text(script, probe_script(folder, self.launch, self.partition, self.with_torch))
        is_over = False
        try:
            job = _submit(script, self.launch)
            self.say(f"job {job} submitted: it looks at a compute node (Ctrl-C cancels it)")
            end = self._wait(folder.name)
            is_over = end is not None
            if end is None:
                return [late_finding(self.deadline_s)]
            end = _details(job, end)
            report = self._await_report(folder, end)
            return list(findings_of(end, report, _log_tail(folder), self.launch))
        finally:
            if not is_over:
                _cancel(folder.name, self.say)

    def _wait(self, name: str) -> End | None:
        """How the job ended; None if it has not within the time. It is asked for less and less often."""
        begun, said, n_asked = time.monotonic(), "", 0
        while True:
            self.sleep(PAUSES_S[min(n_asked, len(PAUSES_S) - 1)])
            n_asked += 1
            end = _look(name)
            if end is not None and end.state in OVER:
                return end
            if end is not None and (line := end.line()) != said:
                said = line
                self.say(f"  {line}")
            if time.monotonic() - begun > self.deadline_s:
                return None

    def _await_report(self, folder: Path, end: End) -> dict[str, Any] | None:
        """What the job wrote. After a good end it must be there, though a network disk may show it late."""
        waited = 0.0
        while True:
            report = _read_report(folder)
            if report is not None:
                return {**report, "waited": waited}
            if end.exit_code not in ("0:0", "") or waited >= NEGATIVE_CACHE_S:
                return None
            self.sleep(PAUSES_S[0])
            waited += PAUSES_S[0]


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A closed terminal and `kill` end us as Ctrl-C does: the job is cancelled and the folder removed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def probe_script(folder: Path, launch: Mapping[str, Any], partition: Partition | None, with_torch: bool) -> str:
    """A job as a sweep with this `launch:` section would submit it, but small: 2 minutes, one node, at most one GPU."""
    # without a limit it may be given all memory of a node, and wait until one is empty; some sites name no sizes
    knows_memory = partition is not None and all(node.memory_mb >= MEMORY_MB for node in partition.nodes)
    small = {
        "nodes": 1,
        "processes_per_node": 1,
        "gpus": min(1, launch.get("gpus") or 0),
        "mem": launch.get("mem") or (MEMORY if knows_memory else None),
    }
    try:
        options = make_options(
            {**launch, **small},
            job_name=folder.name,
            comment=f"dlcluster:probe:{folder.name}",
            chdir=str(folder),
            log=str(folder),
            array=None,
            signal_s=SIGNAL_S,
            time_s=TIME_S,
        )
        module = (sys.executable, "-m", "dlcluster.launch.probe_report", str(folder))
        command = (*module, "--torch") if with_torch else module
        return BatchScript(options, tuple(launch.get("setup") or ()), command).text()
    except OptionRefused as refused:
        raise UsageError(str(refused)) from None


def _submit(script: Path, launch: Mapping[str, Any]) -> str:
    """The job's id. It gets the environment that workers get."""
    environ = clean_environment(os.environ, launch.get("pass_env") or ())
    try:
        answer = ask_slurm(["sbatch", "--parsable", str(script)], SUBMIT_TIMEOUT_S, environ)
    except PreconditionError as error:
        raise SubmissionError(f"the probe was not accepted: {first_line(error)}") from None
    try:
        return str(read_job_id(answer)[0])
    except ValueError as error:
        raise SubmissionError(str(error)) from None


def _look(name: str) -> End | None:
    """The job as squeue sees it; None without an answer, which means nothing."""
    try:
        # by name: for a single id that it has forgotten, squeue fails
        answer = ask_slurm(["squeue", "-h", "--me", "-t", "all", "-n", name, "-o", "%T|%r|%N"])
    except PreconditionError:
        return None
    state, _, rest = (answer.strip().splitlines() or ["GONE||"])[0].partition("|")
    return End(state, reason=rest.partition("|")[0], nodes=rest.partition("|")[2])


def _details(job: str, end: End) -> End:
    """The exit code too, as long as slurmctld remembers the job."""
    with suppress(PreconditionError):
        for record in parse_records(ask_slurm(["scontrol", "-o", "show", "job", job])):
            nodes = record.get("NodeList", "") or end.nodes
            return End(end.state, record.get("ExitCode", ""), record.get("Reason", ""), nodes)
    return end


def _read_report(folder: Path) -> dict[str, Any] | None:
    with suppress(OSError, KeyError, TypeError):
        if REPORT in {path.name for path in folder.iterdir()}:  # listed: a failed look-up would be remembered
            found = read_json(folder / REPORT)
            return {**found, "skew_s": found["time"] - (folder / REPORT).stat().st_mtime}
    return None


def _log_tail(folder: Path) -> str:
    with suppress(OSError):
        logs = [path for path in folder.iterdir() if path.suffix == ".log"]
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return "".join(c for c in lines[-1][:200] if c.isprintable()) if lines else ""
    return ""


def _cancel(name: str, say: Callable[[str], None]) -> None:
    """Whatever jobs have this name, which is ours alone: after a Ctrl-C it is not known whether there is one."""
    try:
        jobs = ask_slurm(["squeue", "-h", "--me", "-n", name, "-o", "%A"]).split()
        if jobs:
            ask_slurm(["scancel", *jobs])
            say("the job was cancelled")
    except DlclusterError as error:
        say(f"the job could not be cancelled ({first_line(error)}): scancel --name={name}")


def first_line(error: DlclusterError) -> str:
    return str(error).partition("\n")[0]
