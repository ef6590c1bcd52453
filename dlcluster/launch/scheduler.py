"""What the scheduler says about our jobs: one squeue for everything, shared by all our processes of a user on a host.

Sites ask not to call squeue and sacct in loops, so answers are kept in the user's cache folder: squeue for 15 s, sacct
for a minute, and a scheduler that does not answer is asked again after a pause that doubles. No answer never means
that a job has ended: it means that nothing is known.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcluster.errors import PreconditionError
from dlcluster.files import make_dir, read_json, write_json
from dlcluster.launch.site import TIMEOUT_S, ask_slurm, cache_folder
from dlcluster.launch.slurm_output import (
    SACCT_FIELDS,
    SQUEUE_FORMAT,
    AccountRow,
    QueueRow,
    parse_sacct,
    parse_squeue,
)
from dlcluster.liveness import identity, is_alive

QUEUE_AGE_S, ACCOUNT_AGE_S = 15.0, 60.0
MAX_PAUSE_S = 120.0  # between two questions to a scheduler that does not answer
LOOK_S = 0.05
DAY_S = 86_400


@dataclass(frozen=True)
class Answer:
    """What was said; `asked` and `time`: when we began to ask and when it came (seconds since 1970, of this host).

    `text` is None if there was no answer. `silent_since`: since when there has been none, `problem`: what the program
    said instead.
    """

    text: str | None
    asked: float
    time: float
    silent_since: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Queue:
    """All jobs of the user that slurmctld remembers, those included that have ended within MinJobAge."""

    rows: tuple[QueueRow, ...]
    answer: Answer

    @property
    def is_known(self) -> bool:
        return self.answer.text is not None


def read_queue(max_age_s: float = QUEUE_AGE_S) -> Queue:
    """The queue as it was at most `max_age_s` seconds ago; without an answer, what was wrong."""
    # --me and not -j: with a single id squeue says "Invalid job id specified" for one that it has forgotten
    argv = ["squeue", "-h", "--me", "-t", "all", "-r", "-o", SQUEUE_FORMAT]
    answer = _shared(f"squeue-{socket.gethostname()}", max_age_s, lambda: ask_slurm(argv))
    return Queue(tuple(parse_squeue(answer.text or "")), answer)


def forget_queue() -> None:
    """After we have changed it: the next question is asked anew, and an answer under way now counts no more."""
    with suppress(OSError):
        write_json(_cache_file(f"squeue-{socket.gethostname()}"), {"forgotten": time.time()}, durable=False)


def read_accounts(names: Sequence[str], since: float) -> tuple[AccountRow, ...] | None:
    """What accounting remembers about jobs of these names, submitted after `since`; None if it does not answer."""
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - DAY_S))
    # -D: all lives of a requeued job, -X: no steps, -P: nothing cut, -S: the default is midnight
    argv = ["sacct", "-X", "-n", "-P", "-D", "--name", ",".join(names), "-S", start, "-o", SACCT_FIELDS]
    digest = hashlib.sha256("\0".join([*names, start]).encode()).hexdigest()[:16]
    answer = _shared(f"sacct-{socket.gethostname()}-{digest}", ACCOUNT_AGE_S, lambda: ask_slurm(argv))
    return None if answer.text is None else tuple(parse_sacct(answer.text))


# -- one question for all processes


def _cache_file(name: str) -> Path:
    return cache_folder() / f"{name}.json"


def _shared(name: str, max_age_s: float, ask: Callable[[], str]) -> Answer:
    """The kept answer if it is young enough, else that of the process that is asking right now, else our own.

    Its age counts from the moment at which it was asked for: what has happened since then is not in it. So a fresh
    answer (`max_age_s` 0) is never one that somebody had begun to ask for before.
    """
    began, end = time.time(), time.monotonic() + 2 * TIMEOUT_S
    claim = _cache_file(name).with_suffix(".asking")
    while True:
        kept = _kept(name, max_age_s, began)
        if kept is not None:
            return kept
        if time.monotonic() > end:
            return _ask(name, ask)
        if _claimed(claim):
            try:
                return _kept(name, max_age_s, began) or _ask(name, ask)
            finally:
                with suppress(OSError):
                    claim.unlink()
        time.sleep(LOOK_S)


def _claimed(claim: Path) -> bool:
    """Whether it is us who ask. The claim of a process that is no more is taken away; without a cache everybody asks.

    A link and no folder: it says whose it is from its first moment on. What it says is no file's name.
    """
    try:
        make_dir(claim.parent)
        if _is_left_behind(claim):
            claim.unlink()
        os.symlink(json.dumps(identity(os.getpid())), claim)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def _is_left_behind(claim: Path) -> bool:
    try:
        owner: Any = json.loads(os.readlink(claim))
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    if not isinstance(owner, dict) or is_alive(owner) is False:
        return True
    return abs(time.time() - claim.lstat().st_mtime) > 2 * TIMEOUT_S  # of a container, whose processes we cannot see


def _ask(name: str, ask: Callable[[], str]) -> Answer:
    before, asked = _read(name), time.time()
    try:
        answer = Answer(ask(), asked, time.time())
    except PreconditionError as error:
        now = time.time()
        since = before.silent_since if before and before.silent_since is not None else now
        answer = Answer(None, asked, now, since, str(error).partition("\n")[0])
    if asked > _forgotten(name):
        with suppress(OSError):  # a cache that cannot be written is no failure
            write_json(_cache_file(name), vars(answer), durable=False)
    return answer


def _kept(name: str, max_age_s: float, began: float) -> Answer | None:
    """The answer that was kept, unless it is too old. A silence is kept longer, the longer it has lasted."""
    found, now = _read(name), time.time()
    if found is None or found.asked > now:  # or of a clock that has been set back since
        return None
    if found.text is None and max_age_s:
        pause_s = min(max(max_age_s, found.time - (found.silent_since or found.time)), MAX_PAUSE_S)
        return found if now - found.time < pause_s else None
    return found if found.asked >= began - max_age_s else None


def _read(name: str) -> Answer | None:
    try:
        found: Any = read_json(_cache_file(name))
        text, since = found["text"], found["silent_since"]
        if not isinstance(text, str | None) or not isinstance(since, float | None) or (text is None) == (since is None):
            return None
        return Answer(text, float(found["asked"]), float(found["time"]), since, str(found["problem"]))
    except (OSError, TypeError, KeyError, ValueError, AttributeError):
        return None


def _forgotten(name: str) -> float:
    """When somebody has changed the queue since the last answer; 0 if nobody has."""
    try:
        return float(read_json(_cache_file(name))["forgotten"])
    except (OSError, TypeError, KeyError, ValueError, AttributeError):
        return 0.0
