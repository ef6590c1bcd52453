"""What pydantic found wrong, in our words: expected ..., got ..., and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from dlcluster.errors import shown
from dlcluster.spec.document import E_KEY, E_VALUE, Document, KeyPath
from dlcluster.spec.models import Sections
from dlcluster.spec.names import did_you_mean
from dlcluster.spec.scalars import Unclear

EXAMPLES = {
    "name": "name: lr",
    "objective": "objective: {metric: val_accuracy, goal: maximize}",
    "objective.metric": "metric: val_accuracy",
    "objective.goal": "goal: maximize",
}

_EXPECTED = {
    "int_type": "an integer",
    "bool_type": "true or false",
    "string_type": "text",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def note_errors(document: Document, error: ValidationError) -> None:
    """Every error of pydantic as a problem of the document, at the place of the key it is about."""
    for row in error.errors(include_url=False):
        _note(document, row)


def got(value: Any) -> str:
    """What was found, for the end of a message."""
    if isinstance(value, dict) and not value:
        return "got an empty mapping"
    if isinstance(value, Mapping):
        return f"got a mapping with the key {shown(str(next(iter(value))))}"
    if isinstance(value, list):
        return f"got {shown(value)}" if len(str(value)) < 60 else f"got a list of {len(value)}"
    names = {None: "null", True: "true", False: "false"}
    return f"got {names[value]}" if value is None or isinstance(value, bool) else f"got {shown(value)}"


def _note(document: Document, row: Mapping[str, Any]) -> None:
    kind, value, context = row["type"], row["input"], row.get("ctx", {})
    of_key = row["loc"][-1:] == ("[key]",)
    path: KeyPath = tuple(part for part in row["loc"] if part != "[key]")
    if kind == "extra_forbidden":
        _note_unknown_key(document, path)
    elif kind == "missing":
        key = ".".join(map(str, path))
        document.add(path[:-1], E_KEY, f"the key '{path[-1]}' is missing", f"for example: {EXAMPLES[key]}")
    elif isinstance(value, Unclear) and not value.is_text:
        document.add(path, E_VALUE, f"{value.reason}, {got(value)}", value.hint)
    elif kind == "complaint":
        document.add(path, E_VALUE, f"{context['message']}, {got(value)}", context["hint"], of_key)
    elif kind == "literal_error":
        hint = did_you_mean(value, _allowed(path)) if isinstance(value, str) else ""
        document.add(path, E_VALUE, f"expected {_listing(context['expected'])}, {got(value)}", hint)
    else:
        document.add(path, E_VALUE, f"{_expected(kind, context)}, {got(value)}", _hint(kind, value), of_key)


def _note_unknown_key(document: Document, path: KeyPath) -> None:
    known = list(_fields_at(path[:-1]))
    meant = did_you_mean(str(path[-1]), known)
    message = f"unknown key {shown(str(path[-1]))}" + (f". {meant}" if meant else "")
    document.add(path, E_KEY, message, "" if meant else f"known keys: {', '.join(known)}", of_key=True)


def _fields_at(path: KeyPath) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = Sections.model_fields
    for part in path:
        fields = _section(fields[str(part)].annotation).model_fields
    return fields


def _section(annotation: Any) -> type[BaseModel]:
    """The model inside `Model` or `Model | None`."""
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))


def _allowed(path: KeyPath) -> list[str]:
    annotation = _fields_at(path[:-1])[str(path[-1])].annotation
    return [str(word) for word in getattr(annotation, "__args__", ())]


def _listing(expected: str) -> str:
    return expected.replace("'", "").replace(" or ", ", ").replace(", ", " | ")


def _expected(kind: str, context: Mapping[str, Any]) -> str:
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}"
    if kind == "greater_than_equal":
        return f"expected a number >= {context['ge']}"
    if kind == "less_than_equal":
        return f"out of range: expected a number <= {context['le']}"
    if kind in ("string_too_long", "too_long"):
        return f"expected at most {context['max_length']} characters"
    return f"not accepted ({kind})"


def _hint(kind: str, value: Any) -> str:
    if value is None:
        return "null is not allowed here: give a value or remove the key"
    if isinstance(value, Unclear):
        return f"{value.reason}: {value.hint}"
    if kind in ("int_type", "float_type", "bool_type") and isinstance(value, str):
        return "remove the quotes" if _reads_as_value(value) else ""
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    return ""


def _reads_as_value(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("true", "false")
    return True
