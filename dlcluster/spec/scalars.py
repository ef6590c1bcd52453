"""What a plain (unquoted) scalar means: the YAML 1.2 core schema, and all that other readers would take otherwise.

`Unclear` is text whose meaning depends on who reads it (`yes`, `017`, `15:00`, `2024-01-01`). It is text where text is
expected, and an error that asks for quotes anywhere else.
"""

from __future__ import annotations

import math
import re
from typing import Any

INT_LIMIT = 2**63
DURATION_EXAMPLE = "90s, 15m, 4h, 2d, 1:30:00 or 1-12:00:00"

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_QUOTES = "put it in quotes if it is text"

# (pattern, what is unclear, what to write instead)
_UNCLEAR = [
    (
        re.compile(r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"),
        "some readers take it for true or false",
        f"write true or false, or {_QUOTES}",
    ),
    (re.compile(r"[-+]?0[0-9_]+"), "it is octal to some readers", f"drop the leading zero, or {_QUOTES}"),
    (
        re.compile(r"[-+]?0[xob][0-9a-fA-F_]+"),
        "not every reader takes it for a number",
        f"write it in decimal, or {_QUOTES}",
    ),
    (
        re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?"),
        "underscores are dropped by some readers only",
        f"write the number without underscores, or {_QUOTES}",
    ),
    (
        re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"),
        "it is a number in base 60 to some readers",
        f"{_QUOTES}, or write a duration as {DURATION_EXAMPLE}",
    ),
    (
        re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ][0-9:.Zz+ -]*)?"),
        "it is a date to some readers",
        f"{_QUOTES}",
    ),
    (
        re.compile(r"[-+]?\.?(nan|NaN|NAN|inf|Inf|INF|infinity|Infinity)"),
        "a finite number is expected",
        f"{_QUOTES}",
    ),
]


class Unclear(str):
    """A plain scalar that cannot be taken at its word; `is_text` is False where even as text it makes no sense."""

    __slots__ = ("hint", "is_text", "reason")

    def __new__(cls, text: str, reason: str, hint: str, is_text: bool = True) -> Unclear:
        self = super().__new__(cls, text)
        self.reason, self.hint, self.is_text = reason, hint, is_text
        return self


def resolve_plain(text: str) -> Any:
    """The value of a plain scalar: None, bool, int, float, str, or `Unclear`."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        return value if math.isfinite(value) else _out_of_range(text)
    for pattern, reason, hint in _UNCLEAR:
        if pattern.fullmatch(text):
            return Unclear(text, reason, hint)
    return text


def _integer(text: str) -> Any:
    # the length first: Python refuses to convert more than 4300 digits
    if len(text) > 20 or not -INT_LIMIT <= int(text) < INT_LIMIT:
        return _out_of_range(text)
    return int(text)


def _out_of_range(text: str) -> Unclear:
    return Unclear(text, "the number is out of range", "numbers have 64 bits here", is_text=False)


_DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHORT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smhd])")
_CLOCK = re.compile(r"(?:([0-9]{1,5})-)?([0-9]{1,6}):([0-5][0-9]):([0-5][0-9])")
_HALF_CLOCK = re.compile(r"([0-9]{1,6}):([0-9]{1,2})")


def parse_duration(value: Any) -> float:
    """Seconds; ValueError((message, hint)) for anything that two people could read differently."""
    if not isinstance(value, str):
        raise ValueError(f"expected a duration such as {DURATION_EXAMPLE}", _bare_number_hint(value))
    if match := _SHORT.fullmatch(value):
        return float(match[1]) * _DURATION_UNITS[match[2]]
    if match := _CLOCK.fullmatch(value):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    if match := _HALF_CLOCK.fullmatch(value):
        first, second = int(match[1]), match[2]
        raise ValueError(
            "ambiguous duration: MM:SS or HH:MM?", f"write {first}m, 0:{first:02d}:{second:0>2} or {first}h"
        )
    raise ValueError(f"expected a duration such as {DURATION_EXAMPLE}", "")


def _bare_number_hint(value: Any) -> str:
    return f"a number needs a unit: {value}s, {value}m or {value}h" if isinstance(value, int | float) else ""
