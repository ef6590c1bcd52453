"""Readers of what squeue, sacct, sbatch and scontrol print: rows of cells, and nothing about what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

# For `squeue -h --me -t all -r -o`. The names and comments of our jobs have no `|`; a reason may have, so it is last.
SQUEUE_FORMAT = "%F|%K|%T|%j|%k|%r"
# For `sacct -X -n -P -D -o`: all lives of a requeued job, a row each, the newest last.
SACCT_FIELDS = "JobID,State,ExitCode,DerivedExitCode,Submit,Start,End,NodeList,JobName,Reason"
MAX_ELEMENTS = 4_000_001  # the largest MaxArraySize that slurm.conf takes


@dataclass(frozen=True)
class QueueRow:
    """A job in squeue; of an array, `job_id` is that of the array and `index` that of the element."""

    job_id: int
    index: int | None
    state: str
    reason: str
    name: str
    comment: str = ""


@dataclass(frozen=True)
class AccountRow:
    """A job in sacct. `state` is the whole cell (`CANCELLED by 1000`); times as sacct prints them, or `Unknown`."""

    job_id: int
    index: int | None
    state: str
    exit_code: str
    derived_exit_code: str
    submit: str
    start: str
    end: str
    nodes: str
    name: str
    reason: str


Row = TypeVar("Row")


class Rows(list[Row]):
    """The rows that could be read; `n_unreadable` lines could not, such as the banner of a site."""

    n_unreadable = 0


def parse_squeue(text: str) -> Rows[QueueRow]:
    """The rows of `squeue -h -r -o SQUEUE_FORMAT`."""
    rows: Rows[QueueRow] = Rows()
    for line in filter(str.strip, text.splitlines()):
        cells = line.split("|", 5)
        if len(cells) != 6 or not re.fullmatch(r"[0-9]+", cells[0]) or not re.fullmatch(r"[0-9]+|N/A", cells[1]):
            rows.n_unreadable += 1
            continue
        job_id, index, state, name, comment, reason = cells
        rows.append(QueueRow(int(job_id), _number(index), state, _value(reason), name, _value(comment)))
    return rows


def parse_sacct(text: str) -> Rows[AccountRow]:
    """The newest row of each job and element in `sacct -X -n -P -D -o SACCT_FIELDS`: the last one."""
    newest: dict[tuple[int, int | None], AccountRow] = {}
    n_unreadable = 0
    for line in filter(str.strip, text.splitlines()):
        cells = line.split("|", 9)
        keys = list(_job_keys(cells[0])) if len(cells) == 10 and cells[1].strip() else []
        n_unreadable += not keys
        for key in keys:
            newest.pop(key, None)
            newest[key] = AccountRow(*key, cells[1].strip(), *cells[2:])
    rows: Rows[AccountRow] = Rows(newest.values())
    rows.n_unreadable = n_unreadable
    return rows


def _job_keys(cell: str) -> Iterator[tuple[int, int | None]]:
    """`12`, `12_3`, or elements that have not started, in one row: `12_[3,5-9%2]`. Nothing for steps and cut lists."""
    match = re.fullmatch(r"([0-9]+)(?:_([0-9]+)|_\[([0-9,-]+)(?:%[0-9]+)?\])?", cell.strip())
    if match is None:
        return
    if match[3] is None:
        yield int(match[1]), _number(match[2])
        return
    for part in match[3].split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit() and int(last or first) < MAX_ELEMENTS:
            yield from ((int(match[1]), index) for index in range(int(first), int(last or first) + 1))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _value(text: str) -> str:
    return "" if text.strip() in ("(null)", "None") else text.strip()


def read_job_id(stdout: str) -> tuple[int, str | None]:
    """The job, and its cluster if there are several, from `sbatch --parsable`. Raises ValueError for anything else.

    The last line counts: wrappers of a site may print above it.
    """
    lines = [line.strip() for line in stdout.splitlines() if line.strip()]
    match = re.fullmatch(r"([0-9]+)(?:;([A-Za-z0-9_.-]+))?", lines[-1]) if lines else None
    if match is None or int(match[1]) == 0:
        raise ValueError(f"sbatch printed no job id: {ascii(lines[-1][:80]) if lines else 'nothing'}")
    return int(match[1]), match[2]


def parse_key_values(line: str) -> dict[str, str]:
    """A line of `scontrol -o show job`. Values may have spaces and `=` in them; of a repeated key the first counts.

    The free texts of a job (comment, command, folder) come after all that is asked for here.
    """
    keys = list(re.finditer(r"(?:^|(?<=\s))([A-Z][\w/:]*)=", line))
    ends = [*(match.start() for match in keys[1:]), len(line)]
    found: dict[str, str] = {}
    for match, end in zip(keys, ends, strict=False):  # without any key there is still the one end
        found.setdefault(match[1], line[match.end() : end].strip())
    return found
