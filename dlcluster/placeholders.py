"""`{name}` in the words of a command: one grammar for those who check a spec and those who start the program."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# {{ and }} are braces; a lone brace is an error, so that a misspelled placeholder never reaches a program
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def placeholders(word: str) -> Iterator[tuple[str | None, str]]:
    """(name, text) of every placeholder of a word; the name is None for a brace that belongs to none."""
    for match in _BRACES.finditer(word):
        if match[1] is not None:
            yield match[1], match[0]
        elif len(match[0]) == 1:
            yield None, match[0]


def argument_text(value: Any) -> str:
    """A parameter as a program gets it: text as it is, everything else as JSON has it (0.001, true, [1, 2])."""
    return value if isinstance(value, str) else json.dumps(value)


def fill_placeholders(words: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The words with their placeholders replaced; a value never becomes two words. KeyError for an unknown name."""
    doubled = {"{{": "{", "}}": "}"}

    def replace(match: re.Match[str]) -> str:
        return argument_text(values[match[1]]) if match[1] is not None else doubled.get(match[0], match[0])

    return [_BRACES.sub(replace, word) for word in words]
