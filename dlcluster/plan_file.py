"""`plan.jsonl`: a header, then a row a trial. Written by `sweep` as a whole, read by everybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcluster.errors import DamagedError, UsageError
from dlcluster.file_reading import read_bytes
from dlcluster.files import Damage, each_json_line
from dlcluster.trial import ID_PATTERN, Trial, trials_from_json

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """`header` has `format`, `name`, `fingerprint`, `spec` (resolved, as JSON), `project_root`, `version`."""

    header: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.header["spec"]

    def by_id(self, trial_id: str) -> Trial:
        """The trial with this id. Never used as a path before it has been found here. Raises UsageError."""
        found = [t for t in self.trials if t.id == trial_id] if ID_PATTERN.fullmatch(trial_id) else []
        if not found:
            raise UsageError(f"no such trial id: {trial_id!r}", "`dlcluster status RUN` lists the trials")
        return found[0]


def read_plan_file(file: Path) -> Plan:
    """Raises DamagedError if anything of it is unreadable, UsageError if a newer dlcluster has written it."""
    damage = Damage(file)
    rows = each_json_line(read_bytes(file), damage)
    header = next(rows, {})
    if header.get("kind") != "sweep":
        raise _damaged(file, "its first line is not readable")
    _refuse_newer(file, header)
    try:
        trials = trials_from_json(rows)
    except KeyError as key:
        raise _damaged(file, f"a trial without {key}") from None
    except (TypeError, AttributeError):
        raise _damaged(file, "a line that is no trial") from None
    n_planned = header.get("n_trials", len(trials))
    if damage.n_bad_lines or n_planned != len(trials):
        raise _damaged(file, f"{len(trials)} of {n_planned} trials are readable")
    return Plan(header, trials)


def _damaged(file: Path, problem: str) -> DamagedError:
    return DamagedError(
        f"{file}: damaged: {problem}",
        "move it away and run `dlcluster sweep` with its spec again: finished trials are found, none runs twice",
    )


def _refuse_newer(file: Path, header: Mapping[str, Any]) -> None:
    if not isinstance(header.get("format"), int):
        raise _damaged(file, "no format in its first line")
    if header["format"] > FORMAT:
        raise UsageError(
            f"{file.parent}: written by a newer dlcluster (format {header['format']}, this one reads {FORMAT}; "
            f"name {header.get('name')!r}, {header.get('n_trials', 'unknown')} trials)"
        )
