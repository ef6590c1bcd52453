"""What the scheduler of a cluster is set to: asked once an hour, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcluster.errors import PreconditionError
from dlcluster.file_reading import read_bytes
from dlcluster.files import make_dir, read_json, write_json

TIMEOUT_S = 30.0
CACHE_S = 3600.0
MAX_CHUNK = 10_000  # elements of one array; larger ones make every list of jobs slow for everybody
DEFAULT_CONFIGS = (
    Path("/etc/slurm/slurm.conf"),
    Path("/run/slurm/conf/slurm.conf"),
    Path("/etc/slurm-llnl/slurm.conf"),
)
PROGRAMS = ("sbatch", "scontrol", "squeue", "scancel")
# Variables that change what these programs print, or whom they ask.
_PREFIXES = ("SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_", "SLURM_")
_KEPT = ("SLURM_CONF",)
_LINE = re.compile(r"([A-Za-z]\w*(?:\[\d+\])?)\s*=\s?(.*)")


@dataclass(frozen=True)
class Site:
    """What `scontrol show config` says, as far as it matters to us. None where there is no limit."""

    cluster: str
    version: tuple[int, ...]
    config_file: str
    max_array_size: int
    max_array_tasks: int | None
    max_job_count: int
    min_job_age_s: int
    kill_wait_s: int
    requeue_delay_s: int
    job_requeue: bool
    preempt_mode: tuple[str, ...]
    preempt_type: str
    sends_user_signal: bool
    limits_requests: bool
    has_accounting: bool
    enforces: tuple[str, ...]
    stores_job_env: bool
    stores_job_script: bool
    proctrack: str
    select_type: str
    constrains_ram: bool | None
    requeue_exit: frozenset[int]
    requeue_exit_hold: frozenset[int]

    @property
    def version_text(self) -> str:
        """`22.05.8`, as SchedMD writes it."""
        return ".".join(f"{number:02d}" if place == 1 else str(number) for place, number in enumerate(self.version))

    @property
    def has_cons_tres(self) -> bool:
        """Whether `--gpus-per-node` is understood; without it only `--gres=gpu:N` is."""
        return self.select_type == "select/cons_tres"

    @property
    def chunk_size(self) -> int:
        """The largest array that is accepted: the indices are 0 to n - 1, and the highest must be < MaxArraySize."""
        return max(1, min(self.max_array_size, self.max_array_tasks or MAX_CHUNK, MAX_CHUNK))

    @property
    def window_s(self) -> int:
        """Seconds between SIGTERM and SIGKILL."""
        return max(self.kill_wait_s, 5)


def srun_ignores_cpus(version: Sequence[int]) -> bool:
    """Slurm 22.05 to 23.02: srun does not take over --cpus-per-task of its job. From 23.11 it does again."""
    return (22, 5) <= tuple(version[:2]) < (23, 11)


def forgets_early_leavers(version: Sequence[int]) -> bool:
    """Before 24.05 a preempted job that ends within its grace time is not requeued by Slurm, even under REQUEUE."""
    return tuple(version[:2]) < (24, 5)


# --- what scontrol prints


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config` by its keys, those of the cgroup section too; "(null)" is an empty text."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := _LINE.fullmatch(line.strip()):
            value = match[2].strip()
            found.setdefault(match[1], "" if value in ("(null)", "N/A") else value)
    return found


def site_of(config: Mapping[str, str]) -> Site:
    """What the keys mean. Unknown keys are ignored; missing ones count as Slurm's defaults."""
    accounting = config.get("AccountingStorageType", "")
    stored = _words(config.get("AccountingStoreFlags", ""))
    controller = _options(config.get("SlurmctldParameters", ""))
    return Site(
        cluster=config.get("ClusterName", ""),
        version=parse_version(config.get("SLURM_VERSION", "")),
        config_file=config.get("SLURM_CONF", ""),
        max_array_size=_number(config.get("MaxArraySize"), 1001),
        max_array_tasks=_optional(_options(config.get("SchedulerParameters", "")).get("max_array_tasks")),
        max_job_count=_number(config.get("MaxJobCount"), 10_000),
        min_job_age_s=_number(config.get("MinJobAge"), 300),
        kill_wait_s=_number(config.get("KillWait"), 30),
        requeue_delay_s=_number(_options(config.get("AuthInfo", "")).get("cred_expire"), 120) + 1,
        job_requeue=config.get("JobRequeue", "1") != "0",
        preempt_mode=_words(config.get("PreemptMode", "").upper()),
        preempt_type=config.get("PreemptType") or "preempt/none",
        sends_user_signal="preempt_send_user_signal" in controller,
        limits_requests="rl_enable" in controller,
        has_accounting=accounting not in ("", "accounting_storage/none"),
        enforces=_words(config.get("AccountingStorageEnforce", "").lower()),
        stores_job_env="job_env" in stored,
        stores_job_script="job_script" in stored,
        proctrack=config.get("ProctrackType", ""),
        select_type=config.get("SelectType", ""),
        constrains_ram=_yes_or_no(config.get("ConstrainRAMSpace", "")),
        requeue_exit=parse_codes(config.get("RequeueExit", "")),
        requeue_exit_hold=parse_codes(config.get("RequeueExitHold", "")),
    )


