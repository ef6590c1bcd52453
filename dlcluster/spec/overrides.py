"""`--set key.path=value`: values from the command line that replace those of the file, with `--set` as their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlcluster.errors import Problem, SpecError, shown
from dlcluster.spec.document import E_SET, Document, KeyPath, Place, path_text
from dlcluster.spec.loader import parse_value


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Replace or add values in the document, in order; what cannot be read is noted."""
    for text in overrides:
        file = f"--set {shown(text, 60)[1:-1]}"
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            problem = Problem(file, 0, 0, E_SET, "", "expected key.path=value", "for example sampler.trials=100")
            document.problems.append(problem)
            continue
        try:
            _assign(document, key, parse_value(value, file), file)
        except SpecError as error:
            # lines and columns inside the option would only confuse
            document.problems.extend(Problem(file, 0, 0, p.code, key, p.message, p.hint) for p in error.problems)


def _assign(document: Document, key: str, value: Any, file: str) -> None:
    parts = key.split(".")
    node, path = document.data, ()
    while True:
        step, parts = _next_step(node, parts)
        if step is None:
            message = f"expected a mapping or a list above this key, {path_text(path) or 'the file'} is none"
            raise SpecError([Problem(file, 0, 0, E_SET, key, message)])
        path = (*path, step)
        if not parts:
            break
        if isinstance(node, dict) and node.get(step) is None:
            node[step] = {}
            _mark(document, path, file)
        node = node[step]
    node[step] = value
    _mark(document, path, file)


def _next_step(node: Any, parts: list[str]) -> tuple[str | int | None, list[str]]:
    """The longest run of parts that is a key already (`model.lr` in `space.model.lr`), else one part."""
    if isinstance(node, dict):
        for n in range(len(parts), 0, -1):
            if ".".join(parts[:n]) in node:
                return ".".join(parts[:n]), parts[n:]
        return parts[0], parts[1:]
    if isinstance(node, list) and parts[0].isascii() and parts[0].isdigit() and int(parts[0][:9]) < len(node):
        return int(parts[0][:9]), parts[1:]
    return None, parts


def _mark(document: Document, path: KeyPath, file: str) -> None:
    """From here on, the place of this node and of all nodes in it is the option."""
    for places in (document.places, document.key_places):
        for inner in [known for known in places if known[: len(path)] == path]:
            del places[inner]
    document.places[path] = document.key_places[path] = Place(file)
