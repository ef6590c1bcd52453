"""Parameters against the job: what it does not take, and what it needs and never gets. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlcluster.errors import Problem
from dlcluster.placeholders import placeholders
from dlcluster.spec.document import E_JOB, KeyPath
from dlcluster.spec.names import BUILT_IN_PLACEHOLDERS, did_you_mean
from dlcluster.spec.schema import Spec


def check_parameters(spec: Spec, description: Mapping[str, Any] | None = None) -> list[Problem]:
    """All disagreements between the spec and its job.

    `description` is what a child process found out about a Python job: `{"parameters": {"lr": {"required": bool}},
    "takes_any": bool}`. A `command:` needs none.
    """
    if spec.command is not None:
        return list(_placeholder_problems(spec, spec.command))
    if description is None:
        return []
    takes: Mapping[str, Any] = description.get("parameters", {})
    return [*_not_taken(spec, takes, bool(description.get("takes_any"))), *_not_given(spec, takes)]


def _paths(spec: Spec) -> dict[str, KeyPath]:
    return {name: ("space", name) for name in spec.space.names} | {name: ("fixed", name) for name in spec.fixed}


def _not_taken(spec: Spec, takes: Mapping[str, Any], takes_any: bool) -> Iterator[Problem]:
    if takes_any:
        return
    for name, path in _paths(spec).items():
        if name not in takes:
            listing = f"it takes: {', '.join(takes)}" if takes else "it takes no parameters"
            hint = did_you_mean(name, takes) or listing
            yield spec.problem(path, E_JOB, f"the job {spec.job} does not take '{name}'", hint, of_key=True)


def _not_given(spec: Spec, takes: Mapping[str, Any]) -> Iterator[Problem]:
    """A parameter with a condition is missing in some configs, which is as wrong as missing in all of them."""
    conditional = {parameter.name for parameter in spec.space.parameters if parameter.when}
    given = _paths(spec)
    for name, facts in takes.items():
        if not facts.get("required") or (name in given and name not in conditional):
            continue
        if name in conditional:
            message = f"the job {spec.job} always needs '{name}', which is absent when its condition is false"
            yield spec.problem(("space", name, "when"), E_JOB, message, "give it a default in the job")
        else:
            message = f"the job {spec.job} needs the parameter '{name}'"
            yield spec.problem(
                ("space",), E_JOB, message, f"add it to space: or fixed:, for example fixed: {{{name}: 1}}"
            )


def _placeholder_problems(spec: Spec, command: tuple[str, ...]) -> Iterator[Problem]:
    paths = _paths(spec)
    conditional = {parameter.name for parameter in spec.space.parameters if parameter.when}
    known = [*paths, *BUILT_IN_PLACEHOLDERS]
    for k, word in enumerate(command):
        for name, text in placeholders(word):
            if name is None:
                hint = f"write {text}{text} for a brace that stands for itself"
                yield spec.problem(("command", k), E_JOB, f"expected {{name}}, got a lone '{text}'", hint)
            elif name not in known:
                hint = did_you_mean(name, known) or f"known: {', '.join(known)}; {{{{ and }}}} are braces"
                yield spec.problem(("command", k), E_JOB, f"unknown placeholder '{text[:80]}'", hint)
            elif name in conditional:
                message = f"the placeholder '{text}' is empty when the condition of '{name}' is false"
                hint = "read it from {config_file} or from the environment, which lack absent parameters"
                yield spec.problem(("command", k), E_JOB, message, hint)
