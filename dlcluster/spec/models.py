"""The sections of a spec as pydantic models: strict types, no unknown keys. Rules across sections are in schema.py."""

from __future__ import annotations

import re
import shlex
import warnings
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from dlcluster.spec.names import is_secret
from dlcluster.spec.scalars import Unclear, parse_duration

MAX_SEED = 2**32 - 1  # what numpy accepts as a seed
MAX_SEEDS = 1_000_000
MAX_TEXT = 10_000


def complaint(message: str, hint: str = "") -> PydanticCustomError:
    """An error with our own words; the reporter adds what was found."""
    return PydanticCustomError("complaint", "{message}", {"message": message, "hint": hint})


def _text(value: Any) -> Any:
    if isinstance(value, Unclear) and value.is_text:
        return str(value)
    if isinstance(value, Unclear):
        raise complaint(value.reason, value.hint)
    if isinstance(value, bool | int | float):
        raise complaint("expected text", "put it in quotes")
    return value


def _matching(pattern: str, expected: str, hint: str = "") -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise complaint(f"expected {expected}", hint)
        return value

    return AfterValidator(check)


def _job(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/"):
        raise complaint("expected a path below the project root", "the project root is what workers get a copy of")
    return value


def _folder(value: str) -> str:
    if value.startswith(("/", "~")) or ".." in value.split("/") or "$" in value:
        raise complaint(
            "expected a folder below the project root, relative to it",
            "`~`, `$VAR` and `..` are not expanded: workers run in a copy of the project",
        )
    return value


def _command(value: Any) -> Any:
    """A list of words; text is split by shell rules, without a shell."""
    if isinstance(value, str):
        try:
            value = shlex.split(_text(value))
        except ValueError as error:
            raise complaint(f"expected a command that can be split by shell rules ({error})") from None
    if isinstance(value, list) and not value:
        raise complaint("expected a program and its arguments")
    return value


def _pattern(value: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of re, about patterns that are odd but valid
            n_groups = re.compile(value).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise complaint(f"expected a regular expression ({error})") from None
    if n_groups != 1:
        raise complaint(
            f"expected a regular expression with exactly one group, this one has {n_groups}",
            "put what is the number in ( ), and other groups in (?: )",
        )
    return value


def _seeds(value: Any) -> Any:
    """A count n means the seeds 0 to n-1."""
    if type(value) is int:
        if not 1 <= value <= MAX_SEEDS:
            raise complaint(f"expected a number of seeds from 1 to {MAX_SEEDS}, or a list of seeds")
        return list(range(value))
    if not isinstance(value, list):
        raise complaint("expected a number of seeds >= 1, or a list of seeds", getattr(value, "hint", ""))
    return value


def _distinct(value: list[int]) -> list[int]:
    if not value:
        raise complaint("expected at least one seed")
    seed, count = Counter(value).most_common(1)[0]
    if count > 1:
        raise complaint(f"expected distinct seeds, {seed} is there {count} times")
    return value


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


def _duration(value: Any) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise complaint(*error.args) from None


Text = Annotated[str, BeforeValidator(_text), Field(max_length=MAX_TEXT)]
Name = Annotated[
    Text, _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "a name of letters, digits, '_', '.' and '-', at most 64")
]
Job = Annotated[
    Text,
    _matching(
        r"([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[^:~$*?\"'<>|\\\x00-\x1f]+\.py)(:[A-Za-z_]\w*)?",
        "a job such as jobs.digits, jobs/digits.py:train or package.module:function",
        "a program with arguments goes under command:",
    ),
    AfterValidator(_job),
]
Word = Annotated[Text, _matching(r"[^\0]*", "text without NUL")]
MetricName = Annotated[Text, _matching(r"[^\s\x00-\x1f\x7f]{1,100}", "the name of a metric (no spaces, at most 100)")]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Objective(_Section):
    """The metric that ranks configs; `at` says whether its last or its best value counts."""

    metric: MetricName
    goal: Annotated[Literal["maximize", "minimize"], BeforeValidator(_text)]
    at: Annotated[Literal["last", "best"], BeforeValidator(_text)] = "last"


class Sampler(_Section):
    """How configs are drawn; `trials` counts configs and is None for a grid."""

    kind: Annotated[Literal["grid", "random", "sobol"], BeforeValidator(_text)] = "random"
    trials: Annotated[int, Field(ge=1)] | None = None
    seed: Seed = 0


class Launch(_Section):
    """What workers get; none of it changes a result. `grace`, `time` and `margin` in seconds."""

    executor: Annotated[Literal["local"], BeforeValidator(_text)] = "local"
    parallel: Count | None = None
    reuse_process: bool = False
    trials_per_gpu: Count = 1
    gpus: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    cpus: Count = 1
    env: dict[Annotated[str, AfterValidator(_env_name)], Annotated[str, BeforeValidator(_env_value)]] = Field(
        default_factory=dict
    )
    grace: Annotated[float, BeforeValidator(_duration)] = 30.0
    time: Annotated[float, BeforeValidator(_duration)] | None = None
    margin: Annotated[float, BeforeValidator(_duration)] | None = None
    max_attempts: Count = 3

    @model_validator(mode="after")
    def _time_exceeds_margin(self) -> Launch:
        if self.time is not None and self.margin is not None and self.margin >= self.time:
            raise complaint(
                f"expected a margin shorter than the time, got margin {self.margin:g} s and time {self.time:g} s",
                "a worker asks its trial to stop at time - margin; without margin: it is 2 min, or half the time",
            )
        return self


class Sections(_Section):
    """All keys of a spec. What is required is None here: schema.py says what is missing, in one message each."""

    name: Name | None = None
    question: Text = ""
    job: Job | None = None
    command: Annotated[list[Word], BeforeValidator(_command)] | None = None
    cwd: Annotated[Text, AfterValidator(_folder)] | None = None
    metrics: dict[MetricName, Annotated[Text, AfterValidator(_pattern)]] | None = None
    objective: Objective | None = None
    sampler: Sampler | None = None
    seeds: Annotated[list[Seed], BeforeValidator(_seeds), AfterValidator(_distinct)] = [0]
    on_nonfinite: Annotated[Literal["fail", "stop", "record"], BeforeValidator(_text)] = "fail"
    space: dict[str, Any] = Field(default_factory=dict)
    fixed: dict[str, Any] = Field(default_factory=dict)
    where: list[Text] = Field(default_factory=list)
    tensorboard: bool = False
    code: Annotated[Literal["snapshot", "live"], BeforeValidator(_text)] = "snapshot"
    share: Annotated[Literal["none", "group"], BeforeValidator(_text)] = "none"
    launch: Launch = Launch()
