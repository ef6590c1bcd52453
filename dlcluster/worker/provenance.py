"""Where results come from: commit, uncommitted changes, packages, machine, command line. Secrets stay out.

What cannot be found out is None (or empty) and named in `problems`; nothing here ever raises. Standard library only.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dlcluster.secret_names import SECRET_NAME, looks_secret

MAX_DIFF_BYTES = 200_000
MAX_LISTING_BYTES = 1_000_000
MAX_NAMES = 100
GIT_TIMEOUT_S = 20.0
GPU_TIMEOUT_S = 5.0
HIDDEN = "***"

ENVIRONMENT = (
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_PROC_BIND"),
    *("PYTHONHASHSEED", "PYTORCH_CUDA_ALLOC_CONF", "TF32_OVERRIDE", "NVIDIA_TF32_OVERRIDE"),
    *("CONDA_DEFAULT_ENV", "CONDA_PREFIX", "VIRTUAL_ENV", "LOADEDMODULES", "LANG", "LC_ALL", "TZ", "HOSTNAME"),
    *("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_PARTITION", "SLURM_JOB_NODELIST"),
    *("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_GPUS_ON_NODE", "SLURM_JOB_GPUS", "SLURM_MEM_PER_NODE"),
    *("SLURM_CLUSTER_NAME", "SLURM_RESTART_COUNT", "SLURM_NTASKS", "SLURMD_NODENAME"),
)
SECRET_TEXT = re.compile(
    r"(?P<before>\b(?i:[a-z][a-z0-9+.-]*)://)[^\s/@'\"]+(?=@)"  # https://user:password@host
    r"|(?P<header>(?i:\bauthorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?))[^\s'\"]{4,}"
    r"|(?P<literal>(?i:[\w-]*(?:token(?!s|i[sz])|secret|passw|api[-_]?key|access[-_]?key)[\w-]*)"
    r"['\"]?\s*[:=]\s*['\"])[^'\"\n]{4,}"  # api_key = "..."
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|hf_|pypi-)[A-Za-z0-9]{16,}[A-Za-z0-9_-]*"
    r"|\b(?:(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[A-Za-z0-9_-]{30,}|sk-[A-Za-z0-9_-]{20,}|xox[abprs]-[A-Za-z0-9-]{10,})"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)


def collect(project_root: Path, argv: Sequence[str]) -> dict[str, Any]:
    """Everything that a reader of the results may ask about their origin, as JSON values."""
    collectors: dict[str, Callable[[], Any]] = {
        "time": lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": lambda: redact_arguments(argv),
        "git": lambda: describe_git(project_root),
        "python": describe_python,
        "packages": installed_packages,
        "host": describe_host,
        "gpus": gpus,
        "environment": allowed_environment,
    }
    facts: dict[str, Any] = {}
    problems: list[str] = []
    for name, find in collectors.items():
        try:
            facts[name] = find()
        except Exception as error:  # a sweep must not fail because of a remark about it
            facts[name] = None
            problems.append(redact(f"{name}: {type(error).__name__}: {error}"))
    return {**facts, "problems": problems}


# -- secrets ---------------------------------------------------------------------------------------------------------


def redact(text: str) -> str:
    """The text with passwords in addresses, tokens of known forms, literal keys and private keys replaced by stars."""
    return SECRET_TEXT.sub(lambda m: (m["before"] or m["header"] or m["literal"] or "") + HIDDEN, text)


def redact_arguments(argv: Sequence[str]) -> list[str]:
    """A command line in which values of names like `--token` or `api_key=...` are replaced."""
    hidden, hide_next = [], False
    for argument in map(_printable, argv):
        hidden.append(HIDDEN if hide_next and not argument.startswith("--") else _redact_argument(argument))
        hide_next = argument.startswith("-") and "=" not in argument and bool(SECRET_NAME.search(argument))
    return hidden


def _redact_argument(argument: str) -> str:
    """`--set=x_token=abc` as `--set=x_token=***`."""
    parts = argument.split("=")
    for n_parts, name in enumerate(parts[:-1], start=1):
        if SECRET_NAME.search(name):
            return "=".join([*parts[:n_parts], HIDDEN])
    return redact(_hide_header(argument))


def _hide_header(argument: str) -> str:
    """`X-Api-Key: abc` as `X-Api-Key: ***`."""
    name, colon, _ = argument.partition(":")
    return f"{name}: {HIDDEN}" if colon and re.fullmatch(r"[\w-]+", name) and SECRET_NAME.search(name) else argument


def allowed_environment() -> dict[str, str]:
    """The variables that change results or say where they were made; never the whole environment."""
    names = (name for name in ENVIRONMENT if name in os.environ and not SECRET_NAME.search(name))
    return {name: redact(_printable(os.environ[name])) for name in names}


def _printable(text: str) -> str:
    """Text that JSON and UTF-8 can hold, whatever bytes the shell passed."""
    return str(text).encode("utf-8", "backslashreplace").decode()


# -- git -------------------------------------------------------------------------------------------------------------


def describe_git(root: Path) -> dict[str, Any] | None:
    """Commit, branch, remote and uncommitted changes below `root`; None if git does not know it."""
    if _git(root, "rev-parse", "--is-inside-work-tree") != b"true\n":
        return None
    changed, untracked = _uncommitted(root)
    secret = [name for name in changed if looks_secret(name)]
    diff = _diff(root, secret)
    return {
        "commit": _git_line(root, "rev-parse", "--verify", "--quiet", "HEAD"),
        "branch": _git_line(root, "symbolic-ref", "--short", "--quiet", "HEAD"),
        "remote": redact(_git_line(root, "config", "--get", "remote.origin.url") or "") or None,
        "dirty": bool(changed or untracked),
        "changed": [_printable(name) for name in changed[:MAX_NAMES]],
        "untracked": [_printable(name) for name in untracked[:MAX_NAMES]],
        "diff": redact(diff[:MAX_DIFF_BYTES].decode(errors="replace")),
        "diff_truncated": len(diff) > MAX_DIFF_BYTES,
        "diff_left_out": [_printable(name) for name in secret],
    }


def _uncommitted(root: Path) -> tuple[list[str], list[str]]:
    """Names of tracked files with changes and of untracked files or folders, relative to the top of the repository."""
    listing = _git(root, "status", "--porcelain=v1", "--no-renames", "-z", "--", ".", limit=MAX_LISTING_BYTES) or b""
    changed: list[str] = []
    untracked: list[str] = []
    for entry in listing.split(b"\0"):
        if len(entry) > 3:
            (untracked if entry.startswith(b"??") else changed).append(os.fsdecode(entry[3:]))
    return changed, untracked


def _diff(root: Path, without: list[str]) -> bytes:
    """The uncommitted changes of tracked files, at most one byte more than the limit; empty before the first commit."""
    options = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--submodule=short")
    places = (".", *(f":(exclude,top,literal){name}" for name in without))
    return _git(root, "diff", *options, "HEAD", "--", *places, limit=MAX_DIFF_BYTES + 1) or b""


def _git_line(root: Path, *arguments: str) -> str | None:
    answer = _git(root, *arguments)
    return answer.decode(errors="replace").strip() or None if answer else None


def _git(root: Path, *arguments: str, limit: int = 10_000) -> bytes | None:
    """git's answer, or None if there is none. A repository's own configuration must not start programs (fsmonitor)."""
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(root), *arguments]
    return output_of(command, timeout_s=GIT_TIMEOUT_S, limit=limit)


def output_of(command: list[str], *, timeout_s: float, limit: int) -> bytes | None:
    """The first `limit` bytes that a program prints; None if it is missing, too slow or ends with an error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None
    with process:
        try:
            deadline = time.monotonic() + timeout_s
            text = _read(process.stdout.fileno(), deadline, limit)
            if text is None or len(text) >= limit:
                return text
            return text if process.wait(max(0.1, deadline - time.monotonic())) == 0 else None
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()  # leaving `with` waits for it


