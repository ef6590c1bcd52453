"""Plain values with the place of every node: what the loader hands to the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dlcluster.errors import Problem, SpecError

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 32
MAX_NODES = 20_000  # PyYAML reads some 40,000 a second: what is refused is refused within 1 s

# Codes of problems. E200 the file cannot be read; E201 it is no YAML or JSON that is accepted here
E_FILE, E_SYNTAX = "E200", "E201"
# E202 a key is unknown, missing, there twice or excluded; E203 a value has the wrong type or range
E_KEY, E_VALUE = "E202", "E203"
# E204 the name of a parameter; E205 where:; E206 sampler, grid and size; E207 parameters of the job; E208 --set
E_NAME, E_WHERE, E_SAMPLER, E_JOB, E_SET = "E204", "E205", "E206", "E207", "E208"


class Place(NamedTuple):
    """Where something was written: file (or `--set ...` with line 0), 1-based line and column."""

    file: str
    line: int = 0
    column: int = 0


def path_text(path: KeyPath) -> str:
    """`("space", "lr", 0)` as `space.lr[0]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_printable(part)}" for part in path]
    return "".join(parts).lstrip(".")


def _printable(part: str) -> str:
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in part)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass
class Document:
    """The values of one file; `places` and `key_places` know every key path, `text` is the file as it was read."""

    path: Path
    text: str
    data: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    key_places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def file(self) -> str:
        return str(self.path)

    def place(self, path: KeyPath, of_key: bool = False) -> Place:
        """The place of a node, or of the nearest node around it that exists."""
        if of_key and path in self.key_places:
            return self.key_places[path]
        while path not in self.places and path:
            path = path[:-1]
        return self.places.get(path, Place(self.file, 1, 1))

    def problem(self, path: KeyPath, code: str, message: str, hint: str = "", of_key: bool = False) -> Problem:
        place = self.place(path, of_key)
        return Problem(place.file, place.line, place.column, code, path_text(path), message, hint)

    def add(self, path: KeyPath, code: str, message: str, hint: str = "", of_key: bool = False) -> None:
        """Note a problem; `stop_if_wrong` raises all of them."""
        self.problems.append(self.problem(path, code, message, hint, of_key))

    def warn(self, path: KeyPath, message: str) -> None:
        place = self.place(path)
        at = f"{place.file}:{place.line}:{place.column}" if place.line else place.file
        self.warnings.append(f"{at}: warning: {path_text(path)}: {message}")

    def stop_if_wrong(self) -> None:
        if self.problems:
            raise SpecError(sorted(self.problems, key=lambda problem: (problem.line, problem.column)))


@dataclass
class _Open:
    """A list or mapping whose end has not been read yet."""

    path: KeyPath
    value: list[Any] | dict[str, Any]
    key: str | None = None


class TreeBuilder:
    """Builds values and places from a flat stream of nodes, so that no depth of nesting can exhaust the stack."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.n_nodes = 0
        self._open: list[_Open] = []

    def start(self, value: list[Any] | dict[str, Any], place: Place) -> None:
        path = self._attach(value, place)
        self._open.append(_Open(path, value))
        if len(self._open) > MAX_DEPTH:
            raise SpecError([_refused(place, f"nested more than {MAX_DEPTH} levels deep")])

    def end(self) -> None:
        self._open.pop()

    @property
    def expects_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._open[-1].key is None

    def key(self, name: str, place: Place) -> None:
        self._count(place)
        parent = self._open[-1]
        path = (*parent.path, name)
        if path in self.document.key_places:
            first = self.document.key_places[path]
            message = f"the key is there twice, in line {first.line} and in line {place.line}"
            self.document.problems.append(
                Problem(place.file, place.line, place.column, E_KEY, path_text(path), message, "remove one of them")
            )
        else:
            self.document.key_places[path] = place
        parent.key = name

    def scalar(self, value: Any, place: Place) -> None:
        self._attach(value, place)

    def _count(self, place: Place) -> None:
        self.n_nodes += 1
        if self.n_nodes > MAX_NODES:
            raise SpecError([_refused(place, f"more than {MAX_NODES} values")])

    def _attach(self, value: Any, place: Place) -> KeyPath:
        self._count(place)
        if not self._open:
            self.document.data, path = value, ()
        else:
            parent = self._open[-1]
            if isinstance(parent.value, list):
                path = (*parent.path, len(parent.value))
                parent.value.append(value)
            else:
                assert parent.key is not None  # noqa: S101 - the parsers send a key before every value
                path = (*parent.path, parent.key)
                parent.value[parent.key] = value
                parent.key = None
        self.document.places[path] = place
        return path


def _refused(place: Place, message: str) -> Problem:
    return Problem(place.file, place.line, place.column, E_SYNTAX, "", message)


def plain(value: Any) -> Any:
    """A copy without subclasses of str: what may go into JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
