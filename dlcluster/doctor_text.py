"""What `dlcluster doctor` found, in words: for people, and for machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlcluster.launch.findings import Finding, Level, worst

if TYPE_CHECKING:
    from dlcluster.launch.doctor import Examination

WIDTH = 9


def doctor_text(findings: Sequence[Finding]) -> str:
    """A line a finding, grouped by topic, with what to do below it; the last line counts."""
    lines = []
    for topic in dict.fromkeys(finding.topic for finding in findings):
        lines.append(f"{topic}:")
        for finding in findings:
            if finding.topic == topic:
                lines += finding_lines(finding)
    return "\n".join([*lines, summary(findings)])


def finding_lines(finding: Finding) -> list[str]:
    lines = [f"  {finding.level.value:<{WIDTH}}{finding.found}"]
    return [*lines, f"  {'':<{WIDTH}}-> {finding.advice}"] if finding.advice else lines


def summary(findings: Sequence[Finding]) -> str:
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    parts = [
        f"{n} {level.value}{'s' if n > 1 else ''}"
        for level, n in reversed(counts.items())
        if n and level not in (Level.OK, Level.NOTE)
    ]
    if not parts:
        return "no problems"
    return ", ".join(parts) + (": sweeps cannot run like this" if counts[Level.PROBLEM] else ": sweeps can run")


def doctor_json(examination: Examination) -> dict[str, Any]:
    """The findings, and the facts behind those about the cluster."""
    site = examination.site
    return {
        "worst": worst(examination.findings).value,
        "findings": [{**dataclasses.asdict(finding), "level": finding.level.value} for finding in examination.findings],
        "site": None if site is None else {**_plain(dataclasses.asdict(site)), "chunk_size": site.chunk_size},
        "partitions": [_plain(dataclasses.asdict(partition)) for partition in examination.partitions],
        "accounts": None if examination.accounts is None else list(examination.accounts),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return sorted(value) if isinstance(value, frozenset) else value
