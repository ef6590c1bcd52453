"""What tests of whole sweeps share: a small project, the command a user types, and an oracle over the run directory."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlcluster.journal import History, merge_attempts
from dlcluster.run_dir import Plan, SweepDir, TrialDir
from dlcluster.trial import Trial

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
COUNTER = HERE / "counter.py"
FINAL = ("completed", "failed", "stopped", "cancelled")


@dataclass
class Project:
    """A project folder with the counter job and one spec, and a runs directory beside it."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def spec(self) -> Path:
        return self.root / "sweep.yaml"

    @property
    def sweep(self) -> SweepDir:
        return SweepDir(self.runs / "count")

    def write_spec(self, spec: Mapping[str, Any] | None = None, **changes: Any) -> None:
        """JSON is YAML: the spec as a mapping, with top-level keys replaced."""
        value = {**default_spec(), **(spec or {}), **changes}
        self.spec.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))

    def environment(self) -> dict[str, str]:
        paths = [str(REPOSITORY), *filter(None, [self.env.get("PYTHONPATH"), os.environ.get("PYTHONPATH")])]
        return {**os.environ, **self.env, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "100", **self.token()}

    def token(self) -> dict[str, str]:
        """What all processes of this project inherit, so that none of them can hide."""
        return {"DLCLUSTER_TEST_PROJECT": str(self.root)}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """A command that goes on running; its output is kept for `communicate`."""
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "dlcluster", *arguments],
            **{
                "cwd": self.root,
                "env": self.environment(),
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                **options,
            },
        )

    def run(self, *arguments: str, code: int | None = 0, timeout: float = 120, **options: Any) -> Finished:
        """A command to its end; fails the test if it leaves with another code (None: any)."""
        process = self.start(*arguments, **options)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finished = Finished(process.returncode, out, err)
        assert code is None or finished.code == code, f"{arguments}: {finished}"
        return finished

    def run_sweep(self, *more: str, **options: Any) -> Finished:
        return self.run("sweep", "sweep.yaml", *more, **options)

    def plan(self) -> Plan:
        return self.sweep.read_plan()

    def trials(self) -> tuple[Trial, ...]:
        return self.plan().trials

    def status(self) -> dict[str, Any]:
        return json.loads(self.run("status", "count", "--json").out)

    def rows(self, trial: Trial, attempt: int) -> list[dict[str, Any]]:
        return self.sweep.trial(trial).attempt(attempt).read()[0]

    def ends(self, trial: Trial) -> list[str]:
        """`completed`, `failed killed(9)`, ... of each attempt; "" for one without an end."""
        attempts = self.sweep.trial(trial).attempts()
        found = [next((r for r in a.read()[0] if r["kind"] == "end"), None) for a in attempts]
        return [f"{end['state']} {end['reason']}".strip() if end else "" for end in found]

    def history(self, trial: Trial) -> list[tuple[int, float]]:
        """Step and loss of the rows that count."""
        return [(row["step"], row["metrics"]["loss"]) for row in history_of(self.sweep.trial(trial)).metrics]


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


def history_of(folder: TrialDir) -> History:
    """The metrics of a trial as if it had never been interrupted."""
    attempts = {attempt.number: attempt.read() for attempt in folder.attempts()}
    rows = {number: rows for number, (rows, _damage) in attempts.items()}
    return merge_attempts(rows, [damage for _rows, damage in attempts.values() if damage.n_bad_lines])


def default_spec() -> dict[str, Any]:
    return {
        "name": "count",
        "job": "counter",
        "objective": {"metric": "loss", "goal": "minimize"},
        "sampler": {"kind": "grid"},
        "space": {"start": [1.0, 2.0]},
        "fixed": {"steps": 6, "every": 2, "pause": 0.0},
        "launch": {"parallel": 2},
    }


def make_project(folder: Path) -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "setup.cfg").write_text("")
    shutil.copy(COUNTER, folder / "counter.py")
    project = Project(folder)
    project.write_spec()
    return project


def expected_history(start: float, steps: int) -> list[tuple[int, float]]:
    """What the counter job logs if nothing ever disturbs it."""
    return [(step, start / step) for step in range(1, steps + 1)]


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
    """Poll with a deadline; says what it was waiting for."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {timeout:g} s in vain for {what}")


def processes_with(token: str) -> list[int]:
    """The processes, zombies aside, whose command line or environment holds the text."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if state != "Z" and token.encode() in text:
            found.append(int(entry.name))
    return found


def pause(seconds: float) -> None:
    """For faults that strike at a given moment, ready or not. To wait for something, use `wait_until`."""
    select.select([], [], [], seconds)


