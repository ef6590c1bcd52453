"""The texts of slurm.conf and the files beside it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

from .layout import N_GPUS, Layout
from .ports import first_job_id, port_of
from .settings import CGROUP_NODES, LINUXPROC_NODES, NODES, Settings

GPUS_PER_NODE = 2
CPUS_PER_NODE = 8  # more than there are: jobs of tests mostly sleep
MEMORY_PER_NODE_MIB = 8000
CRED_EXPIRE_S = 5  # a requeued job waits one second longer than this
DATABASE = "slurm_acct_db"
DATABASE_USER = "slurm"

BASE = {
    "ClusterName": "dlcluster",
    "SlurmUser": "root",
    "SlurmdUser": "root",
    "AuthType": "auth/munge",
    "MpiDefault": "none",
    "ReturnToService": "2",
    "KillWait": "8",
    "SlurmdTimeout": "10",
    "SlurmctldTimeout": "10",
    "MessageTimeout": "10",
    "MinJobAge": "300",
    "SlurmctldDebug": "debug",
    "SlurmdDebug": "debug",
    "DebugFlags": "NO_CONF_HASH",  # the slurmd of n3 and n4 read another file
    "SlurmdParameters": "config_overrides",
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "sched_interval=2,bf_interval=2,batch_sched_delay=0",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "GresTypes": "gpu",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "JobRequeue": "1",
    "MaxArraySize": "2001",
    "MaxJobCount": "20000",
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "5",
}
WITH_CGROUPS = {"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup"}
WITHOUT_CGROUPS = {"ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none"}
ALL_PARTITIONS = "DefMemPerCPU=200 MaxTime=1-00:00:00 State=UP"
PARTITIONS = (
    ("low", NODES, "Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=0"),
    ("lowg", NODES, "PriorityTier=1 PreemptMode=REQUEUE GraceTime=20"),
    ("lowc", NODES, "PriorityTier=1 PreemptMode=CANCEL GraceTime=20"),
    ("high", NODES, "PriorityTier=10 PreemptMode=OFF"),
    ("cg", CGROUP_NODES, "PriorityTier=1 PreemptMode=REQUEUE GraceTime=0"),
    ("lp", LINUXPROC_NODES, "PriorityTier=1 PreemptMode=REQUEUE GraceTime=0"),
)


def host_name() -> str:
    return platform.node().split(".")[0]


def slurm_conf(layout: Layout, settings: Settings, *, linuxproc: bool) -> str:
    """For n3 and n4 with `linuxproc`, for everything else without."""
    cgroups = settings.cgroup_mount and not linuxproc
    tracking = WITH_CGROUPS if cgroups else WITHOUT_CGROUPS
    keys = {
        **BASE,
        **_local_keys(layout, settings),
        **_accounting_keys(layout, settings),
        **tracking,
        **settings.changed_keys,
    }
    return "\n".join([*(f"{key}={value}" for key, value in keys.items()), *_node_lines(settings), *_partitions(), ""])


def _local_keys(layout: Layout, settings: Settings) -> Mapping[str, str]:
    assert settings.block is not None  # noqa: S101 - chosen before anything is written
    return {
        "SlurmctldHost": f"{host_name()}(127.0.0.1)",
        "SlurmctldPort": str(port_of(settings.block, "slurmctld")),
        "AuthInfo": f"socket={layout.munge_socket},cred_expire={CRED_EXPIRE_S}",
        "FirstJobId": str(first_job_id(settings.block)),
        "StateSaveLocation": str(layout.state),
        "SlurmdSpoolDir": f"{layout.spool}/%n",
        "SlurmctldPidFile": f"{layout.run}/slurmctld.pid",
        "SlurmdPidFile": f"{layout.run}/slurmd.%n.pid",
        "SlurmctldLogFile": str(layout.log("slurmctld")),
        "SlurmdLogFile": str(layout.log("slurmd.%n")),
    }


def _accounting_keys(layout: Layout, settings: Settings) -> Mapping[str, str]:
    if not settings.has_accounting:
        return {"AccountingStorageType": "accounting_storage/none"}
    assert settings.block is not None  # noqa: S101
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": str(port_of(settings.block, "slurmdbd")),
        "AccountingStoragePass": str(layout.munge_socket),  # no password: AuthInfo does not reach slurmdbd's clients
        "AccountingStorageTRES": "gres/gpu",
    }


def _node_lines(settings: Settings) -> list[str]:
    assert settings.block is not None  # noqa: S101
    lines = []
    for node in NODES:
        place = f"NodeHostname={host_name()} NodeAddr=127.0.0.1 Port={port_of(settings.block, node)}"
        gpus = f" Gres=gpu:{GPUS_PER_NODE}" if node in CGROUP_NODES else ""
        lines.append(f"NodeName={node} {place} CPUs={CPUS_PER_NODE} RealMemory={MEMORY_PER_NODE_MIB}{gpus}")
    return lines


def _partitions() -> list[str]:
    return [f"PartitionName={name} Nodes={','.join(nodes)} {more} {ALL_PARTITIONS}" for name, nodes, more in PARTITIONS]


def gres_conf(layout: Layout) -> str:
    starts = range(0, N_GPUS, GPUS_PER_NODE)
    return "".join(
        f"NodeName={node} Name=gpu File={layout.gpu(0).parent}/gpu[{first}-{first + GPUS_PER_NODE - 1}]\n"
        for node, first in zip(CGROUP_NODES, starts, strict=True)
    )


def cgroup_conf(settings: Settings) -> str:
    swap = "yes" if settings.swap_limits else "no"
    mount = settings.cgroup_mount or "/sys/fs/cgroup"
    return (
        f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={mount}\n"
        f"ConstrainRAMSpace=yes\nConstrainSwapSpace={swap}\nConstrainDevices=no\nConstrainCores=no\n"
    )


def slurmdbd_conf(layout: Layout, settings: Settings, password: str) -> str:
    assert settings.block is not None  # noqa: S101
    keys = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={layout.munge_socket}",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": str(port_of(settings.block, "slurmdbd")),
        "SlurmUser": "root",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": str(port_of(settings.block, "mariadb")),
        "StorageUser": DATABASE_USER,
        "StoragePass": password,
        "StorageLoc": DATABASE,
        "LogFile": str(layout.log("slurmdbd")),
        "PidFile": f"{layout.run}/slurmdbd.pid",
    }
    return "".join(f"{key}={value}\n" for key, value in keys.items())


def write_all(layout: Layout, settings: Settings, password: str) -> None:
    """Every configuration file, beside each other, as Slurm wants them."""
    texts = {
        layout.slurm_conf: slurm_conf(layout, settings, linuxproc=False),
        layout.slurm_conf_linuxproc: slurm_conf(layout, settings, linuxproc=True),
        layout.root / "gres.conf": gres_conf(layout),
        layout.root / "cgroup.conf": cgroup_conf(settings),
    }
    for path, text in texts.items():
        path.write_text(text)
    if settings.has_accounting:
        write_secret(layout.root / "slurmdbd.conf", slurmdbd_conf(layout, settings, password))


def write_secret(path: object, text: str) -> None:
    """Readable for root only, from its first byte on."""
    handle = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "w", encoding="ascii") as file:
        file.write(text)
