"""The worker's own clock: how much of its time is left. While the whole job is suspended it stands still."""

from __future__ import annotations

import time

SHORTEST_SUSPENSION_S = 10.0  # below that a gap between two looks may as well be a slow disk
TIME_FOR_THE_RECORD = 0.1  # of the margin: left when a trial that has not stopped is killed


class WorkTime:
    """`limit` are the seconds that the worker has (None: no end), `margin` those before it at which trials are asked.

    All moments are those of `now`, which no jump of a wall clock moves.
    """

    def __init__(self, limit: float | None, margin: float, elapsed: float = 0.0) -> None:
        self.limit, self.margin = limit, margin
        self._suspended = 0.0
        self._last_look = time.monotonic()
        self.started = self._last_look - elapsed

    def now(self) -> float:
        return time.monotonic() - self._suspended

    def look(self, was_continued: bool) -> None:
        """Called at every look around. A gap that ended with a SIGCONT was a suspension (`scontrol suspend`, SIGSTOP).

        Slurm moves the end of a job that it has suspended; a gap without the signal is lost.
        """
        look = time.monotonic()
        gap, self._last_look = look - self._last_look, look
        if was_continued and gap > SHORTEST_SUSPENSION_S:
            self._suspended += gap

    def end_within(self, seconds: float) -> None:
        """Somebody says that it ends sooner; never later."""
        limit = max(0.0, self.now() + seconds - self.started)
        self.limit = limit if self.limit is None else min(self.limit, limit)

    @property
    def deadline(self) -> float | None:
        """When trials are asked to stop, so that they have ended before the worker's time has."""
        return None if self.limit is None else self.started + self.limit - self.margin

    @property
    def end(self) -> float | None:
        return None if self.limit is None else self.started + self.limit

    def deadline_is_reached(self) -> bool:
        return self.deadline is not None and self.now() >= self.deadline

    def seconds_to_deadline(self) -> float | None:
        return None if self.deadline is None else self.deadline - self.now()

    def seconds_to_kill(self) -> float | None:
        """Until a trial must have ended, so that its record can still be written."""
        return None if self.end is None else self.end - TIME_FOR_THE_RECORD * self.margin - self.now()

    def is_late(self, moment: float) -> bool:
        """Whether a trial that began then has had less than half of the worker's time."""
        return self.limit is not None and moment - self.started > (self.limit - self.margin) / 2
