"""What the job of `dlcluster doctor --probe` means: pure, from its end, its report and its log to findings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dlcluster import __version__
from dlcluster.file_reading import NEGATIVE_CACHE_S
from dlcluster.launch.batch_script import SETUP_FAILED
from dlcluster.launch.doctor_machine import MAX_SKEW_S
from dlcluster.launch.findings import Finding, Topic

OVER = frozenset(
    (
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
        *("PREEMPTED", "TIMEOUT", "GONE"),
    )
)
NOT_THERE = "the node does not see the folder, or may not write in it"

probe_topic = Topic("compute node")


@dataclass(frozen=True)
class End:
    """How the job ended: Slurm's word (GONE if it remembers nothing), exit code as `0:53`, reason and nodes."""

    state: str
    exit_code: str = ""
    reason: str = ""
    nodes: str = ""

    def line(self) -> str:
        return self.state.lower() + (f", {self.reason}" if self.reason not in ("None", "") else "")


def late_finding(deadline_s: float) -> Finding:
    text = f"the job has not ended within {deadline_s:.0f} s and is cancelled"
    return probe_topic.warning("waiting", text, "is the partition full or closed? see `sinfo`")


def findings_of(end: End, report: Mapping[str, Any] | None, log: str, launch: Mapping[str, Any]) -> Iterator[Finding]:
    """What the job saw; `log` is the last line that it printed, `launch` what was asked for."""
    if report is None:
        yield _failure(end, log)
        return
    host = str(report.get("node") or report.get("host"))
    late = f", seen here {report['waited']:.0f} s after its end" if report.get("waited") else ""
    yield probe_topic.ok(
        "place", f"{host} sees the run directory and can write in it ({report.get('file_system')}{late})"
    )
    yield probe_topic.ok("python", f"{host} runs {sys.executable} (Python {report.get('python')})")
    if report.get("dlcluster") != __version__:
        text = (
            f"{host} imports dlcluster {report.get('dlcluster')} from {report.get('package')}; here it is {__version__}"
        )
        yield probe_topic.warning("dlcluster", text, "install the same version where the nodes look for it")
    yield from _resources(host, report, launch)
    if abs(report.get("skew_s", 0.0)) > MAX_SKEW_S:
        text = f"{host}: its clock is {abs(report['skew_s']):.0f} s away from the file system's"
        yield probe_topic.note("clock", text, "times that are shown may look odd; nothing is decided by them")
    if end.state != "COMPLETED":
        yield probe_topic.note("end", f"the job ended as {end.state} {end.exit_code} after its report: {log}")


def _resources(host: str, report: Mapping[str, Any], launch: Mapping[str, Any]) -> Iterator[Finding]:
    n_cpus, asked = int(report.get("n_cpus", 0)), launch.get("cpus") or 1
    text = f"{host}: a job that asks for {asked} CPU{'s' * (asked > 1)} may use {n_cpus}"
    if n_cpus < asked:
        yield probe_topic.warning("cpus", text, "trials will be slower than they need to be: ask the administrators")
    elif n_cpus > asked:
        text += ": jobs on a node are not kept apart"
        yield probe_topic.note("cpus", text, "dlcluster limits threads to launch.cpus by itself")
    else:
        yield probe_topic.ok("cpus", text)
    n_gpus, devices = int(report.get("n_gpus", 0)), report.get("cuda_visible_devices")
    if launch.get("gpus") and not n_gpus:
        text = f"{host}: no GPU is visible (CUDA_VISIBLE_DEVICES={devices})"
        yield probe_topic.problem("gpus", text, "is the driver there? try `srun --gpus-per-node=1 nvidia-smi`")
    elif launch.get("gpus"):
        yield probe_topic.ok("gpus", f"{host}: 1 GPU asked for, {n_gpus} seen, CUDA_VISIBLE_DEVICES={devices}")
    torch = report.get("torch")
    if isinstance(torch, dict):
        yield _torch(host, torch, n_gpus)


def _torch(host: str, torch: Mapping[str, Any], n_gpus: int) -> Finding:
    if not torch.get("ok"):
        return probe_topic.problem("torch", f"{host} cannot import torch: {torch.get('message')}", "install it there")
    text = f"{host} imports torch {torch.get('version')} in {torch.get('seconds')} s"
    if torch.get("n_gpus", 0) < n_gpus:
        advice = "its CUDA may need a newer driver than the node has"
        return probe_topic.warning("torch", f"{text}; it sees {torch.get('n_gpus')} of {n_gpus} GPUs", advice)
    return probe_topic.ok("torch", text)


def _failure(end: End, log: str) -> Finding:
    """Why a job of two lines could fail."""
    where = end.nodes or "the node"
    code, _, number = end.exit_code.partition(":")
    if number == "53":
        advice = "choose a --runs-dir that all nodes share"
        return probe_topic.problem("place", f"{where}: {NOT_THERE} (Slurm could not open the job's log there)", advice)
    if SETUP_FAILED in log:
        text = f"{where}: {log.removeprefix('dlcluster worker: ')}"
        return probe_topic.problem("setup", text, "correct launch.setup")
    if code in ("126", "127"):
        text = f"{where}: {sys.executable} cannot be started there: {log}"
        return probe_topic.problem("python", text, "use an environment on a file system that all nodes share")
    if "No module named" in log:
        text = f"{where}: Python starts, but {log}"
        return probe_topic.problem("dlcluster", text, "install dlcluster in an environment that all nodes share")
    if end.state == "COMPLETED":
        text = f"{where}: the job ended well, but its report has not appeared within {NEGATIVE_CACHE_S:.0f} s"
        return probe_topic.problem(
            "place", text, "the node may have written into a folder of its own with the same path"
        )
    words = " ".join(filter(None, (end.state, end.exit_code, end.reason)))
    return probe_topic.problem("end", f"{where}: the job ended as {words}{': ' + log if log else ''}", "try it again")
