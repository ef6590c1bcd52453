"""Everything that can go wrong, and the number the process leaves with.

    DlclusterError
    |- SpecError            2   the sweep file, or the command line, is wrong
    |- UsageError           2   a name or an option that does not exist
    |- PreconditionError    3   no permission, no space, no such program
    |- SubmissionError      4   nothing was started
    |- DamagedError         6   damaged data was found; what is readable was shown

Exit codes of the worker are in `WorkerExit`: all below 126, so that none can be mistaken for a shell's or a signal's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

MAX_PROBLEMS_SHOWN = 20


class DlclusterError(Exception):
    """An expected error: printed as a message, never as a traceback."""

    exit_code = 70

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message + (f"\n  hint: {hint}" if hint else ""))


class UsageError(DlclusterError):
    exit_code = 2


class PreconditionError(DlclusterError):
    exit_code = 3


class SubmissionError(DlclusterError):
    exit_code = 4


class DamagedError(DlclusterError):
    exit_code = 6


def shown(value: object, limit: int = 80) -> str:
    """The value as it may be printed: one line, control characters escaped, at most `limit` characters."""
    text = repr(value) if not isinstance(value, str) else ascii(value) if not value.isprintable() else repr(value)
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a spec: where it is (1-based line and column), what was found, what to do about it."""

    file: str
    line: int
    column: int
    code: str
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        subject = f"{self.path}: " if self.path else ""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{place}: error[{self.code}] {subject}{self.message}{hint}"


class SpecError(DlclusterError):
    """All problems of a spec at once; the first `MAX_PROBLEMS_SHOWN` are printed."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        lines = [str(problem) for problem in self.problems[:MAX_PROBLEMS_SHOWN]]
        if len(self.problems) > MAX_PROBLEMS_SHOWN:
            lines.append(f"... and {len(self.problems) - MAX_PROBLEMS_SHOWN} more")
        super().__init__("\n".join(lines))


class WorkerExit(IntEnum):
    """How a worker, or the child of a worker, ends."""

    DONE = 0
    USER_EXCEPTION = 1
    IO_LOST = 74
    INTERRUPTED = 75
    FENCED = 76
    BAD_ENVIRONMENT = 78
    DIVERGED = 79
    HUNG = 80
    DISK = 81
