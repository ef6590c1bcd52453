"""Whether jobs can see the run directory, asked before anything is written (row 45)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from dlcluster.errors import PreconditionError
from dlcluster.launch import jobs
from dlcluster.launch.file_systems import FileSystem

HERE, THERE = SimpleNamespace(name="login"), SimpleNamespace(name="n7")
RUN = Path("/scratch/runs/lr")


@pytest.fixture
def site(monkeypatch):
    """A file system of this kind, and partitions with nodes that are other machines."""

    def make(kind: str, **elsewhere: list[SimpleNamespace]) -> None:
        partitions = [
            SimpleNamespace(name=name, is_default=name == "main", nodes_elsewhere=nodes)
            for name, nodes in elsewhere.items()
        ]
        monkeypatch.setattr(jobs, "file_system_of", lambda _path: FileSystem(kind, "/"))
        monkeypatch.setattr(jobs, "read_partitions", lambda: partitions)

    return make


def test_a_disk_of_this_machine_is_refused_if_jobs_run_elsewhere(site):
    site("ext4", main=[THERE], gpu=[])
    with pytest.raises(
        PreconditionError, match=r"(?s)/scratch/runs/lr: on ext4, a disk of this machine.*n7.*--runs-dir"
    ):
        jobs.check_reach(RUN, None)
    jobs.check_reach(RUN, "gpu")


@pytest.mark.parametrize(("kind", "nodes"), [("ext4", []), ("nfs4", [THERE]), ("tmpfs", []), ("unheard-of", [THERE])])
def test_it_is_not_where_all_nodes_are_this_machine_or_the_disk_is_shared(site, kind, nodes):
    site(kind, main=nodes)
    jobs.check_reach(RUN, None)
    jobs.check_reach(RUN, "main")
