"""What preemption means for the trials of a partition: who hears of it, when, and who starts them again.

The signals are those of Slurm 22.05, measured: reliability.md 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dlcluster.launch.findings import Finding, Topic
from dlcluster.launch.partitions import Partition
from dlcluster.launch.site import Site, forgets_early_leavers

SAVE_OFTEN = "save often enough (run.save): what was done since the last checkpoint is done again"

partition_topic = Topic("partitions")


def preemption_findings(site: Site, partitions: Sequence[Partition]) -> Iterator[Finding]:
    """One finding for all partitions of which the same is true."""
    names: dict[Finding, list[str]] = {}
    for partition in partitions:
        names.setdefault(preemption(site, partition, partitions), []).append(partition.name)
    for finding, same in names.items():
        yield replace(finding, found=f"preemption in {', '.join(same)}: {finding.found}")


def preemption(site: Site, partition: Partition, partitions: Sequence[Partition]) -> Finding:
    """What happens to trials of a partition when more important jobs come."""
    mode = _mode(site, partition)
    if site.preempt_type == "preempt/none" or mode == "OFF":
        return partition_topic.ok("preemption", "none")
    if site.preempt_type == "preempt/partition_prio" and not _has_rival(partition, partitions):
        return partition_topic.ok("preemption", "none, no partition with the same nodes is above it")
    if mode in ("SUSPEND", "GANG"):
        text = "trials are suspended and go on later; their GPU memory stays taken"
        return partition_topic.note("preemption", text, "suspended time does not count as hanging")
    back = "Slurm requeues the job" if mode == "REQUEUE" else "Slurm does not requeue the job, its worker does so"
    decided = " (the QOS of a job decides; this is the default)" if site.preempt_type == "preempt/qos" else ""
    return _signals(site, partition.grace_s, f"{mode}{decided}", back)


def _signals(site: Site, grace_s: int, mode: str, back: str) -> Finding:
    window = span(site.window_s)
    if grace_s and site.sends_user_signal:
        text = f"{mode}: workers hear of it at once and have about {span(grace_s + site.window_s)} to save; {back}"
        if "REQUEUE" in mode and forgets_early_leavers(site.version):
            text += ", but none that ends within the grace time: such workers requeue themselves"
        return partition_topic.ok("preemption", text)
    if grace_s:
        text = (
            f"{mode} with {span(grace_s)} grace, but without preempt_send_user_signal: workers hear of it only at "
            f"the end of the grace time, {window} before they are killed; {back}"
        )
        return partition_topic.warning("preemption", text, SAVE_OFTEN)
    return partition_topic.note(
        "preemption", f"{mode}: {window} to save, without an earlier warning; {back}", SAVE_OFTEN
    )


def _mode(site: Site, partition: Partition) -> str:
    """The way in which jobs are preempted: that of the partition, else of the cluster."""
    words = partition.preempt_mode or site.preempt_mode
    return next((word for word in ("OFF", "REQUEUE", "CANCEL", "SUSPEND", "GANG") if word in words), "OFF")


def _has_rival(partition: Partition, partitions: Sequence[Partition]) -> bool:
    """Whether a partition of a higher tier shares nodes with this one."""
    names = {node.name for node in partition.nodes}
    return any(p.tier > partition.tier and names & {node.name for node in p.nodes} for p in partitions)


def span(seconds: float) -> str:
    """`2 d 6 h`, `1 h 30 min`, `45 s`: the two largest units."""
    left, parts = round(seconds), []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2]) or "0 s"
