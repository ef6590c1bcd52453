"""The typed spec: everything that is known about a sweep before anything is started, checked all at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dlcluster.errors import Problem
from dlcluster.spec.document import E_KEY, E_SAMPLER, E_VALUE, E_WHERE, Document, KeyPath
from dlcluster.spec.loader import load_document
from dlcluster.spec.models import Launch, Objective, Sampler, Sections
from dlcluster.spec.overrides import apply_overrides
from dlcluster.spec.profile import apply_profile
from dlcluster.spec.reporting import EXAMPLES, note_errors
from dlcluster.spec.space import Space
from dlcluster.spec.space_reader import read_space
from dlcluster.spec.where import Constraint, WhereError, compile_constraint
from dlcluster.trial import canonical_json, content_id

MAX_TRIALS = 100_000
ROOT_MARKS = (".git", "setup.cfg", "pyproject.toml")
SHELL_WORDS = {"|", "||", "&&", "&", ";", ">", ">>", "<", "2>&1"}


@dataclass(frozen=True)
class Spec:
    """A valid spec. Exactly one of `job` and `command` is given; `seeds` is the list that all configs share."""

    document: Document
    overrides: tuple[str, ...]
    name: str
    question: str
    job: str | None
    command: tuple[str, ...] | None
    cwd: str | None
    metrics: Mapping[str, str]
    objective: Objective
    sampler: Sampler
    seeds: tuple[int, ...]
    on_nonfinite: str
    space: Space
    constraints: tuple[Constraint, ...]
    tensorboard: bool
    code: str
    share: str
    launch: Launch

    @property
    def path(self) -> Path:
        """The absolute path of the file."""
        return self.document.path.resolve()

    @property
    def text(self) -> str:
        return self.document.text

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines for the user about what is odd but allowed."""
        return tuple(self.document.warnings)

    @property
    def fixed(self) -> Mapping[str, Any]:
        return self.space.fixed

    @property
    def where(self) -> tuple[str, ...]:
        return tuple(constraint.text for constraint in self.constraints)

    @property
    def project_root(self) -> Path:
        """The nearest folder above the spec with one of `ROOT_MARKS`, else the spec's folder."""
        return project_root_of(self.path)

    @property
    def job_name(self) -> str:
        """What ids of trials are made of besides the parameters."""
        return self.job if self.job is not None else canonical_json(list(self.command or ()))

    @property
    def fingerprint(self) -> str:
        """Equal for two specs that describe the same sweep."""
        return content_id(self.identity())

    def identity(self) -> dict[str, Any]:
        """What makes a sweep this sweep: more trials or seeds, or another place to run, leave it the same."""
        what = {"job": self.job} if self.command is None else self._command_json()
        return what | {
            "space": self.space.to_json(),
            "fixed": dict(self.fixed),
            "where": list(self.where),
            "objective": self.objective.model_dump(),
            "on_nonfinite": self.on_nonfinite,
            "sampler": {"kind": self.sampler.kind, "seed": self.sampler.seed},
        }

    def to_json(self) -> dict[str, Any]:
        """The whole spec with all defaults, as strict JSON; `launch.grace` in seconds."""
        return self.identity() | {
            "name": self.name,
            "question": self.question,
            "sampler": self.sampler.model_dump(),
            "seeds": list(self.seeds),
            "tensorboard": self.tensorboard,
            "code": self.code,
            "share": self.share,
            "launch": self.launch.model_dump(),
        }

    def _command_json(self) -> dict[str, Any]:
        return {"command": list(self.command or ()), "cwd": self.cwd, "metrics": dict(self.metrics)}

    def problem(self, path: KeyPath, code: str, message: str, hint: str = "", of_key: bool = False) -> Problem:
        """A problem at the line and column of the node (or of its key), or of the nearest node around it."""
        return self.document.problem(path, code, message, hint, of_key)


def project_root_of(spec_file: Path) -> Path:
    folder = spec_file.parent
    return next((f for f in (folder, *folder.parents) if any((f / m).exists() for m in ROOT_MARKS)), folder)


def load_spec(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    allow_large: bool = False,
    find_profile: Callable[[str, Path], Path] | None = None,
    profile: str | None = None,
) -> Spec:
    """Read, check and resolve a spec; SpecError with everything that is wrong with it."""
    document = load_document(path)
    _require_mapping(document)
    apply_overrides(document, overrides)
    if find_profile is not None:
        apply_profile(document, profile, lambda name: find_profile(name, project_root_of(path.resolve())))
    sections, wrong = _read_sections(document)
    check = _Check(document, sections, wrong)
    space = check.space()
    sampler = check.sampler(space)
    constraints = check.constraints()
    check.source()
    check.size(space, sampler, allow_large)
    document.stop_if_wrong()
    assert sections.name and sections.objective and space is not None  # noqa: S101 - problems were raised above
    rest = {key: getattr(sections, key) for key in ("question", "job", "cwd", "on_nonfinite", "tensorboard", "code")}
    return Spec(
        document=document,
        overrides=tuple(overrides),
        name=sections.name,
        command=None if sections.command is None else tuple(sections.command),
        metrics=sections.metrics or {},
        objective=sections.objective,
        sampler=sampler,
        seeds=tuple(sections.seeds),
        space=space,
        constraints=constraints,
        share=sections.share,
        launch=sections.launch,
        **rest,
    )


