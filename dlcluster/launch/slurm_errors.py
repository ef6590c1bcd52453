"""What sbatch and scontrol complain about, in one table: try again, look first or give up; which key is to blame."""

from __future__ import annotations

import re
from enum import Enum


class Answer(Enum):
    AMBIGUOUS = "ambiguous"  # it may have been done: look for the job by its name before trying again
    TRANSIENT = "transient"  # it was not done: try again later
    QUOTA = "quota"  # it was not done: there are too many jobs; submit the rest when some have ended
    PERMANENT = "permanent"  # it was not done, and will not be as it is asked for
    DONE = "done"  # there is nothing left to do: somebody has done it, or the job is gone
    DISABLED = "disabled"  # this job may not be requeued; only a new submission goes on
    UNKNOWN = "unknown"  # a text that is not in the table


# Texts of slurm_errno.c and sbatch.c of 22.05, cut to what later versions keep. The first found in a line counts.
COMPLAINTS: tuple[tuple[str, Answer], ...] = (
    ("Socket timed out", Answer.AMBIGUOUS),
    ("Unable to contact slurm controller", Answer.AMBIGUOUS),
    ("Zero Bytes were transmitted", Answer.AMBIGUOUS),
    ("Transport endpoint", Answer.AMBIGUOUS),
    ("Message receive failure", Answer.AMBIGUOUS),
    ("Communication connection failure", Answer.AMBIGUOUS),
    ("temporarily unable to accept job", Answer.TRANSIENT),
    ("Job creation temporarily disabled", Answer.TRANSIENT),
    ("job queue full", Answer.TRANSIENT),
    ("MaxJobCount limit reached", Answer.TRANSIENT),
    ("Unable to create job record, try again", Answer.TRANSIENT),
    ("Resource temporarily unavailable", Answer.TRANSIENT),
    ("Unable to process configuration file", Answer.TRANSIENT),  # seen to go away by itself, batchtools #303
    ("Unexpected message received", Answer.TRANSIENT),  # a requeue while slurmctld is down
    ("controller in standby mode", Answer.TRANSIENT),
    ("Rate limit exceeded", Answer.TRANSIENT),  # 23.02 and later
    ("Job violates accounting/QOS policy", Answer.QUOTA),
    ("MaxSubmit", Answer.QUOTA),
    ("Invalid partition", Answer.PERMANENT),
    ("No partition specified", Answer.PERMANENT),
    ("group not permitted to use this partition", Answer.PERMANENT),
    ("Required partition not available", Answer.PERMANENT),
    ("Requested partition configuration not available", Answer.PERMANENT),
    ("Invalid account", Answer.PERMANENT),
    ("Invalid qos", Answer.PERMANENT),
    ("Invalid wckey", Answer.PERMANENT),
    ("Invalid feature", Answer.PERMANENT),
    ("Invalid constraint", Answer.PERMANENT),
    ("Invalid generic resource", Answer.PERMANENT),
    ("Invalid gres", Answer.PERMANENT),
    ("Invalid Trackable RESource", Answer.PERMANENT),
    ("Invalid license", Answer.PERMANENT),
    ("Requested reservation", Answer.PERMANENT),
    ("Access denied to requested reservation", Answer.PERMANENT),
    ("Requested node configuration is not available", Answer.PERMANENT),
    ("Requested nodes not in this partition", Answer.PERMANENT),
    ("Required node not available", Answer.PERMANENT),
    ("Invalid node name", Answer.PERMANENT),
    ("Node count specification invalid", Answer.PERMANENT),
    ("More processors requested than permitted", Answer.PERMANENT),
    ("Requested more tasks than available processors", Answer.PERMANENT),
    ("CPU count specification invalid", Answer.PERMANENT),
    ("Task count specification invalid", Answer.PERMANENT),
    ("time limit is invalid", Answer.PERMANENT),
    ("Invalid --time", Answer.PERMANENT),
    ("Invalid time limit", Answer.PERMANENT),
    ("Memory specification", Answer.PERMANENT),
    ("Memory required by task is not available", Answer.PERMANENT),
    ("Invalid --mem", Answer.PERMANENT),
    ("Invalid job array specification", Answer.PERMANENT),
    ("Job dependency problem", Answer.PERMANENT),
    ("Pathname of a file, directory or other parameter too long", Answer.PERMANENT),
    ("I/O error writing script/environment to file", Answer.PERMANENT),  # the disk of the controller is full
    ("Invalid directive found in batch script", Answer.PERMANENT),
    ("unrecognized option", Answer.PERMANENT),
    ("Unable to open file", Answer.PERMANENT),
    ("cli_filter plugin terminated with error", Answer.PERMANENT),
    ("permission denied", Answer.PERMANENT),
    ("Requested operation is presently disabled", Answer.DISABLED),
    ("Job is pending execution", Answer.DONE),  # already requeued
    ("Job/step already completing", Answer.DONE),
    ("Invalid job id specified", Answer.DONE),
    ("Job can not be altered now", Answer.DONE),  # scancel -s on an element: delivered, and not to be repeated
)

