"""The sections of a spec as pydantic models: strict types, no unknown keys. Rules across sections are in schema.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from dlcluster.spec.fields import (
    Job,
    MetricName,
    Name,
    Section,
    Seed,
    Text,
    Word,
    as_command,
    as_folder,
    as_pattern,
    as_seeds,
    as_text,
    distinct,
)
from dlcluster.spec.launch_section import Launch


class Objective(Section):
    """The metric that ranks configs; `at` says whether its last or its best value counts."""

    metric: MetricName
    goal: Annotated[Literal["maximize", "minimize"], BeforeValidator(as_text)]
    at: Annotated[Literal["last", "best"], BeforeValidator(as_text)] = "last"


class Sampler(Section):
    """How configs are drawn; `trials` counts configs and is None for a grid."""

    kind: Annotated[Literal["grid", "random", "sobol"], BeforeValidator(as_text)] = "random"
    trials: Annotated[int, Field(ge=1)] | None = None
    seed: Seed = 0


class Sections(Section):
    """All keys of a spec. What is required is None here: schema.py says what is missing, in one message each."""

    name: Name | None = None
    question: Text = ""
    job: Job | None = None
    command: Annotated[list[Word], BeforeValidator(as_command)] | None = None
    cwd: Annotated[Text, AfterValidator(as_folder)] | None = None
    metrics: dict[MetricName, Annotated[Text, AfterValidator(as_pattern)]] | None = None
    objective: Objective | None = None
    sampler: Sampler | None = None
    seeds: Annotated[list[Seed], BeforeValidator(as_seeds), AfterValidator(distinct)] = Field(
        default_factory=lambda: [0]
    )
    on_nonfinite: Annotated[Literal["fail", "stop", "record"], BeforeValidator(as_text)] = "fail"
    space: dict[str, Any] = Field(default_factory=dict)
    fixed: dict[str, Any] = Field(default_factory=dict)
    where: list[Text] = Field(default_factory=list)
    tensorboard: bool = False
    code: Annotated[Literal["snapshot", "live"], BeforeValidator(as_text)] = "snapshot"
    share: Annotated[Literal["none", "group"], BeforeValidator(as_text)] = "none"
    launch: Launch = Launch()
