"""A batch script is a value with `.text()`: pure, the same for all trials of a submission.

No parameter of a trial is in it. Every value in a `#SBATCH` line has passed the whitelist of its field
(directives.py), and the finished text is read again as sbatch would read it.
"""

from __future__ import annotations

import math
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dlcluster.errors import WorkerExit, shown
from dlcluster.launch.directives import OptionRefused, check_option, parse_directives, read_extra_args
from dlcluster.secret_names import SECRET_NAME

MAX_SIGNAL_S = 65_535
SETUP_FAILED = "dlcluster worker: setup failed"

HEAD = """\
#!/bin/bash
# Written by dlcluster. One text for all trials of this submission: what they are is in the run directory.
# It can be submitted by hand as well:  sbatch FILE
"""
NOTES = {  # option: the fact of Slurm that is the reason for it
    "job-name": "Unique for each submission: by it the job is found again if the answer of sbatch gets lost.",
    "chdir": "This folder and that of the log must exist on the compute node, else the job ends at once and silently.",
    "open-mode": "By default a requeued job begins its log anew.",
    "time": "Never a bare number, which would be minutes.",
    "requeue": "Said here because a site may have switched it off (JobRequeue=0).",
    "signal": "B: to the process of this script, which is the supervisor after `exec`; without it only steps get it.",
}
SIGNALS = """\

# An early signal must not kill bash or a Python that is still starting; the supervisor looks at its own clock.
trap '' USR1 TERM
umask {umask}
# What srun starts in this job gets its whole environment, whatever the submitting shell had exported.
export SLURM_EXPORT_ENV=ALL PYTHONUNBUFFERED=1
"""
SETUP = """\

# The spec's setup: lines, word for word. One that fails ends the job with exit code {code} and is named in the log.
dlcluster_setup_failed() {{
    case $2 in "set -e" | :) set -- "$1" "bash cannot read the lines, see above" ;; esac
    printf '{failed}: %s (exit code %s)\\n' "${{2%%$'\\n'*}}" "$1" >&2
    exit {code}
}}
trap 'dlcluster_line=$BASH_COMMAND' DEBUG
trap 'dlcluster_setup_failed "$?" "$dlcluster_line"' EXIT
set -e
{{ :
{lines}

}}
set +e
trap - DEBUG EXIT
"""
COMMAND = """\

# exec: the process that Slurm signals has to be the supervisor itself. SECONDS: how long this job has been running.
exec {command} --elapsed "$SECONDS"
"""


@dataclass(frozen=True)
class BatchScript:
    """`options`: long names without `--`, in order, None for a flag; `setup`: shell lines of the user; `command`: argv.

    The setup lines are the only shell text that is not ours. They run in this shell, so what they export is kept.
    """

    options: tuple[tuple[str, str | None], ...]
    setup: tuple[str, ...]
    command: tuple[str, ...]
    umask: str = "077"

    def text(self) -> str:
        """The script. Raises OptionRefused for a value that sbatch or bash would read otherwise than it is meant."""
        self._check()
        words = [_word(name, value) for name, value in self.options]
        parts = [HEAD, *(self._directive(name, word) for (name, _), word in zip(self.options, words, strict=True))]
        parts.append(SIGNALS.format(umask=self.umask))
        if self.setup:
            code, lines = int(WorkerExit.BAD_ENVIRONMENT), "\n".join(self.setup)
            parts.append(SETUP.format(code=code, failed=SETUP_FAILED, lines=lines))
        parts.append(COMMAND.format(command=shlex.join(self.command)))
        text = "".join(parts)
        if parse_directives(text) != words:
            raise OptionRefused("options", "sbatch would not read these options as they are meant")
        return text

    def _check(self) -> None:
        for name, value in self.options:
            check_option(name, value)
        if not re.fullmatch(r"0?[0-7]{3}", self.umask):
            raise OptionRefused("umask", f"expected three octal digits, got {shown(self.umask)}")
        for line in self.setup:
            _check_text("setup", line, allowed="\t\n")
        for word in self.command:
            _check_text("command", word)
        if not self.command or not self.command[0] or self.command[0].startswith("-"):
            raise OptionRefused("command", "expected a program and its arguments")

    @staticmethod
    def _directive(name: str, word: str) -> str:
        note = NOTES.get(name)
        return (f"# {note}\n" if note else "") + f"#SBATCH {word}\n"


def _word(name: str, value: str | None) -> str:
    return f"--{name}" if value is None else f"--{name}={value}"


def _check_text(key: str, text: str, allowed: str = "") -> None:
    """Control characters mean something to a shell or a terminal, and half a surrogate pair cannot be written."""
    for character in text:
        if character not in allowed and unicodedata.category(character) in ("Cc", "Cs"):
            raise OptionRefused(key, f"expected text without control characters, got {shown(text)}")


