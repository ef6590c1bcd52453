"""The metrics of many trials, put together in few big pieces.

A hundred thousand small arrays are overhead for the most part; and memory that a process has not had before takes
longer to get than to fill, so that it is not one piece either.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from dlcluster.results.series import Series, stack

PIECE_ROWS = 1 << 15
OBJECT_ROWS = 32  # a series takes as much memory as so many rows


class Pile:
    """The rows of many trials below one another, in few pieces."""

    def __init__(self, pieces: Iterable[Series] = ()) -> None:
        self._pieces, self._starts, self._end = list[Series](), list[int](), 0
        self._loose, self._size = list[Series](), 0
        for piece in pieces:
            self._append(piece)

    def _append(self, piece: Series) -> None:
        self._pieces.append(piece)
        self._starts.append(self._end)
        self._end += len(piece)

    def add(self, series: Series) -> None:
        self._loose.append(series)
        self._size += len(series) + OBJECT_ROWS
        if self._size >= PIECE_ROWS:
            self._put_together()

    def _put_together(self) -> None:
        self._append(stack(self._loose))
        self._loose, self._size = [], 0

    def take(self, first: int, end: int) -> Iterator[Series]:
        """The rows from `first` to `end`, in as few parts as there are pieces."""
        if self._loose:
            self._put_together()
        k = bisect_right(self._starts, first) - 1
        while first < end:
            start = self._starts[k]
            yield self._pieces[k].take(slice(first - start, end - start))
            first, k = start + len(self._pieces[k]), k + 1
