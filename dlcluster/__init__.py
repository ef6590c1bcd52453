"""dlcluster: sweeps of training runs on a laptop or on Slurm, with tables that can be published.

sweep       one question: a spec, its trials, its run directory
spec        the YAML file that says what to try
config      one point of the search space
trial       one config with one seed; its id follows from its content
attempt     one try at running a trial; an interrupted trial has several
run         what training code gets: log, save, resume, should_stop
worker      what executes trials on a machine; its first process is the supervisor
executor    where workers come from: processes of this machine
objective   the metric that ranks configs, measured on validation data
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcluster.worker.reporting import log, should_stop, tick
    from dlcluster.worker.run import Stopped

__version__ = "0.1.0"
__all__ = ["Stopped", "__version__", "log", "should_stop", "tick"]


def __getattr__(name: str) -> Any:
    """Imported on first use: a training program pays for nothing that it does not call."""
    if name in ("log", "should_stop", "tick"):
        from dlcluster.worker import reporting

        return getattr(reporting, name)
    if name == "Stopped":
        from dlcluster.worker.run import Stopped

        return Stopped
    raise AttributeError(f"module 'dlcluster' has no attribute {name!r}")