def _require_mapping(document: Document) -> None:
    if isinstance(document.data, dict):
        return
    keys = ", ".join([*list(Sections.model_fields)[:3], "space", "..."])
    words = {type(None): "nothing", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    found = words.get(type(document.data), "text")
    document.add((), E_VALUE, f"expected a mapping with keys {keys}, got {found}")
    document.stop_if_wrong()


def _read_sections(document: Document) -> tuple[Sections, set[str]]:
    """The sections, those that are wrong left at their defaults and named."""
    data = dict(document.data)
    wrong = {key for key, value in data.items() if value is None and key in Sections.model_fields}
    for key in wrong:
        document.add((key,), E_VALUE, "null is not allowed here, got null", "give a value or remove the key")
    try:
        return Sections.model_validate({k: v for k, v in data.items() if k not in wrong}), wrong
    except ValidationError as error:
        note_errors(document, error)
        wrong |= {str(row["loc"][0]) for row in error.errors(include_url=False)}
    return Sections.model_validate({k: v for k, v in data.items() if k not in wrong}), wrong


@dataclass(frozen=True)
class _Check:
    """The rules across sections; each says nothing about a section that is wrong in itself."""

    document: Document
    sections: Sections
    wrong: set[str]

    def space(self) -> Space | None:
        sections = self.sections
        is_command = sections.job is None and (sections.command is not None or "command" in self.wrong)
        space = read_space(self.document, sections.space, sections.fixed, for_command=is_command)
        return None if {"space", "fixed"} & self.wrong else space

    def source(self) -> None:
        """What runs, and what ranks."""
        given = [key for key in ("job", "command") if key in self.document.data]
        if len(given) == 2:
            self._add("command", E_KEY, "expected exactly one of job and command, got both", "remove one of them")
        elif not given:
            example = "job: jobs.digits, or command: python train.py --lr {lr}"
            self.document.add((), E_KEY, "expected exactly one of job and command, got none", f"for example {example}")
        for key in ("cwd", "metrics"):
            if key in self.document.data and given == ["job"]:
                self._add(key, E_KEY, f"{key}: is for command: only", "a job reports with run.log(...)")
        for key in ("name", "objective"):
            if key not in self.document.data:
                self.document.add((), E_KEY, f"the key '{key}' is missing", f"for example: {EXAMPLES[key]}")
        if words := SHELL_WORDS.intersection(self.sections.command or ()):
            self.document.warn(
                ("command",), f"the command runs without a shell: '{min(words)}' is passed to the program"
            )

    def sampler(self, space: Space | None) -> Sampler:
        sampler = self.sections.sampler
        if sampler is None:
            if space is not None and not space.dimensions:
                return Sampler(kind="grid")
            if "sampler" not in self.wrong and space is not None:
                hint = "for example: sampler: {kind: random, trials: 30}, or sampler: {kind: grid}"
                self.document.add((), E_SAMPLER, "the number of trials is missing", hint)
            return Sampler(kind="random", trials=1)
        if sampler.kind == "grid":
            self._check_grid(sampler, space)
        elif sampler.trials is None:
            message = f"the key 'trials' is missing: the sampler {sampler.kind} needs it"
            self._add("sampler", E_SAMPLER, message, "for example: trials: 30")
        return sampler

    def _check_grid(self, sampler: Sampler, space: Space | None) -> None:
        if sampler.trials is not None:
            message = f"a grid has as many trials as values, got trials: {sampler.trials}"
            self.document.add(("sampler", "trials"), E_SAMPLER, message, "remove trials, or take kind: random")
        for parameter in space.parameters if space else ():
            if parameter.distribution.n_values is None:
                kind = next(iter(parameter.distribution.to_json()))
                message = f"expected a finite number of values for a grid, got the continuous {kind}"
                hint = "give a list of values or quniform: [low, high, step], or take sampler: {kind: random}"
                self.document.add(("space", parameter.name), E_SAMPLER, message, hint)

    def constraints(self) -> tuple[Constraint, ...]:
        names = [*self.sections.space, *self.sections.fixed]
        constraints = []
        for k, text in enumerate(self.sections.where):
            try:
                constraints.append(compile_constraint(text, names))
            except WhereError as error:
                self.document.add(("where", k), E_WHERE, error.message, error.hint)
        return tuple(constraints)

    def size(self, space: Space | None, sampler: Sampler, allow_large: bool) -> None:
        """Computed, not enumerated: a product of 10^9 is refused at once."""
        if space is None or allow_large:
            return
        n_seeds = len(self.sections.seeds)
        n_configs = space.grid_size() if sampler.kind == "grid" else sampler.trials or 0
        if n_configs * n_seeds <= MAX_TRIALS or self._fits_by_conditions(space, sampler, n_seeds):
            return
        path = ("space",) if sampler.kind == "grid" else ("sampler", "trials")
        product = f"{n_configs} configs x {n_seeds} seeds = {n_configs * n_seeds} trials"
        if sampler.kind == "grid" and len(space.dimensions) > 1:
            sizes = " x ".join(str(p.distribution.n_values or 1) for p in space.dimensions[:12])
            product = f"{sizes}{' x ...' if len(space.dimensions) > 12 else ''} = {product}"
        hint = "take fewer values, or sampler: {kind: random}; --allow-large lifts the limit"
        self.document.add(path, E_SAMPLER, f"expected at most {MAX_TRIALS} trials, got {product}", hint)

    @staticmethod
    def _fits_by_conditions(space: Space, sampler: Sampler, n_seeds: int) -> bool:
        """Whether a grid is small enough because of its conditions: counted up to the limit, no further."""
        if sampler.kind != "grid" or not space.has_conditions:
            return False
        most = MAX_TRIALS // n_seeds
        return sum(1 for _ in islice(space.grid(), most + 1)) <= most

    def _add(self, key: str, code: str, message: str, hint: str) -> None:
        self.document.add((key,), code, message, hint, of_key=True)


__all__ = ["MAX_TRIALS", "Spec", "load_spec"]
