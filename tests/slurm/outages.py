"""S13: slurmctld is away for a while, and sweeps are at every stage of their lives. In two lengths."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from tests.slurm.cluster import DevCluster
from tests.slurm.projects import Shims, SlurmProject, make_shims, make_slurm_project, sweep_all
from tests.support import Finished, end_of, pause, wait_until

# The question whether sbatch would accept the job goes through at once; the job itself waits for the file `go`.
WAIT_FOR_GO = """case "$*" in --test-only*) ;; *) while [ ! -e {folder}/go ]; do sleep 0.1; done ;; esac
exec /usr/bin/sbatch "$@" """
PATIENCE_S = 120.0


@contextlib.contextmanager
def stopped(cluster: DevCluster, daemon: str) -> Iterator[None]:
    cluster.stop(daemon)
    try:
        yield
    finally:
        cluster.start(daemon)


def has_tried_in_vain(asks: Shims) -> bool:
    """Two looks and a requeue fail after 9 s each; then it looks again."""
    words = [words.split()[1] for _time, words in asks.calls]
    return "requeue" in words[:-1]


class Outage:
    """What was said while it lasted is in `said`, by name; the sweeps are attributes."""

    def __init__(self, cluster: DevCluster, seconds: float) -> None:
        self.cluster, self.seconds = cluster, seconds
        self.goes_on = self._make("on", int(seconds * 5) + 250)
        self.ends = self._make("ends", 40)
        self.requeues = self._make("req", 100, time="4m", margin="228s")  # its deadline comes 12 s after its start
        self.new = self._make("new", 4)
        self.half = self._make("half", 4)  # accepted in principle, and then slurmctld is gone
        self.said: dict[str, Finished] = {}
        self.states: dict[str, Any] = {}

    def _make(self, name: str, steps: int, **launch: Any) -> SlurmProject:
        fixed = {"steps": steps, "every": 2, "pause": 0.2}
        launch = {"parallel": 1, **launch}
        return make_slurm_project(self.cluster, name, space={"start": [1.0]}, fixed=fixed, launch=launch)

    def happen(self) -> Outage:
        """Come and go. What is left then is to be checked."""
        asks = make_shims(self.requeues, "scontrol")  # its jobs find them too
        shims = make_shims(self.half)
        shims.replace("sbatch", WAIT_FOR_GO)
        half = self.half.start("sweep", "sweep.yaml")
        sweep_all([self.goes_on, self.ends, self.requeues])
        for project in (self.goes_on, self.ends, self.requeues):
            project.wait_for_steps(2)
        wait_until(lambda: shims.n_calls("sbatch") == 2, "the submission that is caught in the middle")
        with stopped(self.cluster, "slurmctld"):
            began = time.monotonic()
            (shims.folder / "go").touch()
            self._ask(half)
            wait_until(lambda: has_tried_in_vain(asks) or pause(0.2), "a requeue that failed", PATIENCE_S)
            pause(max(0.0, self.seconds - (time.monotonic() - began)))
        self.half.env = self.requeues.env = {}
        return self

    def _ask(self, half: Any) -> None:
        """All commands at the same time, since each of them waits for its answer."""
        commands = {
            "status": self.goes_on.start("status", "count", elsewhere=True),
            "again": self.goes_on.start("sweep", "sweep.yaml", elsewhere=True),
            "new": self.new.start("sweep", "sweep.yaml"),
            "half": half,
        }
        self.said = {name: end_of(command, PATIENCE_S) for name, command in commands.items()}
        (trial,) = self.ends.trials()
        wait_until(lambda: self.ends.ends(trial) == ["completed"], "the end of a trial")
        for name in ("goes_on", "ends"):
            (self.states[name],) = getattr(self, name).status()["trials"]

    def check(self) -> None:
        """Running trials have not noticed; nothing was lost or done twice; everybody was told what is the matter."""
        self._check_words()
        for project in (self.goes_on, self.ends):
            project.check()
            assert [project.ends(trial) for trial in project.trials()] == [["completed"]]
            assert [row["state"] for row in project.jobs()] == ["COMPLETED"]
        self.requeues.check()
        (trial,) = self.requeues.trials()
        *earlier, last = self.requeues.ends(trial)
        assert earlier and set(earlier) == {"interrupted deadline"} and last == "completed"
        assert self.requeues.restarts() == list(range(len(earlier) + 1))
        assert len(self.requeues.jobs()) == 1
        sweep_all([self.new, self.half], "--wait")
        for project in (self.new, self.half):
            project.check()
            assert len(project.jobs()) == 1

    def _check_words(self) -> None:
        said = self.said
        assert said["status"].code == 0
        assert "scheduler unreachable since" in said["status"].out, said["status"]
        assert self.states["goes_on"]["state"] == "running"
        assert self.states["ends"]["state"] == "completed"
        assert said["again"].code == 3 and "running trials go on without it" in said["again"].err
        assert said["new"].code == 3 and not self.new.sweep.path.exists()
        assert said["half"].code == 4 and "may not have been submitted" in said["half"].err