def parse_version(text: str) -> tuple[int, ...]:
    """`slurm 22.05.8`, `23.11.0-0rc1` -> (22, 5, 8), (23, 11, 0); empty for anything else."""
    match = re.search(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", text)
    return tuple(int(number) for number in match.groups() if number is not None) if match else ()


def parse_codes(text: str) -> frozenset[int]:
    """`1,74-76` -> {1, 74, 75, 76}."""
    codes: set[int] = set()
    for match in re.finditer(r"(\d{1,3})(?:-(\d{1,3}))?", text):
        codes |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(codes)


def _words(text: str) -> tuple[str, ...]:
    words = [word.strip() for word in text.split(",")]
    return tuple(word for word in words if word and word not in ("none", "NONE"))


def _options(text: str) -> dict[str, str]:
    """`sched_interval=2,batch_sched_delay` -> each option with its value, or with an empty text."""
    return {name.lower(): value for name, _, value in (word.partition("=") for word in _words(text))}


def _number(text: str | None, default: int) -> int:
    """`300 sec`, `1001`: the first number; the default for anything without one."""
    match = re.match(r"\s*(\d{1,15})", text or "")
    return int(match[1]) if match else default


def _optional(text: str | None) -> int | None:
    return _number(text, 0) or None


def _yes_or_no(text: str) -> bool | None:
    return {"yes": True, "no": False}.get(text.lower())


# --- asking


def has_slurm() -> bool:
    """Whether this machine has Slurm's programs. Raises PreconditionError if it has only some of them."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing and len(missing) < len(PROGRAMS):
        raise PreconditionError(
            f"Slurm is only half there: {', '.join(missing)} not found in PATH",
            "load the module of your site, or ask its administrators",
        )
    return not missing


def ask_slurm(argv: Sequence[str], timeout_s: float = TIMEOUT_S, environ: Mapping[str, str] | None = None) -> str:
    """What a Slurm program prints. Raises PreconditionError when it fails or does not answer in time.

    Without `environ` it gets ours, without what would change its answers.
    """
    try:
        done = subprocess.run(
            list(argv),
            env=slurm_environment(os.environ) if environ is None else dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PreconditionError(f"{argv[0]}: no answer within {timeout_s:g} s", "the scheduler may be down") from None
    except OSError as error:
        raise PreconditionError(f"{argv[0]}: cannot be started: {error.strerror}") from error
    if done.returncode:
        asked = " ".join(word for word in argv[:4] if word[0].isalpha())
        complaint = first_words(done.stderr).removeprefix(f"{argv[0]}: error: ") or f"exit code {done.returncode}"
        raise PreconditionError(
            f"{asked}: {complaint}",
            "the scheduler may be down; running trials go on without it",
        )
    return done.stdout.decode(errors="replace")


def slurm_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what changes the answers of Slurm's programs, in the language that we read."""
    kept = {k: v for k, v in environ.items() if k in _KEPT or not k.startswith(_PREFIXES)}
    return {**kept, "LC_ALL": "C", "SLURM_BITSTR_LEN": "0"}  # 0: lists of array tasks are not cut


def first_words(output: bytes, limit: int = 200) -> str:
    """The first line that says something, as it may be printed."""
    lines = (line.strip() for line in output.decode(errors="replace").splitlines())
    return "".join(c for c in next(filter(None, lines), "") if c.isprintable())[:limit]


def read_site(*, fresh: bool = False) -> Site | None:
    """What the scheduler is set to; None where there is no Slurm. Raises PreconditionError when it does not answer."""
    if not has_slurm():
        return None
    cache = cache_folder() / "site.json"
    config = None if fresh else _cached(cache)
    if config is None:
        config = parse_config(ask_slurm(["scontrol", "show", "config"]))
        if not config.get("SLURM_VERSION"):
            raise PreconditionError("scontrol show config: the answer holds no configuration of Slurm")
        _keep(cache, config)
    return site_of(config)


def config_file() -> Path | None:
    """The slurm.conf that Slurm's programs read here, as far as that can be told."""
    named = os.environ.get("SLURM_CONF")
    if named:
        return Path(named)
    return next((path for path in DEFAULT_CONFIGS if path.is_file()), None)


def cache_folder() -> Path:
    """One folder a cluster: a home folder may be shared by several whose slurm.conf has the same path."""
    path = config_file()
    controller = _controller(path) or socket.gethostname()
    digest = hashlib.sha256(f"{path}\0{controller}".encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9_-]", "_", controller)[:40]
    return cache_home() / "dlcluster" / f"{name}-{digest}"


def _controller(path: Path | None) -> str:
    """The machine that runs slurmctld, by slurm.conf; empty where that cannot be read."""
    try:
        text = read_bytes(path).decode(errors="replace") if path else ""
    except OSError:
        return ""
    match = re.search(r"^\s*(?:SlurmctldHost|ControlMachine)\s*=\s*([^\s(#]+)", text, re.MULTILINE | re.IGNORECASE)
    return match[1] if match else ""


def cache_home() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if named.startswith("/") else Path.home() / ".cache"


def _cached(cache: Path) -> dict[str, str] | None:
    try:
        found: Any = read_json(cache)
        age_s = time.time() - found["time"]
        if 0 <= age_s < CACHE_S and found["changed"] == _changed(config_file()) and found["config"]["SLURM_VERSION"]:
            return {str(key): str(value) for key, value in found["config"].items()}
    except (OSError, TypeError, KeyError, AttributeError):
        pass  # damaged, or written by another version: asking again costs one call
    return None


def _keep(cache: Path, config: Mapping[str, str]) -> None:
    with suppress(OSError):  # a cache that cannot be written is no failure
        make_dir(cache.parent)
        value = {"time": time.time(), "changed": _changed(config_file()), "config": dict(config)}
        write_json(cache, value, durable=False)


def _changed(path: Path | None) -> int:
    """When slurm.conf was last changed: whoever has edited it wants to see that."""
    try:
        return path.stat().st_mtime_ns if path else 0
    except OSError:
        return 0
