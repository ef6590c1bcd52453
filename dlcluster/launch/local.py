"""Workers as processes of this machine. They end with the command that started them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.files import open_log
from dlcluster.run_dir import SweepDir, WorkerDir

MAX_REPLACEMENTS_PER_WORKER = 3
MAX_ROUNDS_WITHOUT_WORK = 2
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def visible_gpus() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them; those it already names if it is set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name and name != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i, line in enumerate(listing.splitlines()) if line.startswith("GPU ")]


@dataclass(frozen=True)
class Slots:
    """How many workers run at once, and which GPUs each of them sees (None: whatever there is)."""

    gpus_of_worker: tuple[str | None, ...]

    @property
    def n_workers(self) -> int:
        return len(self.gpus_of_worker)


def make_slots(launch: Mapping[str, Any], gpus: list[str], n_cores: int, n_trials: int) -> Slots:
    """One worker a GPU (several with `trials_per_gpu`), else as many as the cores allow; `parallel` overrides."""
    asked = launch.get("gpus")
    per_trial = asked if asked is not None else (1 if gpus else 0)
    if per_trial == 0:
        n_cores_of_trial = launch["cpus"] * (launch.get("processes_per_node") or 1)
        n_workers = launch.get("parallel") or max(1, n_cores // n_cores_of_trial)
        return Slots((None if not gpus else "",) * min(n_workers, n_trials))
    groups = [",".join(gpus[i : i + per_trial]) for i in range(0, len(gpus) - per_trial + 1, per_trial)]
    if not groups:
        from dlcluster.errors import PreconditionError

        raise PreconditionError(
            f"launch.gpus: a trial needs {per_trial} GPU(s), this machine has {len(gpus)}", "use gpus: 0 for the CPU"
        )
    places = [group for group in groups for _ in range(launch["trials_per_gpu"])]
    n_workers = min(launch.get("parallel") or len(places), n_trials)
    return Slots(tuple(places[i % len(places)] for i in range(n_workers)))


class LocalExecutor:
    """Starts workers, replaces those that die, stops them when asked."""

    def __init__(self, sweep: SweepDir, submission: str, slots: Slots) -> None:
        self.sweep, self.submission, self.slots = sweep, submission, slots
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._n_started = [0] * slots.n_workers
        self._n_deaths = 0
        self._n_idle_rounds = self._n_ended_before = 0
        self.exit_codes: list[int] = []
        self.is_stopping = False

    def start(self) -> None:
        for slot in range(self.slots.n_workers):
            self._start_worker(slot)

    def _start_worker(self, slot: int) -> None:
        number = slot + self._n_started[slot] * self.slots.n_workers
        worker = f"{self.submission}-{number:04d}"
        self._n_started[slot] += 1
        log = open_log(self.sweep.submission(self.submission).path / "workers.log")
        # Inherited: a request that comes before the worker can hear waits until it can, instead of killing it.
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self._running[slot] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dlcluster.worker", str(self.sweep.path)),
                    *("--submission", self.submission, "--worker", worker, "--parent", str(os.getpid())),
                ],
                env=self._environment(slot),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal reaches the command only, which then asks politely
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
            os.close(log)

    def _environment(self, slot: int) -> dict[str, str]:
        environment = {**os.environ, "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0"), "PYTHONUNBUFFERED": "1"}
        gpus = self.slots.gpus_of_worker[slot]
        if gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpus
        return environment

    def poll(self) -> bool:
        """Whether any worker still runs. One that was killed is replaced, so that its trial goes on elsewhere."""
        for slot, process in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[slot]
            self.exit_codes.append(code)
            self._n_deaths += code < 0
            if code < 0 and not self.is_stopping and not self._too_many_died():
                self._start_worker(slot)
        return bool(self._running)

    def start_again(self) -> bool:
        """One more round, for trials that a worker had to leave (its time was up, say). False if that is hopeless."""
        if self.is_stopping or self._too_many_died() or self._were_told_to_end() or not self._work_is_done():
            return False
        if any(code > 0 and code != WorkerExit.INTERRUPTED for code in self.exit_codes):
            return False
        self.start()
        return True

    def _too_many_died(self) -> bool:
        return self._n_deaths > MAX_REPLACEMENTS_PER_WORKER * self.slots.n_workers

    def _were_told_to_end(self) -> bool:
        """Whether the submission is held, or cancelled as a whole: markers that new workers would not find."""
        return any(
            "hold" in markers or ("cancel" in markers and not worker.marker("cancel").read_text().strip())
            for worker in self._workers()
            if (markers := worker.markers())
        )

    def _work_is_done(self) -> bool:
        """Whether the last rounds have brought any attempt to an end: a time limit may be too short for a start."""
        n_ended = sum(sum((worker.read_heartbeat() or {}).get("finished", {}).values()) for worker in self._workers())
        self._n_idle_rounds = 0 if n_ended > self._n_ended_before else self._n_idle_rounds + 1
        self._n_ended_before = n_ended
        return self._n_idle_rounds <= MAX_ROUNDS_WITHOUT_WORK

    def _workers(self) -> list[WorkerDir]:
        return [worker for worker in self.sweep.workers() if worker.path.name.startswith(self.submission)]

    def ask_to_stop(self) -> None:
        """The first Ctrl-C: trials save and end. A second call leaves them no time."""
        self.is_stopping = True
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)

    def close(self, patience_s: float = 5.0) -> None:
        """Nothing is left running when this returns."""
        end = time.monotonic() + patience_s
        while self.poll() and time.monotonic() < end:
            time.sleep(0.02)
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()
