"""S13, S15: daemons of Slurm that are down for a while: the controller, the accounting, its database."""

from __future__ import annotations

import contextlib

import pytest

from tests.slurm.outages import Outage, stopped
from tests.slurm.projects import make_shims, make_slurm_project
from tests.support import family, is_running, remove_scratch_files, wait_until

TRACES = ("Traceback", "sacct", "slurmdbd", "accounting", "database")


# -- S15: no accounting


@pytest.mark.parametrize("missing", ["slurmdbd", "mariadb", "accounting"])
def test_without_accounting_everything_goes_on(missing, cluster, make_cluster):
    """Also where accounting would be asked: a job that ended without a word of its own."""
    at = make_cluster("no-accounting") if missing == "accounting" else cluster
    project = make_slurm_project(
        at, missing, space={"start": [1.0]}, fixed={"steps": 20, "every": 2, "pause": 0.2}, launch={"parallel": 1}
    )
    shims = make_shims(project, "sacct")
    with stopped(at, missing) if missing != "accounting" else contextlib.nullcontext():
        said = [project.run_sweep()]
        trial = project.wait_for_steps(4)
        (supervisor,) = family(project)["supervisor"]
        at.run_as_root("kill", "-9", str(supervisor))
        wait_until(lambda: not is_running(supervisor), "the end of the supervisor")
        project.wait_for_jobs()
        remove_scratch_files(project.runs)
        said += [project.run("status", "count", "--json") for _ in range(3)]
        (shown,) = project.status()["trials"]
        assert (shown["state"], shown["reason"]) == ("interrupted", "vanished")
        said += [project.run_sweep("--wait"), project.run("status", "count")]
        project.check()
        assert project.ends(trial) == ["", "completed"]
    words = "\n".join(finished.err for finished in said)
    assert sum(any(trace in line for trace in TRACES) for line in words.splitlines()) <= 1, words
    assert shims.n_calls("sacct") <= (0 if missing == "accounting" else 2)  # once a minute at most


# -- S13: no slurmctld


def test_while_slurmctld_is_away_trials_go_on_and_nothing_is_lost(cluster):
    Outage(cluster, seconds=0.0).happen().check()
