"""Partitions and nodes of a cluster, as `scontrol` describes them, and the accounts that the user may use."""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dlcluster.errors import PreconditionError
from dlcluster.launch.site import ask_slurm
from dlcluster.launch.slurm_output import parse_key_values

ACCOUNTS_TIMEOUT_S = 10.0
_UNUSABLE = ("DOWN", "DRAIN", "FAIL", "UNKNOWN", "NOT_RESPONDING", "MAINT", "FUTURE")  # powered down is usable
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


@dataclass(frozen=True)
class Node:
    """A machine. `gpus` are pairs of type and number; the type is empty where the site does not name one."""

    name: str
    host: str
    state: str
    cpus: int
    memory_mb: int
    gpus: tuple[tuple[str, int], ...]
    partitions: tuple[str, ...]

    @property
    def n_gpus(self) -> int:
        return sum(number for _type, number in self.gpus)

    @property
    def is_usable(self) -> bool:
        """Whether jobs can start there, now or when others have ended."""
        words = re.split(r"[+*~#!%$@^-]", self.state.upper())
        return not any(word.startswith(_UNUSABLE) for word in words) and "*" not in self.state

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        here = socket.gethostname().partition(".")[0]
        return here in (self.host.partition(".")[0], self.name)


@dataclass(frozen=True)
class Partition:
    """A queue. Times in seconds, None without a limit; empty tuples where everybody is allowed."""

    name: str
    is_default: bool
    state: str
    max_time_s: int | None
    default_time_s: int | None
    grace_s: int
    preempt_mode: tuple[str, ...]
    tier: int
    allowed_accounts: tuple[str, ...]
    denied_accounts: tuple[str, ...]
    allowed_groups: tuple[str, ...]
    allowed_qos: tuple[str, ...]
    qos: str
    nodes: tuple[Node, ...]

    @property
    def is_up(self) -> bool:
        return self.state == "UP"

    @property
    def gpus_per_node(self) -> int:
        return max((node.n_gpus for node in self.nodes), default=0)

    @property
    def nodes_elsewhere(self) -> tuple[Node, ...]:
        """Those that are other machines than this one."""
        return tuple(node for node in self.nodes if not node.is_here)

    def is_open_to(self, groups: Sequence[str], accounts: Sequence[str]) -> bool:
        """Whether a user in these groups, with these accounts (empty: not known), may submit to it."""
        if self.allowed_groups and not set(self.allowed_groups) & set(groups):
            return False
        if not accounts:
            return True
        usable = set(accounts) - set(self.denied_accounts)
        return bool(usable & set(self.allowed_accounts) if self.allowed_accounts else usable)


def read_partitions() -> tuple[Partition, ...]:
    """All partitions that the user can see, with their nodes. Raises PreconditionError without an answer."""
    nodes = parse_nodes(ask_slurm(["scontrol", "-o", "show", "node"]))
    return parse_partitions(ask_slurm(["scontrol", "-o", "show", "partition"]), nodes)


def usable_accounts() -> tuple[str, ...] | None:
    """The accounts that the user may name, the default one first; None if the database does not say."""
    with suppress(PreconditionError, KeyError):
        user = pwd.getpwuid(os.getuid()).pw_name
        argv = ["sacctmgr", "-n", "-P", "show", "user", user, "withassoc", "format=account,defaultaccount"]
        return parse_accounts(ask_slurm(argv, ACCOUNTS_TIMEOUT_S))  # hangs while slurmdbd is stopped
    return None


# --- what scontrol and sacctmgr print


def parse_records(text: str) -> Iterator[dict[str, str]]:
    """`Key=value Key=value ...`, one record a line; what is "(null)" is empty."""
    for line in text.splitlines():
        record = parse_key_values(line)
        if record:
            yield {key: "" if value in ("(null)", "N/A") else value for key, value in record.items()}


def parse_nodes(text: str) -> tuple[Node, ...]:
    return tuple(
        Node(
            name=record["NodeName"],
            host=record.get("NodeHostName") or record["NodeName"],
            state=record.get("State", ""),
            cpus=parse_number(record.get("CPUTot", "")),
            memory_mb=parse_number(record.get("RealMemory", "")),
            gpus=parse_gpus(record.get("Gres", "")),
            partitions=parse_names(record.get("Partitions", "")),
        )
        for record in parse_records(text)
        if "NodeName" in record
    )


def parse_partitions(text: str, nodes: Sequence[Node]) -> tuple[Partition, ...]:
    return tuple(
        Partition(
            name=name,
            is_default=record.get("Default") == "YES",
            state=record.get("State", "").upper(),
            max_time_s=parse_time(record.get("MaxTime", "")),
            default_time_s=parse_time(record.get("DefaultTime", "")),
            grace_s=parse_number(record.get("GraceTime", "")),
            preempt_mode=parse_names(record.get("PreemptMode", "").upper()),
            tier=parse_number(record.get("PriorityTier", "1")),
            allowed_accounts=parse_names(record.get("AllowAccounts", "")),
            denied_accounts=parse_names(record.get("DenyAccounts", "")),
            allowed_groups=parse_names(record.get("AllowGroups", "")),
            allowed_qos=parse_names(record.get("AllowQos", "")),
            qos=record.get("QoS", ""),
            nodes=tuple(node for node in nodes if name in node.partitions),
        )
        for record in parse_records(text)
        if (name := record.get("PartitionName", ""))
    )


def parse_accounts(text: str) -> tuple[str, ...]:
    """Lines of `account|default account`."""
    rows = [line.strip().split("|") for line in text.splitlines() if line.strip()]
    accounts = dict.fromkeys(row[0] for row in rows if row[0])
    defaults = [row[1] for row in rows if len(row) > 1 and row[1] in accounts]
    return tuple(dict.fromkeys([*defaults, *accounts]))


def parse_gpus(gres: str) -> tuple[tuple[str, int], ...]:
    """`gpu:a100:4(S:0-1),shard:8` -> (("a100", 4),); without a number it is one."""
    found = []
    for word in re.sub(r"\([^)]*\)", "", gres).split(","):
        kind, *rest = word.strip().split(":")
        if kind == "gpu":
            number = rest.pop() if rest and re.fullmatch(r"\d+", rest[-1]) else "1"
            found.append((rest[0] if rest else "", int(number)))
    return tuple(pair for pair in found if pair[1])


def parse_time(text: str) -> int | None:
    """`1-00:00:00`, `15:00`, `30` (minutes) in seconds; None for UNLIMITED, NONE and whatever is no time."""
    match = _TIME.fullmatch(text.strip())
    if not match:
        return None
    days, *rest = match.groups()
    numbers = [int(number) for number in rest if number is not None]
    if days is None and len(numbers) < 3:
        numbers.insert(0, 0)  # minutes, or minutes:seconds
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return int(days or 0) * 86_400 + hours * 3600 + minutes * 60 + seconds


def parse_names(text: str) -> tuple[str, ...]:
    """`a,b` -> ("a", "b"); everybody (ALL) and nobody in particular are both empty."""
    return tuple(word for word in text.split(",") if word and word.upper() not in ("ALL", "NONE"))


def parse_number(text: str) -> int:
    match = re.match(r"\d{1,15}", text.strip())
    return int(match[0]) if match else 0
