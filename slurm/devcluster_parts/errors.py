"""What the user gets to read when something cannot be done."""

from __future__ import annotations


class DevClusterError(Exception):
    """What is wrong and where, and below it what to do next."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem + (f"\n  hint: {hint}" if hint else ""))
