"""What a cluster's settings mean for sweeps: pure functions from a site and its partitions to findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.launch.findings import Finding, Topic
from dlcluster.launch.partitions import Node, Partition
from dlcluster.launch.preemption import SAVE_OFTEN, preemption_findings, span
from dlcluster.launch.site import Site, srun_ignores_cpus

OLDEST_TRIED = (22, 5)
SHORT_WINDOW_S = 30

slurm, partition_topic = Topic("slurm"), Topic("partitions")


@dataclass(frozen=True)
class Wanted:
    """What a sweep would ask for; None where it does not say."""

    partition: str | None = None
    gpus: int | None = None
    time_s: float | None = None
    account: str | None = None

    @classmethod
    def of(cls, launch: Mapping[str, Any]) -> Wanted:
        """What the `launch:` section of a spec says."""
        return cls(**{key: launch.get(key) for key in ("partition", "gpus", "account")}, time_s=launch.get("time"))


def site_findings(site: Site) -> Iterator[Finding]:
    """Everything that the configuration alone tells."""
    yield from _version(site)
    yield from _arrays(site)
    yield from _stopping(site)
    yield from _requeue(site)
    yield from _accounting(site)
    yield from _stored_environment(site)
    yield from _requeue_codes(site)
    yield from _processes(site)


def _version(site: Site) -> Iterator[Finding]:
    text = f"Slurm {site.version_text}, cluster {site.cluster or 'without a name'}"
    if site.version[:2] < OLDEST_TRIED:
        yield slurm.warning("version", text, "dlcluster has been tried with 22.05 and later only")
    else:
        yield slurm.ok("version", text)
    if srun_ignores_cpus(site.version):
        yield slurm.note(
            "srun_cpus",
            "srun of this version does not take over --cpus-per-task",
            "only if your own program calls srun: set SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        )


def _arrays(site: Site) -> Iterator[Finding]:
    if site.max_array_size < 2:
        yield slurm.warning("arrays", "job arrays are switched off (MaxArraySize)", "one worker is one job here")
    else:
        yield slurm.ok("arrays", f"job arrays of up to {site.chunk_size} (MaxArraySize {site.max_array_size})")
    if site.max_job_count < 1000:
        text = f"the whole cluster holds {site.max_job_count} jobs at once (MaxJobCount), of all users together"
        yield slurm.warning("job_count", text, "use trials_per_job: pull, so that a job works through many trials")


def _stopping(site: Site) -> Iterator[Finding]:
    text = f"{site.window_s} s between SIGTERM and the end of a job (KillWait)"
    if site.window_s < SHORT_WINDOW_S:
        yield slurm.note("kill_wait", text, f"a checkpoint that takes longer is lost: {SAVE_OFTEN}")
    else:
        yield slurm.ok("kill_wait", text)


def _requeue(site: Site) -> Iterator[Finding]:
    delay = f"a requeued job starts again after {site.requeue_delay_s} s at the earliest"
    if site.job_requeue:
        yield slurm.ok("requeue", f"jobs may be requeued; {delay}")
    else:
        yield slurm.ok("requeue", f"jobs are not requeued unless they ask for it; dlcluster does (--requeue); {delay}")


def _accounting(site: Site) -> Iterator[Finding]:
    if not site.has_accounting:
        lost = (
            f"Slurm forgets a job {site.min_job_age_s} s after its end: why a job ended, its requeues, and jobs "
            "whose submission was cut off are not known after that; the state of every trial is, from its files"
        )
        yield slurm.note("accounting", f"no accounting database. {lost}")
        return
    if "associations" in site.enforces or "limits" in site.enforces:
        enforced = f"; jobs need an account and stay within its limits ({', '.join(site.enforces)})"
    else:
        enforced = ""
    yield slurm.ok("accounting", f"accounting database{enforced}")


def _stored_environment(site: Site) -> Iterator[Finding]:
    what = [*(["environment"] * site.stores_job_env), *(["script"] * site.stores_job_script)]
    if what:
        yield slurm.warning(
            "job_env",
            f"the accounting database keeps the {' and the '.join(what)} of every job (AccountingStoreFlags)",
            "keep passwords and tokens out of launch.env and setup; dlcluster submits with a cleaned environment",
        )


def _requeue_codes(site: Site) -> Iterator[Finding]:
    for setting, codes, effect in (
        ("RequeueExit", site.requeue_exit, "starts a job again by itself"),
        ("RequeueExitHold", site.requeue_exit_hold, "holds a job until `scontrol release`"),
    ):
        ours = [f"{code.value} ({code.name.lower()})" for code in WorkerExit if code and code.value in codes]
        if ours:
            yield slurm.warning(
                "requeue_exit" if setting == "RequeueExit" else "requeue_exit_hold",
                f"Slurm {effect} that ends with {', '.join(ours)}: codes of our workers ({setting})",
                "ask the administrators to take these codes out of it; until then look at squeue after failures",
            )


def _processes(site: Site) -> Iterator[Finding]:
    if site.constrains_ram is False:
        yield slurm.note(
            "memory",
            "memory is not limited by cgroups (ConstrainRAMSpace)",
            "a trial that needs too much can take its whole node down, and Slurm does not call that OUT_OF_MEMORY",
        )
    if site.proctrack and site.proctrack != "proctrack/cgroup":
        yield slurm.note(
            "proctrack",
            f"processes are tracked by {site.proctrack.removeprefix('proctrack/')}, not by cgroups",
            "when a job is ended, workers of data loaders get SIGTERM too",
        )
    if not site.has_cons_tres:
        yield slurm.note("select", f"{site.select_type or 'no cons_tres'}: GPUs are asked for with --gres=gpu:N")
    if site.limits_requests:
        yield slurm.note("rate_limit", "slurmctld limits how often a user may ask (rl_enable): `--wait` answers later")


# --- partitions


def partition_findings(site: Site, partitions: Sequence[Partition], wanted: Wanted) -> Iterator[Finding]:
    """What partitions there are, whether the wanted one fits, and what preemption means in each."""
    if not partitions:
        yield partition_topic.problem("none", "no partition is visible to you", "ask the administrators for access")
        return
    for partition in partitions:
        yield _partition(partition)
    yield from _wanted(partitions, wanted)
    if not any(partition.gpus_per_node for partition in partitions):
        make = partition_topic.problem if wanted.gpus else partition_topic.note
        yield make("gpus", "no partition has GPUs", "launch.gpus: 0 trains on the CPU" if wanted.gpus else "")
    yield from preemption_findings(site, partitions)


def _partition(partition: Partition) -> Finding:
    usable = [node for node in partition.nodes if node.is_usable]
    text = f"{partition.name}{' (default)' if partition.is_default else ''}: {nodes_text(partition.nodes)}"
    text += f", {limit_text(partition.max_time_s)}"
    if not partition.is_up:
        return partition_topic.warning("partition", f"{text}, state {partition.state}", "jobs wait until it is UP")
    if not usable:
        return partition_topic.warning("partition", f"{text}; no node can take jobs now", "see `sinfo -R` for why")
    return partition_topic.ok("partition", text)


def nodes_text(nodes: Sequence[Node]) -> str:
    """`4 nodes (3 usable) with up to 4 a100, 64 CPUs, 500 GiB`."""
    usable = sum(node.is_usable for node in nodes)
    text = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    if usable < len(nodes):
        text += f" ({usable} usable)"
    if not nodes:
        return text
    most: dict[str, int] = {}
    for kind, number in (pair for node in nodes for pair in node.gpus):
        most[kind] = max(number, most.get(kind, 0))
    parts = [f"{number} {kind or 'GPU' + 's' * (number > 1)}" for kind, number in sorted(most.items())]
    parts += [f"{max(node.cpus for node in nodes)} CPUs", f"{max(node.memory_mb for node in nodes) / 1024:.3g} GiB"]
    return f"{text} with up to {', '.join(parts)}"


def limit_text(seconds: float | None) -> str:
    return "no time limit" if seconds is None else f"at most {span(seconds)}"


def choose_partition(partitions: Sequence[Partition], wanted: Wanted) -> Partition | None:
    """The wanted partition, else the one in which a job lands that names none."""
    if wanted.partition is not None:
        return next((p for p in partitions if p.name == wanted.partition), None)
    return next((p for p in partitions if p.is_default), None)


def _wanted(partitions: Sequence[Partition], wanted: Wanted) -> Iterator[Finding]:
    chosen = choose_partition(partitions, wanted)
    if chosen is None and wanted.partition is not None:
        there = f"there are: {', '.join(p.name for p in partitions)}"
        yield partition_topic.problem("wanted", f"the partition {wanted.partition!r} is not there", there)
        return
    if chosen is None:
        text = "no partition is the default"
        yield partition_topic.note("wanted", text, "name one: launch.partition, or --set launch.partition=NAME")
        return
    if wanted.time_s is not None and chosen.max_time_s is not None and wanted.time_s > chosen.max_time_s:
        text = f"launch.time is {span(wanted.time_s)}, {chosen.name} allows {span(chosen.max_time_s)}"
        yield partition_topic.problem("time", text, "trials that save are continued by the next job: ask for less")
    if wanted.gpus and wanted.gpus > chosen.gpus_per_node:
        text = f"launch.gpus is {wanted.gpus}, a node of {chosen.name} has {chosen.gpus_per_node or 'none'}"
        yield partition_topic.problem("wanted_gpus", text, "choose another partition, or fewer GPUs")


def access_findings(
    site: Site, partitions: Sequence[Partition], wanted: Wanted, groups: Sequence[str], accounts: Sequence[str] | None
) -> Iterator[Finding]:
    """Whether the user may submit at all, and to the wanted partition. `accounts` is None if nobody could be asked."""
    if accounts == () and "associations" in site.enforces:
        text = "you have no account here, and jobs without one are refused"
        yield partition_topic.problem("account", text, "ask the administrators for an account")
        return
    if accounts and wanted.account is not None and wanted.account not in accounts:
        text = f"launch.account is {wanted.account!r}; yours are: {', '.join(accounts)}"
        yield partition_topic.problem("account", text, "use one of them")
    elif accounts:
        yield partition_topic.ok("account", f"your accounts: {', '.join(accounts)}")
    chosen = choose_partition(partitions, wanted)
    if chosen is not None and not chosen.is_open_to(groups, accounts or ()):
        rules = [
            f"{word}: {', '.join(names)}"
            for word, names in (
                ("groups", chosen.allowed_groups),
                ("accounts", chosen.allowed_accounts),
                ("not accounts", chosen.denied_accounts),
            )
            if names
        ]
        text = f"{chosen.name} does not seem to be open to you ({'; '.join(rules)})"
        yield partition_topic.warning("access", text, "choose another partition, or name an account that may use it")
