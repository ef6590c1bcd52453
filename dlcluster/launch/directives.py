"""What may stand in a `#SBATCH` line, and how sbatch reads it: whitelists and a port of its grammar.

sbatch's grammar is no shell's: a backslash escapes even inside single quotes, an unquoted `#` ends the line in the
middle of a word, and a line break turns the rest of a value into shell code (reliability.md 4.1). So nothing is quoted
here: what would need quotes is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dlcluster.errors import shown

MAX_VALUE_LENGTH = 4000  # sbatch keeps a word in a buffer of 8192 bytes

# Without `%`, which Slurm replaces in file names: it is only in our own patterns. Letters and digits are ASCII ones.
_SAFE = r"A-Za-z0-9_.,:=@+/\[\]\-"
_NAME = r"[A-Za-z0-9_.,:=@+-]+"
_PATH = r"/[A-Za-z0-9_.,:=@+/\[\]-]*"
_NUMBER = r"[1-9][0-9]{0,8}"
_TEXT = rf"[{_SAFE}]+"
# `a&b|[c*2]` and `(a|b)&c` reach Slurm whole: a `#SBATCH` line is a comment for the shell.
_FEATURES = rf"[{_SAFE}&|()*]+"

FIELDS: dict[str, tuple[str, str]] = {  # option: what it may be, what that is called
    "job-name": (r"[A-Za-z0-9_.-]+", "letters, digits, '_', '.' and '-'"),
    "comment": (r"[A-Za-z0-9_.:=@+/-]+", "letters, digits and any of _.:=@+/-"),
    "chdir": (_PATH, "an absolute path of letters, digits and any of _.,:=@+[]-"),
    "output": (rf"{_PATH}/(%A_%a|%j)\.log", "an absolute path of letters, digits and any of _.,:=@+[]-"),
    "open-mode": (r"append|truncate", "append or truncate"),
    "nodes": (_NUMBER, "a whole number >= 1"),
    "ntasks": (_NUMBER, "a whole number >= 1"),
    "ntasks-per-node": (_NUMBER, "a whole number >= 1"),
    "cpus-per-task": (_NUMBER, "a whole number >= 1"),
    "mem": (r"[0-9]{1,9}[KMGT]?", "an amount of memory such as 16G"),
    "gpus-per-node": (rf"([A-Za-z0-9][A-Za-z0-9_.-]*:)?{_NUMBER}", "a number >= 1, or a type and a number"),
    "time": (r"([0-9]+-)?[0-9]{2}:[0-9]{2}:[0-9]{2}", "HH:MM:SS or D-HH:MM:SS"),
    "signal": (r"(B:)?[A-Z0-9]+@[0-9]{1,5}", "a signal and a time, such as B:USR1@120"),
    "array": (r"[0-9]+(-[0-9]+)?(%[1-9][0-9]*)?", "indices such as 0-9%4"),
    "partition": (_NAME, "a name without spaces, quotes and #"),
    "account": (_NAME, "a name without spaces, quotes and #"),
    "qos": (_NAME, "a name without spaces, quotes and #"),
    "constraint": (_FEATURES, "features such as a100, a100&nvme or [rack1|rack2]"),
    "prefer": (_FEATURES, "features such as a100&nvme"),
}
OTHER = (_TEXT, "letters, digits and any of _.,:=@+/[]-")
FLAGS = frozenset({"requeue"})  # the only one of our own that takes no value

_RUNS = "move the runs directory to a path without such characters (--runs-dir DIR)"
KEYS: dict[str, tuple[str, str]] = {  # option: the key of launch: it comes from, a hint
    "chdir": ("runs-dir", _RUNS),
    "output": ("runs-dir", _RUNS),
    "cpus-per-task": ("cpus", ""),
    "gpus-per-node": ("gpus", "gpus: 2, or gpus: a100:2"),
    "ntasks-per-node": ("processes_per_node", ""),
    "array": ("parallel", ""),
    "signal": ("margin", ""),
    "mem": ("mem", "write 16G or 500M, without a blank and a point"),
}

_OURS = "dlcluster sets it itself, to find its jobs again"
_START = "dlcluster decides when its jobs start"
_LOGIN = "variables are passed with pass_env:, a login shell in the job can take two minutes"
_NOTHING = "with it sbatch submits nothing"
OWNED: dict[str, str] = {  # options that extra_args may not have, with what to do instead
    **dict.fromkeys(("job-name", "comment", "parsable"), _OURS),
    **dict.fromkeys(("chdir", "output", "error", "open-mode"), "the logs are in submissions/ of the run directory"),
    **dict.fromkeys(("array", "wait"), "use parallel: and trials_per_job:"),
    **dict.fromkeys(("nodes", "use-min-nodes"), "use nodes:"),
    **dict.fromkeys(("ntasks", "ntasks-per-node", "tasks-per-node", "ntasks-per-core"), "use processes_per_node:"),
    **dict.fromkeys(("ntasks-per-gpu", "ntasks-per-socket"), "use processes_per_node:"),
    **dict.fromkeys(("cpus-per-task", "cpus-per-gpu"), "use cpus:"),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"), "use gpus:, such as gpus: a100:2"),
    **dict.fromkeys(("time", "time-min"), "use time:; workers plan with it"),
    "signal": "use margin:",
    **dict.fromkeys(("requeue", "no-requeue"), "jobs are always requeued, and go on; use max_attempts:"),
    **{name: f"use {name}:" for name in ("partition", "account", "qos", "constraint", "mem")},
    **dict.fromkeys(("export", "export-file", "get-user-env"), _LOGIN),
    **dict.fromkeys(("dependency", "kill-on-invalid-dep", "hold"), _START),
    **dict.fromkeys(("test-only", "help", "usage", "version", "autocomplete"), _NOTHING),
    **dict.fromkeys(("clusters", "cluster", "cluster-constraint"), "submit on a login node of that cluster"),
    **dict.fromkeys(("wrap", "uid", "gid", "jobid", "quiet"), "leave it out"),
}
# Fine as long as the key of launch: that they contradict is not there.
INSTEAD_OF = {"gres": "gpus", "tres-per-task": "gpus", "mem-per-cpu": "mem", "mem-per-gpu": "mem"}


class OptionRefused(ValueError):
    """A value that cannot stand in a batch script: the key of `launch:`, what is wrong, what to do about it."""

    def __init__(self, key: str, message: str, hint: str = "") -> None:
        self.key, self.message, self.hint = key, message, hint
        super().__init__(f"{key}: {message}" + (f"\n  hint: {hint}" if hint else ""))


def check_option(name: str, value: str | None) -> None:
    """Raises OptionRefused unless this option is one that sbatch will read as it is meant."""
    key, hint = KEYS.get(name, (name, ""))
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", name):
        raise OptionRefused(key, f"expected the long name of an option of sbatch, got {shown(name)}")
    if value is None:
        if name in FIELDS:  # getopt would take the next option for its value
            raise OptionRefused(key, "expected a value", hint)
        return
    pattern, expected = FIELDS.get(name, OTHER)
    if name in FLAGS:
        raise OptionRefused(key, f"expected no value, got {shown(value)}")
    if not re.fullmatch(pattern, value):
        raise OptionRefused(key, f"expected {expected}, got {shown(value)}{_culprit(value)}", hint)
    if len(value) > MAX_VALUE_LENGTH:
        raise OptionRefused(key, f"expected at most {MAX_VALUE_LENGTH} characters, got {len(value)}", hint)


def _culprit(value: str) -> str:
    """The first character that no field takes, by name: it may be one that nobody sees."""
    for character in value:
        if not re.fullmatch(rf"[{_SAFE}&|()*%]", character):
            return f" (character U+{ord(character):04X})"
    return ""


def read_extra_args(words: Iterable[str], launch: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """The options of `extra_args`. Raises OptionRefused for those that dlcluster sets itself, also if abbreviated."""
    options = []
    for word in words:
        match = re.fullmatch(r"--([a-z][a-z0-9_-]*)(?:=(.*))?", word, re.DOTALL)
        if match is None:
            raise OptionRefused("extra_args", f"expected --option or --option=value, got {shown(word)}")
        name, value = match.groups()
        _check_not_owned(name, launch)
        try:
            check_option(name, value)
        except OptionRefused as refused:
            raise OptionRefused("extra_args", f"--{name}: {refused.message}", refused.hint) from None
        options.append((name, value))
    return options


def _check_not_owned(name: str, launch: Mapping[str, Any]) -> None:
    owned = next((owned for owned in OWNED if owned.startswith(name)), None)  # getopt takes abbreviations, too
    if owned is not None:
        meant = "" if owned == name else f": it is short for --{owned}"
        raise OptionRefused("extra_args", f"--{name} cannot be given here{meant}", OWNED.get(name, OWNED[owned]))
    key = INSTEAD_OF.get(name, "")
    if launch.get(key) is not None:
        raise OptionRefused("extra_args", f"--{name} cannot be given beside {key}:", f"leave one of them out: {key}:")


def parse_directives(text: str) -> list[str]:
    """The words that sbatch finds in the `#SBATCH` lines of a script, in order.

    A port of `_opt_batch_script` and `get_argument` of Slurm 22.05 (src/sbatch/opt.c:459-620), compared with the real
    sbatch. Raises ValueError where that one ends with an error, and for heterogeneous jobs.
    """
    if "\r\n" in text:
        raise ValueError("line ends of DOS, which sbatch refuses anywhere in a script")
    words: list[str] = []
    for line in text.split("\n"):
        line = line.partition("\0")[0]  # noqa: PLW2901  (a string of C ends there)
        for magic in ("#SBATCH", "#SLURM"):
            if line.startswith(magic):
                words += _words_of(line[len(magic) :])
                break
        else:
            if _lstrip(line)[:1] not in ("", "#"):
                break
    return words


def _words_of(rest: str) -> list[str]:
    words = []
    while True:
        rest = _lstrip(rest)
        if re.match(r"(hetjob|packjob)(\s|$)", rest, re.IGNORECASE) or rest.startswith(":"):
            raise ValueError(f"a heterogeneous job: {shown(rest)}")
        word, rest = _next_word(rest)
        if not word:  # also for `""`: nothing after it is read
            return words
        words.append(word)


def _next_word(text: str) -> tuple[str, str]:
    """`get_argument`: the next word, unquoted, and what is left of the line."""
    word, quote, escaped, at = "", "", False, 0
    while at < len(text) and (quote or not _is_space(text[at])):
        character = text[at]
        if escaped:
            escaped, word = False, word + character
        elif character == "\\":  # inside quotes of either kind, too
            escaped = True
        elif quote and character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        elif not quote and character == "#":
            break
        else:
            word += character
        at += 1
    if quote:
        raise ValueError(f"an unmatched {quote} in {shown(text)}")
    return word, text[at:]


def _is_space(character: str) -> bool:
    return character in " \t\n\v\f\r"  # isspace() of C


def _lstrip(text: str) -> str:
    return text.lstrip(" \t\n\v\f\r")