def _read(pipe: int, deadline: float, limit: int) -> bytes | None:
    """What a program prints until it closes its output, or None once the deadline (monotonic seconds) is over."""
    chunks, n_bytes = [], 0
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while n_bytes < limit:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            if not (chunk := os.read(pipe, min(65_536, limit - n_bytes))):
                break
            chunks.append(chunk)
            n_bytes += len(chunk)
    return b"".join(chunks)


# -- the machine -----------------------------------------------------------------------------------------------------


def describe_python() -> dict[str, Any]:
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
    }


def installed_packages() -> dict[str, str]:
    """Name -> version of every installed package. Addresses of packages, which may hold passwords, are not read."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        if metadata["Name"] and metadata["Version"]:
            found.setdefault(metadata["Name"], metadata["Version"])  # the first on the path is the one that is imported
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def describe_host() -> dict[str, Any]:
    """`memory_mb` is that of the machine; `cpus_usable` are those that this process may use."""
    return {
        "name": socket.gethostname(),
        "user": _user(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # no entry for this number, as in containers
        return str(os.getuid())


def _cpu_model() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), None)
    except OSError:
        return None


def gpus() -> list[dict[str, str]]:
    """Name, memory and driver of each GPU that the driver shows; empty without one."""
    fields = ("index", "name", "memory.total", "driver_version")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    text = (output_of(command, timeout_s=GPU_TIMEOUT_S, limit=100_000) or b"").decode(errors="replace")
    rows = ([cell.strip() for cell in line.split(",")] for line in text.splitlines())
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]
