"""The `launch:` section of a spec: where trials run and what they get. None of it changes a result."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dlcluster.spec.fields import Count, Duration, Section, Text, as_text, complaint, matching
from dlcluster.spec.names import is_secret
from dlcluster.spec.scalars import Unclear

EXECUTORS = ("local", "slurm", "submitit")
MAX_MARGIN_S = 65_535  # of sbatch --signal
# Why a trial may have failed, as far as another try can make a difference; see states.py.
RETRY_REASONS = ("cuda_oom", "diverged", "exception", "exit", "hung", "no_result", "oom")


def _env_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", value):
        raise complaint("expected the name of an environment variable")
    if value.upper().startswith(("SLURM_", "SBATCH_")):
        raise complaint("SLURM_* and SBATCH_* cannot be set here", "use the keys of launch:")
    if is_secret(value):
        raise complaint("a secret would be stored in plain files", "set it in the environment of the job instead")
    return value


def _env_value(value: Any) -> Any:
    if isinstance(value, Unclear):
        raise complaint(f"expected text or a number; {value.reason}", value.hint)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise complaint("expected text or a number", "put it in quotes" if isinstance(value, bool) else "")
    if "\0" in str(value):
        raise complaint("expected text without NUL")
    return str(value)


def _trials_per_job(value: Any) -> Any:
    if value == "pull" or (type(value) is int and 1 <= value <= 1_000_000):
        return value
    raise complaint(
        "expected pull or a number of trials >= 1",
        "pull: a job takes trials until none is left or its time is up; a number: so many, one after another",
    )


def _retry(value: dict[str, int]) -> dict[str, int]:
    for reason in value:
        if reason not in RETRY_REASONS:
            raise complaint(f"expected reasons of {', '.join(RETRY_REASONS)}")
    return value


def _word(what: str, characters: str = r"A-Za-z0-9_.,:=@+-") -> Any:
    """Text for a #SBATCH line: no quotes, spaces, # or backslashes, which mean there what they mean in no shell."""
    return Annotated[Text, matching(rf"[{characters}]{{1,200}}", f"{what} without spaces, quotes, # and backslashes")]


EnvName = Annotated[str, AfterValidator(_env_name)]
ShellLine = Annotated[Text, matching(r"[^\0\r\n]*", "one line of shell, without line breaks")]


class Launch(Section):
    """What workers get. Durations in seconds; `gpus` and `mem` of one trial on one node, `cpus` of one process."""

    executor: Annotated[Literal["local", "slurm", "submitit"], BeforeValidator(as_text)] = "local"
    profile: _word("the name of a site profile", r"A-Za-z0-9_.-") | None = None  # type: ignore[valid-type]
    parallel: Count | None = None
    canary: bool = False
    reuse_process: bool = False
    trials_per_job: Annotated[Literal["pull"] | int, BeforeValidator(_trials_per_job)] = "pull"
    trials_per_gpu: Count = 1
    nodes: Count = 1
    processes_per_node: Count | None = None
    gpus: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    gpu_type: _word("a type of GPU", r"A-Za-z0-9_.-") | None = None  # type: ignore[valid-type]
    cpus: Count = 1
    mem: Annotated[Text, matching(r"[0-9]{1,9}[KMGT]?", "an amount of memory such as 16G")] | None = None
    partition: _word("the name of a partition") | None = None  # type: ignore[valid-type]
    account: _word("an account") | None = None  # type: ignore[valid-type]
    qos: _word("a quality of service") | None = None  # type: ignore[valid-type]
    constraint: _word("a constraint", r"A-Za-z0-9_.,:=@+&|()*\[\]-") | None = None  # type: ignore[valid-type]
    setup: list[ShellLine] = Field(default_factory=list)
    extra_args: list[Text] = Field(default_factory=list)
    env: dict[EnvName, Annotated[str, BeforeValidator(_env_value)]] = Field(default_factory=dict)
    pass_env: list[EnvName] = Field(default_factory=list)
    grace: Duration = 30.0
    time: Duration | None = None
    margin: Annotated[Duration, Field(le=MAX_MARGIN_S)] | None = None
    hang_timeout: Duration | None = None
    max_attempts: Count = 3
    retry: Annotated[dict[str, Annotated[int, Field(ge=0, le=1000)]], AfterValidator(_retry)] = Field(
        default_factory=dict
    )

    @model_validator(mode="before")
    @classmethod
    def _typed_gpus(cls, data: Any) -> Any:
        """`gpus: a100:2` as sbatch has it: a type and a number."""
        asked = data.get("gpus") if isinstance(data, dict) else None
        match = re.fullmatch(r"([A-Za-z][A-Za-z0-9_.-]*):([0-9]{1,6})", asked) if isinstance(asked, str) else None
        return {**data, "gpu_type": match[1], "gpus": int(match[2])} if match else data

    @model_validator(mode="after")
    def _time_exceeds_margin(self) -> Launch:
        if self.time is not None and self.margin is not None and self.margin >= self.time:
            raise complaint(
                f"expected a margin shorter than the time, got margin {self.margin:g} s and time {self.time:g} s",
                "a worker asks its trial to stop at time - margin; without margin: it is 2 min, or half the time",
            )
        return self

    @model_validator(mode="after")
    def _one_process_a_gpu(self) -> Launch:
        """A trial is one process for each GPU that it asks for, wherever it runs."""
        if self.processes_per_node is None:
            object.__setattr__(self, "processes_per_node", max(1, self.gpus or 0))
        if self.nodes > 1 and self.trials_per_gpu > 1:
            raise complaint(
                f"expected trials_per_gpu 1 with several nodes, got {self.trials_per_gpu}",
                "small trials share a job on one node: leave nodes out",
            )
        if self.reuse_process and self.nodes * self.processes_per_node > 1:
            raise complaint(
                "expected reuse_process false for trials of several processes", "it is for many very short trials"
            )
        return self

    @model_validator(mode="after")
    def _nodes_need_slurm(self) -> Launch:
        if self.nodes > 1 and self.executor == "local":
            raise complaint(f"expected one node with the local executor, got nodes {self.nodes}", "executor: slurm")
        return self
