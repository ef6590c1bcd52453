"""Which names parameters may have, and what a misspelled word may have meant."""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Iterable

from dlcluster.secret_names import SECRET_NAME

RESERVED_NAMES = (
    "attempt", "config_file", "out", "resume", "run", "seed", "self", "trial_dir", "trial_id",
)  # fmt: skip
BUILT_IN_PLACEHOLDERS = ("config_file", "seed", "trial_dir", "trial_id")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?`, or nothing when no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else ""


def is_secret(name: str) -> bool:
    """Whether the name says that its value must not be stored in plain files."""
    return bool(SECRET_NAME.search(name))


def name_problem(name: str, for_command: bool) -> tuple[str, str] | None:
    """(message, hint) of the first rule that a parameter's name breaks."""
    if name in RESERVED_NAMES:
        return "the name is reserved", f"reserved names: {', '.join(RESERVED_NAMES)}"
    if not _NAME.fullmatch(name):
        return f"expected a name of [A-Za-z_][A-Za-z0-9_.-]*, at most 64 characters, got {_why_not(name)}", ""
    if keyword.iskeyword(name) or (name.startswith("__") and name.endswith("__")):
        return f"'{name}' is a word of Python, no parameter can have this name", f"call it {name.strip('_')}_"
    if is_secret(name):
        return (
            "a parameter whose name says that it is a secret would be stored in plain files",
            "read it from a file or from the environment inside the job",
        )
    if not for_command and re.search(r"[.-]", name):
        return "names with '.' or '-' are for command: jobs only", f"call it {re.sub(r'[.-]', '_', name)}"
    return None


def _why_not(name: str) -> str:
    if not name:
        return "an empty name"
    if len(name) > 64:
        return f"{len(name)} characters"
    for position, character in enumerate(name):
        if not re.match(r"[A-Za-z0-9_.-]", character):
            shown = f" '{character}'" if character.isprintable() and character.isascii() else ""
            return f"the character U+{ord(character):04X}{shown} at position {position + 1}"
    return f"the first character '{name[0]}'"
