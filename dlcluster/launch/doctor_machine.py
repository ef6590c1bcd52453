"""What this machine offers: Python and its packages, GPUs and cores, and the folder in which runs shall lie."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dlcluster import __version__
from dlcluster.errors import PreconditionError
from dlcluster.file_reading import NEGATIVE_CACHE_S
from dlcluster.files import write_bytes
from dlcluster.launch.file_systems import FileSystem, Reach, file_system_of
from dlcluster.launch.findings import Finding, Topic
from dlcluster.launch.local import visible_gpus
from dlcluster.launch.partitions import Node
from dlcluster.launch.preconditions import check_place
from dlcluster.launch.probe_report import try_torch

MIN_FREE_BYTES, MIN_FREE_INODES = 64 << 20, 1000
SCARCE_BYTES, SCARCE_INODES = 5 << 30, 50_000
MAX_SKEW_S = 5.0

machine, folder = Topic("this machine"), Topic("run directory")


def machine_findings(*, with_torch: bool = True) -> Iterator[Finding]:
    """Python, torch (imported by a child process: it takes seconds and memory), GPUs, cores."""
    version = ".".join(str(number) for number in sys.version_info[:3])
    yield machine.ok("python", f"Python {version}, {sys.executable}; dlcluster {__version__}")
    gpus = visible_gpus()
    yield from _gpus(gpus)
    if with_torch:
        yield torch_finding(gpus)
    cores, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    few = f" (of {all_cores}: this session may use no more)" if cores < all_cores else ""
    yield machine.ok("cores", f"{cores} CPU core{'' if cores == 1 else 's'}{few}")


def _gpus(gpus: Sequence[str]) -> Iterator[Finding]:
    if gpus:
        names = gpu_names()
        yield machine.ok("gpus", f"{len(gpus)} GPU{'s' * (len(gpus) > 1)}" + (f": {names}" if names else ""))
    elif "CUDA_VISIBLE_DEVICES" in os.environ and shutil.which("nvidia-smi"):
        yield machine.note("gpus", "GPUs are hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES to use them")
    else:
        yield machine.ok("gpus", "no GPU")


def gpu_names() -> str:
    """`2 x NVIDIA A100-SXM4-80GB (81920 MiB), driver 550.54`; empty if the driver does not say."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 2]
    counts: dict[str, int] = {}
    for name, memory, _driver in rows:
        counts[f"{name} ({memory})"] = counts.get(f"{name} ({memory})", 0) + 1
    drivers = sorted({row[2] for row in rows})
    return ", ".join([*(f"{n} x {name}" for name, n in counts.items()), *(f"driver {driver}" for driver in drivers)])