def make_options(
    launch: Mapping[str, Any],
    *,
    job_name: str,
    comment: str,
    chdir: str,
    log: str,
    array: str | None,
    signal_s: int,
    time_s: float | None,
) -> tuple[tuple[str, str | None], ...]:
    """The options of a submission from the resolved `launch:` section; `log` is the folder of the scheduler's logs.

    `cpus`, `gpus` and `mem` as in the spec: `cpus` for each process, the others for each node. `time_s` None leaves the
    time limit to the partition. Raises OptionRefused, all values checked.
    """
    if not 1 <= signal_s <= MAX_SIGNAL_S:
        raise OptionRefused("margin", f"expected 1 to {MAX_SIGNAL_S} seconds, got {signal_s}")
    options: list[tuple[str, str | None]] = [
        ("job-name", job_name),
        ("comment", comment),
        ("chdir", chdir),
        ("output", f"{log}/{'%j' if array is None else '%A_%a'}.log"),
        ("open-mode", "append"),
        *_size_options(launch),
        ("time", None if time_s is None else format_time(time_s)),
        ("requeue", None),
        ("signal", f"B:USR1@{signal_s}"),
        ("array", array),
        *((name, launch.get(name)) for name in ("partition", "account", "qos", "constraint")),
    ]
    given = [(name, value) for name, value in options if value is not None or name == "requeue"]
    # Last, so that a flag which wants a value after all can swallow none of ours.
    given += read_extra_args(launch.get("extra_args") or (), launch)
    for name, value in given:
        check_option(name, value)
    return tuple(given)


def _size_options(launch: Mapping[str, Any]) -> Iterable[tuple[str, str | None]]:
    """Nodes, processes, CPUs, memory, GPUs. One process unless a node, or the spec, asks for more."""
    nodes, processes = launch.get("nodes") or 1, launch.get("processes_per_node") or 1
    gpus, gpu_type = launch.get("gpus"), launch.get("gpu_type")
    if gpu_type and not gpus:
        raise OptionRefused("gpu_type", "expected gpus: beside it", f"gpus: {gpu_type}:1")
    yield "nodes", str(nodes)
    yield ("ntasks-per-node", str(processes)) if nodes > 1 or processes > 1 else ("ntasks", "1")
    yield "cpus-per-task", str(launch.get("cpus") or 1)
    yield "mem", launch.get("mem")
    # For each node and not for each task: a task that sees one GPU of several cannot reach its neighbours' directly.
    yield "gpus-per-node", (f"{gpu_type}:{gpus}" if gpu_type else str(gpus)) if gpus else None


def format_time(seconds: float) -> str:
    """`HH:MM:SS` or `D-HH:MM:SS`, rounded up to a second. Raises OptionRefused for 0, which Slurm takes for ever."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise OptionRefused("time", f"expected a time above 0, got {seconds:g} s")
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hour:02d}:{minute:02d}:{second:02d}"


def array_text(n: int, throttle: int | None = None) -> str:
    """`0-9%4`: n indices from 0, at most `throttle` of them at once; one that is larger than n is left out."""
    if n < 1:
        raise OptionRefused("parallel", f"expected at least one job, got {n}")
    if throttle is not None and throttle < 1:
        raise OptionRefused("parallel", f"expected at least one job at once, got {throttle}")
    indices = "0" if n == 1 else f"0-{n - 1}"
    return indices if throttle is None or throttle >= n else f"{indices}%{throttle}"


# `--export=NONE` or a list would start a login shell in the job, with a wait of up to 120 s; so sbatch itself gets a
# clean environment and exports all of it.
KEPT = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH"),
        *("SLURM_CONF", "SLURM_BITSTR_LEN"),
        # What `module load` in setup: needs: the function itself, or the file that defines it, and where to look.
        *("MODULEPATH", "MODULEPATH_ROOT", "MODULESHOME", "MODULERCFILE", "BASH_ENV"),
    }
)
# Not what modules are loaded (LOADEDMODULES, _ModuleTable001_, LMOD_FAMILY_*): the variables that they have set are
# not passed, and `module load` of a module that seems to be there would set nothing.
KEPT_PATTERN = re.compile(
    r"LC_[A-Z_]+|MODULES_[A-Z_]+|LMOD_(?!FAMILY_)\w+|BASH_FUNC_(module|ml|_module_raw|_ml|switchml|scl)(%%|\(\))"
)
# These change what sbatch does (SBATCH_* win over the script), or tell a job that it is another one.
NEVER_KEPT = re.compile(
    r"(SBATCH|SRUN|SLURM|SLURMD|SALLOC|SQUEUE|SCANCEL|SCONTROL|SACCT|SINFO|MASTER)_.*|RANK|WORLD_SIZE|LOCAL_RANK"
    r"|LOCAL_WORLD_SIZE|GROUP_RANK"
)


def clean_environment(environ: Mapping[str, str], keep: Iterable[str] = ()) -> dict[str, str]:
    """What sbatch, and so the job, gets of an environment; `keep` names more, but never a secret or Slurm's own."""
    wanted = KEPT | frozenset(keep)
    return {
        name: value
        for name, value in environ.items()
        if (name in wanted or KEPT_PATTERN.fullmatch(name))
        and (name in KEPT or not NEVER_KEPT.fullmatch(name))
        and not SECRET_NAME.search(name)
    }
