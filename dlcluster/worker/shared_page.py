"""The memory that a supervisor shares with its trial: requests in one direction, signs of progress in the other."""

from __future__ import annotations

import mmap

STOP, KILL, LOGGED, PROGRESS = range(4)  # words of eight bytes: each is read and written at once


class SharedPage:
    """A page shared with all processes that are forked from its maker; looking at it costs no system call."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def clear(self) -> None:
        """For a new trial."""
        for word in (STOP, KILL, LOGGED, PROGRESS):
            self._words[word] = 0

    # -- to the trial ------------------------------------------------------------------------------------------

    def set(self) -> None:
        """Ask the trial to stop."""
        self._words[STOP] = 1

    def is_set(self) -> bool:
        return self._words[STOP] != 0

    def announce_kill(self) -> None:
        """From now on a SIGTERM comes from the supervisor and is meant as an end, not as a request."""
        self._words[KILL] = 1

    def is_kill_announced(self) -> bool:
        return self._words[KILL] != 0

    # -- from the trial: only its own process writes these -----------------------------------------------------

    def count(self) -> None:
        """The trial has done something."""
        self._words[PROGRESS] += 1

    def count_step(self) -> None:
        """The trial has logged: what it did before was setting up."""
        self._words[LOGGED] = 1
        self._words[PROGRESS] += 1

    @property
    def has_logged(self) -> bool:
        return self._words[LOGGED] != 0

    @property
    def progress(self) -> int:
        return self._words[PROGRESS]

    def copy_signs(self, *, has_logged: bool, progress: int) -> None:
        """What another page says, of which the trial has none of this one's memory."""
        self._words[LOGGED], self._words[PROGRESS] = int(has_logged), progress
