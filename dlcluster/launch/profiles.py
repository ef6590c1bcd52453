"""Site profiles: what `launch:` says on one cluster, so that a spec stays the same on a laptop and on two clusters.

A profile is a YAML file with nothing but a `launch:` mapping. The project's own (`slurm/profiles/NAME.yaml`) come
before the user's (`~/.config/dlcluster/profiles/NAME.yaml`).
"""

from __future__ import annotations

import difflib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlcluster import __version__
from dlcluster.errors import PreconditionError, UsageError, shown
from dlcluster.files import make_dir, write_text
from dlcluster.launch.doctor_checks import Wanted, limit_text, nodes_text
from dlcluster.launch.partitions import Partition
from dlcluster.launch.preemption import preemption
from dlcluster.launch.site import Site

if TYPE_CHECKING:
    from dlcluster.launch.doctor import Examination

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
PROFILE_VARIABLE = "DLCLUSTER_PROFILE"


def profile_folders(project_root: Path) -> tuple[Path, Path]:
    """Where profiles are looked for: the project's folder, then the user's."""
    named = os.environ.get("XDG_CONFIG_HOME", "")
    config_home = Path(named) if named.startswith("/") else Path.home() / ".config"
    return Path(project_root) / "slurm" / "profiles", config_home / "dlcluster" / "profiles"


def chosen_profile(option: str | None) -> str | None:
    """The name from the command line, else from the environment; an empty one means none."""
    return (option if option is not None else os.environ.get(PROFILE_VARIABLE)) or None


def find_profile(name: str, project_root: Path) -> Path:
    """The file of a profile. Raises UsageError with the names that there are."""
    _check_name(name)
    for folder in profile_folders(project_root):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    names = sorted({path.stem for folder in profile_folders(project_root) for path in folder.glob("*.yaml")})
    raise UsageError(f"no profile {shown(name)}", _hint(name, names, project_root))


def _hint(name: str, names: Sequence[str], project_root: Path) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if names:
        return f"there are: {', '.join(names)}"
    mine, users = profile_folders(project_root)
    return f"there is none in {mine} nor in {users}; `dlcluster doctor --write-profile {name}` makes one"


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"{shown(name)} is no name for a profile", "letters, digits, '_', '.' and '-', at most 64")


# --- writing one


def write_profile(name: str, project_root: Path, found: Examination, wanted: Wanted) -> Path:
    """Write what was found as a profile: into the project if it has a folder for profiles, else for the user.

    Raises UsageError if there is one of this name, PreconditionError without a scheduler.
    """
    _check_name(name)
    if found.site is None:
        raise PreconditionError("there is no Slurm here to write a profile about", "run this on a login node")
    in_project, for_user = profile_folders(project_root)
    path = (in_project if in_project.is_dir() else for_user) / f"{name}.yaml"
    if os.path.lexists(path):
        raise UsageError(f"{path} is there already", "delete it, or choose another name")
    text = profile_text(name, found.site, found.partitions, found.accounts or (), wanted)
    make_dir(path.parent)
    write_text(path, text)
    return path


def profile_text(
    name: str, site: Site, partitions: Sequence[Partition], accounts: Sequence[str], wanted: Wanted
) -> str:
    """YAML with the keys that a site decides; what was found is in its comments."""
    chosen = best_partition(partitions, wanted)
    account = wanted.account or (accounts[0] if accounts else None)
    keys = {"executor": "slurm", "partition": chosen.name if chosen else None, "account": account}
    lines = [
        *_comments(name, site),
        "launch:",
        *(f"  {key}: {json.dumps(value)}" for key, value in keys.items() if value is not None),
        *([] if chosen is None else (f"  # {line}" for line in _about(site, chosen, partitions))),
        *(f"  # account: {json.dumps(other)}" for other in accounts if other != account),
        *_others(partitions, chosen),
    ]
    return "\n".join(lines) + "\n"


def best_partition(partitions: Sequence[Partition], wanted: Wanted) -> Partition | None:
    """The wanted one, else the default one if it has GPUs or none has, else the one with most usable GPU nodes."""
    if wanted.partition is not None:
        return next((p for p in partitions if p.name == wanted.partition), None)
    usable = [p for p in partitions if p.is_up and p.nodes]
    with_gpus = [p for p in usable if p.gpus_per_node] or usable
    n_nodes = {p.name: sum(node.is_usable and node.n_gpus > 0 for node in p.nodes) for p in with_gpus}
    return max(with_gpus, key=lambda p: (p.is_default, n_nodes[p.name]), default=None)


def _comments(name: str, site: Site) -> Iterator[str]:
    day = time.strftime("%Y-%m-%d")
    yield f"# {name}: what `launch:` says on the cluster {_plain(site.cluster)}; in a spec: launch.profile: {name}"
    yield f"# found by dlcluster {__version__} on {day}: Slurm {site.version_text}, arrays of up to {site.chunk_size}"
    yield "# A spec that gives one of these keys itself keeps its own value."


def _about(site: Site, chosen: Partition, partitions: Sequence[Partition]) -> Iterator[str]:
    yield f"{nodes_text(chosen.nodes)}, {limit_text(chosen.max_time_s)}"
    yield f"preemption: {_plain(preemption(site, chosen, partitions).found)}"
    yield "time: 4h"
    if chosen.gpus_per_node:
        yield "gpus: 1"
    yield "setup: [module load cuda]"


def _others(partitions: Sequence[Partition], chosen: Partition | None) -> Iterator[str]:
    for other in partitions:
        if other != chosen:
            about = f"{nodes_text(other.nodes)}, {limit_text(other.max_time_s)}"
            yield f"  # partition: {json.dumps(other.name)}    # {_plain(about)}"


def _plain(text: str) -> str:
    """One line: what a scheduler says must not become YAML."""
    return "".join(c if c.isprintable() else " " for c in text)
