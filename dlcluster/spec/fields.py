"""The types of a spec's values: what pydantic checks them against, and the words for what is wrong."""

from __future__ import annotations

import re
import shlex
import warnings
from collections import Counter
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from dlcluster.spec.scalars import Unclear, parse_duration

MAX_SEED = 2**32 - 1  # what numpy accepts as a seed
MAX_SEEDS = 1_000_000
MAX_TEXT = 10_000


def complaint(message: str, hint: str = "") -> PydanticCustomError:
    """An error with our own words; the reporter adds what was found."""
    return PydanticCustomError("complaint", "{message}", {"message": message, "hint": hint})


def as_text(value: Any) -> Any:
    if isinstance(value, Unclear) and value.is_text:
        return str(value)
    if isinstance(value, Unclear):
        raise complaint(value.reason, value.hint)
    if isinstance(value, bool | int | float):
        raise complaint("expected text", "put it in quotes")
    return value


def matching(pattern: str, expected: str, hint: str = "") -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise complaint(f"expected {expected}", hint)
        return value

    return AfterValidator(check)


def as_job(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/"):
        raise complaint("expected a path below the project root", "the project root is what workers get a copy of")
    return value


def as_folder(value: str) -> str:
    if value.startswith(("/", "~")) or ".." in value.split("/") or "$" in value:
        raise complaint(
            "expected a folder below the project root, relative to it",
            "`~`, `$VAR` and `..` are not expanded: workers run in a copy of the project",
        )
    return value


def as_command(value: Any) -> Any:
    """A list of words; text is split by shell rules, without a shell."""
    if isinstance(value, str):
        try:
            value = shlex.split(as_text(value))
        except ValueError as error:
            raise complaint(f"expected a command that can be split by shell rules ({error})") from None
    if isinstance(value, list) and not value:
        raise complaint("expected a program and its arguments")
    return value


def as_pattern(value: str) -> str:
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


def as_seeds(value: Any) -> Any:
    """A count n means the seeds 0 to n-1."""
    if type(value) is int:
        if not 1 <= value <= MAX_SEEDS:
            raise complaint(f"expected a number of seeds from 1 to {MAX_SEEDS}, or a list of seeds")
        return list(range(value))
    if not isinstance(value, list):
        raise complaint("expected a number of seeds >= 1, or a list of seeds", getattr(value, "hint", ""))
    return value


def distinct(value: list[int]) -> list[int]:
    if not value:
        raise complaint("expected at least one seed")
    seed, count = Counter(value).most_common(1)[0]
    if count > 1:
        raise complaint(f"expected distinct seeds, {seed} is there {count} times")
    return value


def duration(value: Any) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise complaint(*error.args) from None


Duration = Annotated[float, BeforeValidator(duration)]
Text = Annotated[str, BeforeValidator(as_text), Field(max_length=MAX_TEXT)]
Name = Annotated[
    Text, matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "a name of letters, digits, '_', '.' and '-', at most 64")
]
Job = Annotated[
    Text,
    matching(
        r"([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[^:~$*?\"'<>|\\\x00-\x1f]+\.py)(:[A-Za-z_]\w*)?",
        "a job such as jobs.digits, jobs/digits.py:train or package.module:function",
        "a program with arguments goes under command:",
    ),
    AfterValidator(as_job),
]
Word = Annotated[Text, matching(r"[^\0]*", "text without NUL")]
MetricName = Annotated[Text, matching(r"[^\s\x00-\x1f\x7f]{1,100}", "the name of a metric (no spaces, at most 100)")]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
