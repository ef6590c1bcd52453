"""What a cluster was started with: variants, changed keys, the user of the jobs, ports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .errors import DevClusterError
from .layout import Layout

DEFAULT_USER = "dlc-user"
CGROUP_NODES = ("n1", "n2")
LINUXPROC_NODES = ("n3", "n4")
NODES = CGROUP_NODES + LINUXPROC_NODES
NOT_TO_BE_SET = ("NodeName", "PartitionName", "ClusterName", "SlurmctldPort", "AuthInfo")


@dataclass(frozen=True)
class Variant:
    """A named change of slurm.conf."""

    meaning: str
    keys: dict[str, str]


VARIANTS = {
    "default": Variant("accounting with slurmdbd, cgroup limits on n1 and n2", {}),
    "no-accounting": Variant("no MariaDB and no slurmdbd, sacct says it is disabled", {}),
    "small-arrays": Variant("at most 17 elements in a job array", {"MaxArraySize": "17"}),
    "user-signal": Variant(
        "preemption sends the signal of --signal first", {"SlurmctldParameters": "preempt_send_user_signal"}
    ),
    "no-requeue": Variant("jobs are only requeued if submitted with --requeue", {"JobRequeue": "0"}),
    "short-memory": Variant("no accounting, and finished jobs are forgotten after 10 s", {"MinJobAge": "10"}),
    "limits": Variant(
        "accounting is enforced, the user has at most 20 jobs at a time",
        {"AccountingStorageEnforce": "associations,limits,qos"},
    ),
    "no-cgroup": Variant("n1 and n2 without cgroups, as n3 and n4: no memory limits", {}),
}
WITHOUT_ACCOUNTING = ("no-accounting", "short-memory")


@dataclass(frozen=True)
class Settings:
    variants: tuple[str, ...] = ("default",)
    keys: tuple[tuple[str, str], ...] = ()
    user: str = DEFAULT_USER
    block: int | None = None  # of ports; None until the first start
    cgroup_mount: str = ""  # where the version 1 controllers are; "" if cgroups cannot be used
    swap_limits: bool = False

    @property
    def has_accounting(self) -> bool:
        return not set(WITHOUT_ACCOUNTING) & set(self.variants)

    @property
    def has_limits(self) -> bool:
        return "limits" in self.variants

    @property
    def changed_keys(self) -> dict[str, str]:
        """Those of the variants, then those of --set."""
        changed: dict[str, str] = {}
        for name in self.variants:
            changed.update(VARIANTS[name].keys)
        return {**changed, **dict(self.keys)}

    def same_cluster(self, other: Settings) -> bool:
        return (self.variants, self.keys, self.user) == (other.variants, other.keys, other.user)


def make_settings(variants: Sequence[str], assignments: Sequence[str], user: str) -> Settings:
    """From the words of the command line."""
    names = tuple(sorted(set(variants))) or ("default",)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise DevClusterError(f"there is no variant {unknown[0]!r}", f"there are {', '.join(VARIANTS)}")
    settings = Settings(names, tuple(_key_and_value(text) for text in assignments), user)
    if settings.has_limits and not settings.has_accounting:
        raise DevClusterError("the variant limits needs accounting", f"leave out {' and '.join(WITHOUT_ACCOUNTING)}")
    return settings


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.isalnum() or "\n" in value:
        raise DevClusterError(f"--set {text!r}: expected Key=Value of slurm.conf", "for example --set KillWait=30")
    if key in NOT_TO_BE_SET:
        raise DevClusterError(f"--set {text!r}: {key} is fixed", "the fixed ones are " + ", ".join(NOT_TO_BE_SET))
    return key, value


def write_settings(layout: Layout, settings: Settings) -> None:
    layout.settings.write_text(json.dumps(asdict(settings), indent=2) + "\n")


def read_settings(layout: Layout) -> Settings:
    """Of a cluster that was started at least once."""
    try:
        found: dict[str, Any] = json.loads(layout.settings.read_text())
    except FileNotFoundError:
        raise DevClusterError(f"there is no cluster in {layout.root}", "start one with: devcluster up") from None
    found["variants"] = tuple(found["variants"])
    found["keys"] = tuple((key, value) for key, value in found["keys"])
    return Settings(**found)