def torch_version() -> str | None:
    """The version of torch that this interpreter would import, without importing it."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_finding(gpus: Sequence[str]) -> Finding:
    version = torch_version()
    if version is None:
        return machine.note("torch", "torch is not installed", "only jobs that import torch need it: pip install torch")
    tried = try_torch()
    if not tried["ok"]:
        text = f"torch {version} is installed but cannot be imported: {tried['message']}"
        return machine.problem("torch", text, "reinstall it; or is the disk with the Python packages slow or full?")
    cuda, n_devices = tried["cuda"], tried["n_gpus"]
    text = f"torch {tried['version']}, " + (f"CUDA {cuda}" if cuda != "none" else "for the CPU")
    text += f", imported in {tried['seconds']} s"
    if gpus and cuda == "none":
        advice = "install a torch with CUDA, from the index that pytorch.org names for your driver"
        return machine.warning("torch", f"{text}; it cannot use the GPUs of this machine", advice)
    if len(gpus) > n_devices:
        advice = "its CUDA may need a newer driver: compare `nvidia-smi` with torch.version.cuda"
        return machine.warning("torch", f"{text}; it sees {n_devices} of {len(gpus)} GPUs", advice)
    return machine.ok("torch", text)


# --- the folder


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = Path(path).resolve()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def folder_findings(runs_dir: Path) -> Iterator[Finding]:
    """Whether runs can lie there: permission, space, kind of file system, clock."""
    path = Path(runs_dir).resolve()
    try:
        check_place(path, MIN_FREE_BYTES, MIN_FREE_INODES)
    except PreconditionError as error:
        found, _, advice = str(error).partition("\n  hint: ")
        yield folder.problem("place", found, advice)
        return
    there = existing(path)
    try:
        skew_s = clock_skew(there)
    except OSError as error:
        yield folder.problem("place", f"{there}: cannot write: {error.strerror}", "choose another --runs-dir")
        return
    yield folder.ok("place", f"{path} can be written{'' if path == there else ' (it will be made)'}")
    yield space_finding(there)
    system = file_system_of(there)
    if system is not None:
        yield from file_system_findings(system)
    yield skew_finding(skew_s)


def space_finding(there: Path) -> Finding:
    space = os.statvfs(there)
    free = space.f_bavail * space.f_frsize
    text = f"{free / 2**30:.3g} GiB free" + (f", {space.f_favail:,} files more" if space.f_files else "")
    if free < SCARCE_BYTES or (space.f_files and space.f_favail < SCARCE_INODES):
        return folder.warning("space", text, "checkpoints and logs need room: free some, or choose another --runs-dir")
    return folder.ok("space", text)


def file_system_findings(system: FileSystem) -> Iterator[Finding]:
    where = f"{system.kind} at {system.mount_point}"
    if system.is_unsuited:
        advice = "choose a --runs-dir on a real file system and copy finished runs"
        yield folder.problem("file_system", f"{where}: an object store, in which nothing can be appended", advice)
    elif system.is_in_memory:
        yield folder.warning("file_system", f"{where}: in memory, gone after a restart", "choose another --runs-dir")
    else:
        yield folder.ok("file_system", f"{where}: {system.reach.value}" if system.reach is not Reach.UNKNOWN else where)
    if system.gives_up:
        text = "mounted with `soft`: when its server is slow, writes fail instead of waiting"
        yield folder.warning("soft_mount", text, "ask for `hard`, or choose another --runs-dir")
    if system.blind_s > NEGATIVE_CACHE_S:
        text = f"files made on another machine may stay unseen for {system.blind_s} s"
        advice = f"dlcluster waits {NEGATIVE_CACHE_S:g} s for them: ask for a smaller acdirmax"
        yield folder.warning("blind", text, advice)


def clock_skew(there: Path) -> float:
    """Seconds by which this machine's clock is ahead of the file system's, by the time of a file just written."""
    scratch = there / f".dlcluster-doctor-{secrets.token_hex(6)}"
    try:
        before = time.time()
        write_bytes(scratch, b"doctor\n", durable=False)
        written, after = scratch.stat().st_mtime, time.time()
    finally:
        scratch.unlink(missing_ok=True)
    # between the two it is no skew; file systems that keep whole seconds round down
    return 0.0 if before - 1.0 <= written <= after else (before if written < before else after) - written


def skew_finding(skew_s: float) -> Finding:
    if abs(skew_s) <= MAX_SKEW_S:
        return folder.ok("clock", "this machine and the file system agree about the time")
    text = f"this machine's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the file system's"
    return folder.note("clock", text, "times that are shown may look odd; nothing is decided by them")


def reach_finding(system: FileSystem | None, nodes: Sequence[Node]) -> Finding:
    """Whether the nodes that jobs may run on will see a folder of this machine."""
    elsewhere = [node.name for node in nodes if not node.is_here]
    if not elsewhere:
        return folder.ok("reach", "jobs run on this machine, and so see the run directory")
    names = ", ".join(elsewhere[:3]) + (f" and {len(elsewhere) - 3} more" if len(elsewhere) > 3 else "")
    if system is None or system.reach is Reach.UNKNOWN:
        kind = system.kind if system else "unknown"
        return folder.note(
            "reach", f"cannot tell whether {names} see it ({kind})", "`dlcluster doctor --probe` tries it"
        )
    if system.reach is Reach.SHARED:
        return folder.ok("reach", f"on {system.kind}, which other machines can mount (`--probe` tries it)")
    text = f"on {system.kind}, a disk of this machine; jobs run on other machines too ({names})"
    return folder.problem("reach", text, "choose a --runs-dir that all nodes share: your home folder, say")