# What is to blame where a complaint says it; `launch:` has these keys.
_SIZE = "gpus, cpus, mem, nodes or constraint"  # Slurm says only that no node has all of it
KEYS: tuple[tuple[str, str], ...] = (
    ("account or account/partition", "account or partition"),
    ("partition", "partition"),
    ("reservation", "extra_args"),
    ("account", "account"),
    ("qos", "qos"),
    ("wckey", "extra_args"),
    ("license", "extra_args"),
    ("unrecognized option", "extra_args"),
    ("Invalid node name", "extra_args"),
    ("feature", "constraint"),
    ("constraint", "constraint"),
    ("generic resource", "gpus"),
    ("gres", "gpus"),
    ("Trackable RESource", "gpus"),
    ("time limit", "time"),
    ("--time", "time"),
    ("Requested node configuration", _SIZE),
    ("Memory", "mem"),
    ("--mem", "mem"),
    ("job array", "parallel"),
    ("More processors", "cpus"),
    ("CPU count", "cpus"),
    ("available processors", "cpus"),
    ("Node count", "nodes"),
    ("Task count", "processes_per_node"),
)
# Parts of a limit's name, such as AssocMaxWallDurationPerJobLimit, which sbatch prints above its complaint.
LIMIT_KEYS: tuple[tuple[str, str], ...] = (
    ("Wall", "time"),
    ("Minutes", "time"),
    ("GRES", "gpus"),
    ("Cpu", "cpus"),
    ("Mem", "mem"),
    ("Node", "nodes"),
)
_POLICY = "Job violates accounting/QOS policy"


def classify(stderr: str) -> Answer:
    """What a complaint of sbatch or scontrol means.

    The last line that we know counts: above it there may be banners of the site, and tries of sbatch itself. But one
    ambiguous line is enough to look first.
    """
    found = [answer for line in stderr.splitlines() if (answer := _answer_of(line)) is not Answer.UNKNOWN]
    if Answer.AMBIGUOUS in found:
        return Answer.AMBIGUOUS
    if found and found[-1] is Answer.QUOTA and limit_of_one_job(stderr):
        return Answer.PERMANENT
    return found[-1] if found else Answer.UNKNOWN


def _answer_of(line: str) -> Answer:
    return next((answer for text, answer in COMPLAINTS if text.lower() in line.lower()), Answer.UNKNOWN)


def is_limit_of_one_job(name: str) -> bool:
    """Whether a limit, by its name in `job_reason_string` of 22.05, holds for a single job.

    Limits for a user, an account or a group clear when other jobs end; these never do.
    """
    return bool(re.fullmatch(r"(QOS|Assoc)Max\w*Per(Job|Node)(Limit)?|QOSMin\w+|MaxMemPerLimit", name))


def limit_of_one_job(stderr: str) -> str:
    """The limit that this job alone breaks, so that waiting would not help; "" if there is none.

    22.05 has one complaint for too many jobs and for a job that is too large, and names the limit in a line above.
    """
    return next((word for word in re.findall(r"\w+", stderr) if is_limit_of_one_job(word)), "")


def key_of(stderr: str) -> str:
    """The key of `launch:` that a complaint is about, or several in one text; "" if it does not say."""
    limit = limit_of_one_job(stderr)
    if limit:
        return next((key for part, key in LIMIT_KEYS if part in limit), "")
    lines = [line for line in stderr.splitlines() if _answer_of(line) is Answer.PERMANENT]
    return next((key for line in reversed(lines) for text, key in KEYS if text.lower() in line.lower()), "")
