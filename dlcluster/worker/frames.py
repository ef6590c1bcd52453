"""Messages over a stream of lines that several nodes write to at once: the output of srun.

slurmstepd passes lines on in pieces of about a kilobyte, and those of different tasks may come mixed. So a message is
cut into lines that are shorter than that, each with the number of its node and whether more is to come.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

PIECE = 700  # characters, which are bytes: JSON escapes all others
LINE = re.compile(rb"(\d{1,6})([+.])(.*)", re.DOTALL)


def to_lines(node: int, message: Any) -> bytes:
    text = json.dumps(message)
    pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)]
    marks = ["+"] * (len(pieces) - 1) + ["."]
    return "".join(f"{node}{mark}{piece}\n" for mark, piece in zip(marks, pieces, strict=True)).encode()


class Assembler:
    """What has arrived, put together again; lines that are none of ours are skipped."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun: dict[int, bytes] = {}

    def feed(self, data: bytes) -> Iterator[tuple[int, Any]]:
        """The number of the node and its message, for each that is complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            match = LINE.fullmatch(line)
            if match is None:
                continue
            node, text = int(match[1]), self._begun.pop(int(match[1]), b"") + match[3]
            if match[2] == b"+":
                self._begun[node] = text
                continue
            try:
                yield node, json.loads(text)
            except ValueError:
                continue