def strict_json(text: str) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def check_oracle(project: Project, allowed_failures: Sequence[str] = ()) -> None:
    """O1 one state a trial, O2 no step lost or doubled, O4 one attempt at a time, O5 files sound, O6 nothing alive."""
    fixed = project.plan().spec["fixed"]
    for trial in project.trials():
        ends = project.ends(trial)
        assert ends, f"{trial.id} was never started"
        assert ends[-1].split()[0] in FINAL, f"{trial.id}: {ends}"
        if ends[-1] == "completed":
            assert project.history(trial) == expected_history(trial.params["start"], fixed["steps"]), trial.id
        else:
            assert ends[-1] in allowed_failures, f"{trial.id}: {ends}"
        check_attempts_do_not_overlap(project, trial)
    check_files(project.sweep.path)
    wait_until(lambda: not processes_with(str(project.root)), f"the end of all processes of {project.root}", 10)


def check_attempts_do_not_overlap(project: Project, trial: Trial) -> None:
    attempts = project.sweep.trial(trial).attempts()
    for earlier, later in zip(attempts, attempts[1:], strict=False):
        begun = next(r["time"] for r in later.read()[0] if r["kind"] == "start")
        last = max((r["time"] for r in earlier.read()[0]), default=0.0)
        assert last <= begun, f"{trial.id}: attempt {earlier.number} wrote after attempt {later.number} had begun"


def check_files(path: Path) -> None:
    """Every JSON file and every complete line is strict JSON, and no scratch file is left over."""
    for file in path.rglob("*"):
        assert not file.name.endswith(".tmp"), f"left over: {file}"
        if file.suffix == ".json" and "code" not in file.relative_to(path).parts[:1]:
            strict_json(file.read_text())
        elif file.suffix == ".jsonl":
            for line in file.read_text().splitlines():
                strict_json(line)


def submit(project: Project, **rules: Any) -> str:
    """All that `sweep` does until it starts workers, with some rules changed. Returns the id of the submission."""
    from dlcluster import pipeline
    from dlcluster.launch.submission import make_rules, write_intent

    written = []

    def only_write(result: Any, code: Path, snapshot: str | None, *_others: Any) -> Any:
        all_rules = {**make_rules(result.plan, code), **rules}
        written.append(write_intent(result.sweep, result.launch_plan.wanted, all_rules, snapshot))
        return result

    launch, pipeline.launch = pipeline.launch, only_write
    try:
        options = pipeline.SweepOptions(runs_dir=project.runs, import_check=False)
        pipeline.run_sweep(project.spec, options, pipeline.View())
    finally:
        pipeline.launch = launch
    return written[0]


def start_worker(project: Project, submission: str, number: int = 0, **options: Any) -> subprocess.Popen[str]:
    """A worker as an executor starts it. It must be waited for."""
    worker = f"{submission}-{number:04d}"
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "dlcluster.worker", str(project.sweep.path)),
            *("--submission", submission, "--worker", worker),
        ],
        **{
            "env": project.environment(),
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
            "start_new_session": True,
            **options,
        },
    )


def run_worker(project: Project, submission: str, number: int = 0, timeout: float = 60, **options: Any) -> Finished:
    """A worker to its end."""
    return end_of(start_worker(project, submission, number, **options), timeout)


def end_of(process: subprocess.Popen[str], timeout: float = 60) -> Finished:
    """Wait for a process that `start` or `start_worker` has started."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Finished(process.returncode, out, err or "")


def family(project: Project) -> dict[str, list[int]]:
    """The living processes of a project: commands, supervisors, zygotes, their children, and others."""
    found: dict[str, list[int]] = {"command": [], "supervisor": [], "zygote": [], "child": [], "other": []}
    kinds: dict[int, str] = {}
    for pid in sorted(processes_with(str(project.root))):
        kind = _kind_of(pid, kinds)
        if kind:
            kinds[pid] = kind
            found[kind].append(pid)
    return found


def _kind_of(pid: int, kinds: Mapping[int, str]) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    if b"dlcluster" in words:
        return "command"
    if b"dlcluster.worker" not in words:
        return "other"
    kind_of_child = {"supervisor": "zygote", "zygote": "child", "child": "other"}
    return kind_of_child.get(kinds.get(parent_of(pid), ""), "supervisor")


def parent_of(pid: int) -> int:
    """The pid of a process's parent, 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def remove_scratch_files(path: Path) -> None:
    """Those of killed processes: they start with a dot, and no reader looks at them."""
    for file in path.rglob(".*.tmp"):
        file.unlink()


def summary(project: Project) -> dict[str, list[tuple[int, float]]]:
    """What a table rests on: the metrics of each trial, by its id."""
    return {trial.id: project.history(trial) for trial in project.trials()}


def undisturbed(project: Project) -> dict[str, list[tuple[int, float]]]:
    """The summary of a run in which nothing ever went wrong (O3)."""
    steps = project.plan().spec["fixed"]["steps"]
    return {trial.id: expected_history(trial.params["start"], steps) for trial in project.trials()}


def wait_for_step(project: Project, step: int, n_trials: int = 1, timeout: float = 30.0) -> None:
    """Until as many trials have logged this step."""

    def n_there() -> int:
        if not project.sweep.has_plan():
            return 0
        return sum(any(s >= step for s, _loss in project.history(trial)) for trial in project.trials())

    wait_until(lambda: n_there() >= n_trials, f"step {step} of {n_trials} trial(s)", timeout)
