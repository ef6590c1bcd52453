"""Which jobs would run which trials: the scheduler's rows beside the submissions of a sweep."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dlcluster.errors import PreconditionError
from dlcluster.launch.job_plan import Batch
from dlcluster.launch.scheduler import QUEUE_AGE_S, Queue, read_accounts, read_queue
from dlcluster.launch.site import read_site
from dlcluster.launch.slurm_words import JobWord, Standing, read_account, read_state
from dlcluster.liveness import is_alive
from dlcluster.run_dir import SubmissionDir, SweepDir

JOB_NAME = re.compile(r".+-(\d{8}T\d{6}-[0-9a-f]{6})-(\d{3,})")
# The best of what several jobs promise for one trial comes first.
ORDER = (Standing.ALIVE, Standing.FINISHING, Standing.WAITING, Standing.UNKNOWN, Standing.HELD, Standing.GONE)


def job_name(sweep: str, submission: str, batch: int) -> str:
    """Unique for ever: by this name a job is found again, whatever became of the command that submitted it."""
    return f"{sweep}-{submission}-{batch:03d}"


@dataclass
class Submission:
    """One submission to the scheduler: what was asked for, and what is known of its jobs, by element."""

    folder: SubmissionDir
    intent: Mapping[str, Any]
    job_ids: dict[int, int]  # by batch: those that sbatch has accepted, as far as we know
    called_off: frozenset[str] | None  # the trials that `cancel` has named; None: all of them
    words: dict[int, JobWord] = field(default_factory=dict)
    ids: dict[int, str] = field(default_factory=dict)  # by element, as scancel wants them: 12_3 or 12

    @property
    def name(self) -> str:
        """Of the sweep when it was submitted, and so of the jobs; the run directory may have another one now."""
        return self.intent["name"]

    @cached_property
    def batches(self) -> list[Batch]:
        return [Batch(*row) for row in self.intent.get("batches", ())]

    @cached_property
    def wanted(self) -> dict[str, tuple[int, int]]:
        """By trial: its place among those of the submission, and its first attempt."""
        return {trial_id: (place, first) for place, (trial_id, first) in enumerate(self.intent["trials"])}

    def element(self, batch: int, index: int | None) -> int:
        return self.batches[batch].first + (index or 0)

    def elements_of(self, place: int) -> Sequence[int]:
        """The jobs that may take the trial at this place."""
        per_job = self.intent["trials_per_job"]
        if per_job == "pull":
            return range(sum(batch.size for batch in self.batches))
        return (place // per_job,)

    def is_called_off(self, trial_id: str) -> bool:
        return self.called_off is None or trial_id in self.called_off

    def is_known(self, element: int) -> bool:
        """Whether sbatch has accepted the job of this element, as far as we know."""
        return any(b.first <= element < b.first + b.size for k, b in enumerate(self.batches) if k in self.job_ids)

    @cached_property
    def in_flight(self) -> JobWord | None:
        """While the command that submits it may still be at it; None after that."""
        noted = all(self.folder.read_job(k) is not None for k in range(len(self.batches)))
        if noted or self.intent.get("by_hand") or is_alive(self.intent.get("submitter", {})) is False:
            return None
        return JobWord(Standing.WAITING, "", "being submitted")

    @cached_property
    def best_word(self) -> JobWord | None:
        """The best that any of its jobs promises; None if the scheduler knows none of them."""
        return min(self.words.values(), key=lambda w: (ORDER.index(w.standing), w.reason == "cancelled"), default=None)

    def word_for(self, place: int) -> JobWord | None:
        if self.intent["trials_per_job"] == "pull":
            return self.best_word
        return self.words.get(self.elements_of(place)[0])


def read_submissions(sweep: SweepDir) -> list[Submission]:
    """All submissions of a sweep, oldest first; those that ran on one machine have no batches."""
    found = []
    for folder in sweep.submissions():
        intent = folder.read_intent()
        if intent:
            jobs = {k: folder.read_job(k) or {} for k in range(len(intent.get("batches", ())))}
            ids = {k: job["job_id"] for k, job in jobs.items() if job.get("job_id")}
            found.append(Submission(folder, intent, ids, folder.read_called_off()))
    return found


class Coverage:
    """One look at the scheduler on behalf of a sweep. Nothing is asked before it is needed."""

    def __init__(
        self, sweep: SweepDir, max_age_s: float = QUEUE_AGE_S, ask: Callable[[float], Queue] = read_queue
    ) -> None:
        self.sweep, self.max_age_s, self._ask = sweep, max_age_s, ask
        self.submissions = read_submissions(sweep)
        self._accounts_are_in = False

    @cached_property
    def queue(self) -> Queue:
        """Asked once; the words of all submissions are filled in from it."""
        queue = self._ask(self.max_age_s)
        by_id = {submission.intent["id"]: submission for submission in self.submissions}
        for row in queue.rows:
            match = JOB_NAME.fullmatch(row.name)
            submission = by_id.get(match[1]) if match else None
            if submission and int(match[2]) < len(submission.batches):
                submission.job_ids.setdefault(int(match[2]), row.job_id)
                element = submission.element(int(match[2]), row.index)
                submission.words[element] = read_state(row.state, row.reason)
                submission.ids[element] = f"{row.job_id}" if row.index is None else f"{row.job_id}_{row.index}"
        return queue

    @property
    def answers(self) -> bool:
        return self.queue.is_known

    def silence(self) -> str:
        """`scheduler unreachable since 12:03`, or nothing if it has answered."""
        answer = self.queue.answer
        if answer.silent_since is None:
            return ""
        return f"scheduler unreachable since {time.strftime('%H:%M', time.localtime(answer.silent_since))}"

    def covering(self, trial_id: str) -> tuple[Submission, int, int] | None:
        """The newest submission that wants the trial, the trial's place in it, and the attempt it begins with.

        None if that one ran on one machine.
        """
        newest = next((s for s in reversed(self.submissions) if trial_id in s.wanted), None)
        return (newest, *newest.wanted[trial_id]) if newest and newest.batches else None

    def word_for(self, submission: Submission, place: int) -> JobWord | None:
        """What the scheduler says about the job that would run the trial; None if it knows no such job."""
        if not self.answers:
            return None
        word = submission.word_for(place)
        has_been_forgotten = word is None and any(map(submission.is_known, submission.elements_of(place)))
        if has_been_forgotten or _is_vague(word):
            self._ask_accounts()
            word = submission.word_for(place)
        return submission.in_flight if word is None else word

    def word_of_job(self, start: Mapping[str, Any]) -> JobWord | None:
        """What it says about the job that a start record names; None if it knows no such job."""
        job = start.get("job") or {}
        submission = next((s for s in self.submissions if s.intent["id"] == start.get("submission")), None)
        if submission is None or not self.answers:
            return None
        element = element_of_worker(start.get("worker", ""), submission.intent["id"])
        if element is None or not job:
            return None
        if element not in submission.words or _is_vague(submission.words[element]):
            self._ask_accounts()
        return submission.words.get(element)

    def _ask_accounts(self) -> None:
        """Fill in what squeue has forgotten, once. Without accounting, or without its answer, nothing changes."""
        if self._accounts_are_in:
            return
        self._accounts_are_in = True
        try:
            site = read_site()
        except PreconditionError:
            return
        names = {job_name(s.name, s.intent["id"], k): (s, k) for s in self.submissions for k in s.job_ids}
        if site is None or not site.has_accounting or not names:
            return
        rows = read_accounts(sorted(names), min(s.intent["time"] for s in self.submissions))
        for row in rows or ():
            if row.name in names:
                submission, batch = names[row.name]
                word = read_account(row)
                element = submission.element(batch, row.index)
                if word.standing is not Standing.GONE:
                    continue  # a row that was never closed: accounting was off when the job ended
                if element not in submission.words or _is_vague(submission.words[element]):
                    submission.words[element] = word
                    submission.__dict__.pop("best_word", None)


def _is_vague(word: JobWord | None) -> bool:
    """FAILED, as squeue has it: accounting knows the exit code, which says why."""
    return word is not None and word.reason == "exit"


def element_of_worker(worker: str, submission: str) -> int | None:
    """`<submission>-0012r1` -> 12."""
    match = re.fullmatch(re.escape(submission) + r"-(\d{4,})(r\d+)?(p\d+)?", worker)
    return int(match[1]) if match else None
