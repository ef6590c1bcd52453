"""Workers as jobs of Slurm, handed over by submitit: it renders the script and calls sbatch; nothing else of it runs.

The job is the one that our own batch script would be, options and setup lines alike, except that it is held: submitit
puts its pickles where a job looks for them only after sbatch has answered. They are seen to here, and then the job is
released. A job is put on record after that, so that one of a command that died in between is found by its name like any
other, and let go (`let_go`). States, results, waiting and requeues are ours: submitit's are never asked for
(reliability.md 6).

submitit works in a process of its own: with the clean environment, a time limit, and output that is nobody's but ours.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dlcluster.errors import PreconditionError, SubmissionError, WorkerExit
from dlcluster.files import read_json, sync_dir, write_json
from dlcluster.launch.batch_script import SETUP, SETUP_FAILED, SIGNALS, BatchScript
from dlcluster.launch.coverage import job_name
from dlcluster.launch.job_plan import JobPlan
from dlcluster.launch.sbatch import PAUSES_S, TIMEOUT_S, NotKnown, SlurmExecutor, find_by_name, hint_for, run_sbatch
from dlcluster.launch.site import ask_slurm
from dlcluster.launch.slurm_errors import Answer
from dlcluster.launch.slurm_output import read_job_id
from dlcluster.run_dir import SubmissionDir

THIS_MODULE = "dlcluster.launch.submitit_launcher"
WORKER_MODULE = "dlcluster.worker.from_submitit"  # by its name: stages do not import one another
# What submitit has a parameter for; the others go with `additional_parameters`, which also win over its own.
PARAMETERS = frozenset(
    (
        *("job-name", "comment", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "gpus-per-node", "time"),
        *("partition", "account", "qos", "constraint", "dependency"),
    )
)
COUNTS = ("nodes", "ntasks_per_node", "cpus_per_task")  # submitit calculates with them
LOOSE_PICKLE = re.compile(r"[0-9a-f]{32}\.pkl")  # as submitit names it before it knows the job
HAS_ENDED = ("Job has already finished", "Invalid job id specified", "Job/step already completing")
RELEASE_PAUSES_S = (2.0, 5.0, 10.0)
LIMIT_S = TIMEOUT_S - 20.0  # submitit would wait for ever, and ended from outside it would leave its sbatch alive


class SubmititExecutor(SlurmExecutor):
    """The jobs of one submission, through submitit.

    The scripts that it writes are our own: they are what sbatch is asked about before, and can be submitted by hand.
    """

    def check(self) -> JobPlan:
        """Also whether submitit can be used at all. Raises PreconditionError if not."""
        if importlib.util.find_spec("submitit") is None:
            hint = "pip install 'submitit>=1.5'; executor: slurm does the same without it"
            raise PreconditionError(f"submitit is not installed for {sys.executable}", hint)
        if shutil.which("srun", path=self.environment.get("PATH")) is None:
            raise PreconditionError("submitit: srun is not in PATH, and it starts nothing without", "executor: slurm")
        return super().check()

    def _submit_one(self, number: int, after: int | None) -> tuple[int, str | None]:
        """As with sbatch, whose words come through submitit; then the job may start. Raises SubmissionError."""
        job_id, cluster = self._hand_over(number, after)
        let_go(self.folder, number, job_id, self.jobs.batches[number].size, self.wait)
        return job_id, cluster

    def _hand_over(self, number: int, after: int | None) -> tuple[int, str | None]:
        argv, name = self._launcher(number, after), job_name(self.sweep.name, self.submission, number)
        # our modules are found where this process has found them; sbatch does not get to see that (`main`)
        environment = {**self.environment, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        for pause in (*PAUSES_S, None):
            output, complaint, verdict = run_sbatch(argv, environment)
            if verdict is None:
                return read_job_id(output)
            if verdict in (Answer.AMBIGUOUS, Answer.UNKNOWN) and (found := find_by_name(name)) is not None:
                return found, None
            if verdict not in (Answer.AMBIGUOUS, Answer.TRANSIENT):
                break
            if pause is not None:
                self.wait(pause)
                if verdict is Answer.AMBIGUOUS and (found := find_by_name(name)) is not None:
                    return found, None
        if verdict is Answer.AMBIGUOUS:
            hint = "the same command finds out later, and submits what is missing"
            raise NotKnown(f"submitit: {complaint}", hint)
        remove_loose_pickles(pickles_dir(self.folder, number))
        raise SubmissionError(f"submitit: {complaint}", hint_for(complaint))

    def _launcher(self, number: int, after: int | None) -> list[str]:
        """The process that calls submitit, with all that it has to know in a file. Raises SubmissionError."""
        folder = pickles_dir(self.folder, number)
        for path in (folder.parent, folder):
            path.mkdir(mode=0o700, exist_ok=True)  # closed also where the rest of the run directory is for a group
        request = folder.with_suffix(".json")
        first, size = self.jobs.batches[number].first, self.jobs.batches[number].size
        self._text(number)  # refuses what cannot stand in a script
        value = make_request(self.script(number), folder, size, after)
        value["arguments"] = [str(self.sweep.path), self.submission, str(first)]
        value["pythonpath"] = self.environment.get("PYTHONPATH")
        write_json(request, value)
        return [sys.executable, "-m", THIS_MODULE, str(request)]


def make_request(script: BatchScript, folder: Path, size: int, after: int | None) -> dict[str, Any]:
    """What submitit is asked for, as JSON: the options and the shell lines of our own batch script, and a hold."""
    options = [*script.options, ("dependency", f"afterany:{after}" if after else None)]
    named: dict[str, Any] = {
        name.replace("-", "_"): value for name, value in options if name in PARAMETERS and value is not None
    }
    named.update({name: int(named[name]) for name in COUNTS if name in named})
    more = {name: True if value is None else value for name, value in script.options if name not in PARAMETERS}
    return {
        "folder": str(folder),
        "size": size,
        "limit_s": LIMIT_S,
        # exec, and no srun: the process that Slurm signals is the supervisor, and its parent is slurmstepd
        "python": f"exec {shlex.quote(sys.executable)}",
        "parameters": {
            "time": None,  # and not the 5 minutes of submitit
            "wckey": None,  # and not the key "submitit", which a site may refuse
            **named,
            "additional_parameters": {**more, "hold": True, "export": "ALL"},
            "setup": shell_lines(script),
            "stderr_to_stdout": True,
            "use_srun": False,
        },
    }


def shell_lines(script: BatchScript) -> list[str]:
    """What our batch script does before its command."""
    text = SIGNALS.format(umask=script.umask)
    if script.setup:
        code, lines = int(WorkerExit.BAD_ENVIRONMENT), "\n".join(script.setup)
        text += SETUP.format(code=code, failed=SETUP_FAILED, lines=lines)
    return text.strip("\n").split("\n")


# -- a job that is held until its pickles are in their places


def pickles_dir(folder: SubmissionDir, number: int) -> Path:
    """A folder for each array: all pickles in it are alike."""
    return folder.path / "submitit" / f"{number:03d}"


def let_go(
    folder: SubmissionDir, number: int, job_id: int, size: int, wait: Callable[[float], None] = time.sleep
) -> None:
    """Whatever is still to be done after sbatch has accepted the array: may be done again at any time.

    Raises NotKnown if the job is still held: then nothing is put on record, and the next command does this again.
    """
    put_pickles_in_place(pickles_dir(folder, number), job_id, size)
    problem = ""
    for pause in (*RELEASE_PAUSES_S, None):
        try:
            ask_slurm(["scontrol", "release", str(job_id)])
            return
        except PreconditionError as error:
            problem = str(error).partition("\n")[0]
        if any(text in problem for text in HAS_ENDED):
            return
        if pause is not None:
            wait(pause)
    raise NotKnown(f"job {job_id} is still held: {problem}", "the same command releases it later")


def put_pickles_in_place(folder: Path, job_id: int, size: int) -> None:
    """All where a job looks for them, also if submitit was killed before it had renamed them. Raises NotKnown."""
    there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    loose = [folder / name for name in sorted(there) if LOOSE_PICKLE.fullmatch(name)]
    jobs = [str(job_id)] if size == 1 else [f"{job_id}_{index}" for index in range(size)]
    missing = [name for job in jobs if (name := f"{job}_submitted.pkl") not in there]
    if len(missing) > len(loose):
        hint = f"scancel {job_id}, then call the same command again"
        raise NotKnown(f"job {job_id} is held, and its pickles are not in {folder}", hint)
    for name in missing:
        loose.pop().rename(folder / name)
    remove_loose_pickles(folder)
    sync_dir(folder)


def remove_loose_pickles(folder: Path) -> None:
    """Of an array that sbatch has refused, or of earlier tries."""
    for file in folder.iterdir():
        if LOOSE_PICKLE.fullmatch(file.name):
            file.unlink()


# -- in a process of its own


def map_array(request: Mapping[str, Any]) -> str:
    """The id of the job. A job object is asked for nothing else: its state, its result, even its `repr` call sacct."""
    import submitit

    worker = importlib.import_module(WORKER_MODULE).main
    executor = submitit.SlurmExecutor(request["folder"], python=request["python"])
    executor.update_parameters(**request["parameters"])
    end_after(request["limit_s"])
    jobs = executor.map_array(worker, *([argument] * request["size"] for argument in request["arguments"]))
    return jobs[0].job_id.partition("_")[0]


def end_after(seconds: float) -> None:
    """Raise TimeoutError then: submitit kills its sbatch at any exception. The words are those of an unclear answer."""

    def give_up(_number: int, _frame: Any) -> None:
        raise TimeoutError(f"Socket timed out: no answer of sbatch within {seconds:g} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def main(request_file: str) -> int:
    """Prints what `sbatch --parsable` would, or what it complained about."""
    request = read_json(Path(request_file))
    os.umask(0o077)  # whoever may write a pickle can run code as its reader
    os.environ.pop("PYTHONPATH")
    if request["pythonpath"] is not None:
        os.environ["PYTHONPATH"] = request["pythonpath"]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # sbatch's words are in the exception as well
            job_id = map_array(request)
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, TimeoutError) else error
        print(str(cause) or type(cause).__name__, file=sys.stderr)
        return 1
    print(job_id)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
