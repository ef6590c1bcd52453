"""F5 and F6: every call that writes fails in every way, and the machine loses power between any two of them."""

from __future__ import annotations

import ast
import errno
import json
import os
import sys
from pathlib import Path

import pytest

from dlcluster import file_reading, files
from dlcluster.files import AppendFile
from tests.support import check_oracle, history_of

INJECT = Path(__file__).parent / "inject"
sys.path.insert(0, str(INJECT))
try:
    from faulty_os import NAMES, Injector, broken
finally:
    sys.path.remove(str(INJECT))

ERRNOS = ("EDQUOT", "EIO", "ESTALE", "EINTR", "ENOSPC")


def call_sites():
    """Every `os.NAME(...)` of the two modules whose failure can be injected, as (name, file and line)."""
    return {
        (node.func.attr, f"{Path(module.__file__).name}:{node.lineno}")
        for module in (files, file_reading)
        for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "os"
        and node.func.attr in NAMES
    }


# -- in one process: every call site, every error -------------------------------------------------------------------


def everything(folder, short_writes):
    """Uses all of files.py once. Yields after each step, so that a test can look at what is there."""
    files.make_dir(folder / "a" / "b")
    yield
    files.make_dir_exclusively(folder / "a" / "0001")
    yield
    files.write_json(folder / "a" / "whole.json", {"version": 2})
    yield
    files.write_text(folder / "a" / "quick.json", "{}", durable=False)
    yield
    files.append_json_line(folder / "a" / "lines.jsonl", {"n": 1})
    yield
    file = AppendFile(folder / "a" / "lines.jsonl")
    try:
        short_writes(True)
        file.write_row({"n": 2})
        short_writes(False)
        file.sync()
    finally:
        short_writes(False)
        file.close()
    yield
    os.close(files.open_log(folder / "a" / "log.txt"))
    yield
    files.reserve_space(folder / "a" / "spare", 100)
    yield
    files.read_json_lines(folder / "a" / "lines.jsonl")
    files.read_json(folder / "a" / "whole.json")
    file_reading.read_ends(folder / "a" / "lines.jsonl", 10)
    file_reading.find_last_line(folder / "a" / "lines.jsonl", b"n")
    file_reading.appears(folder / "a" / "missing")
    yield


class Seam:
    """Counts the calls of files.py, can make them short, and makes one of them fail."""

    def __init__(self):
        self.sites, self.n, self.fail_at, self.n_failures, self.error, self.short = [], 0, None, 1, None, False
        self.injector = Injector(self.on_call)

    def on_call(self, name, line, args):
        self.n += 1
        self.sites.append((name, line))
        if self.fail_at is not None and self.fail_at <= self.n < self.fail_at + self.n_failures:
            if name == "close":
                os.close(args[0])
            raise broken(self.error, args)

    def short_writes(self, on):
        self.short = on

    def __enter__(self):
        self.injector.install()
        if self.short is not None:
            wrapped = os.write

            def write(fd, data):
                if self.short and sys._getframe(1).f_code.co_filename == files.__file__ and len(data) > 2:
                    data = bytes(data[:2])
                    self.on_call("write", f"files.py:{sys._getframe(1).f_lineno}", (fd, data))
                    return _write(fd, data)
                if sys._getframe(1).f_code.co_filename == files.__file__:
                    self.on_call("write", f"files.py:{sys._getframe(1).f_lineno}", (fd, data))
                return _write(fd, data)

            os.write, self.wrapped = write, wrapped
        return self

    def __exit__(self, *_):
        self.injector.remove()


_write = os.write


def run_everything(folder, fail_at=None, error=None, n_failures=1):
    """Returns the seam and the error that came out, if one did."""
    seam = Seam()
    seam.fail_at, seam.error, seam.n_failures = fail_at, error, n_failures
    with seam:
        try:
            for _ in everything(folder, seam.short_writes):
                pass
        except OSError as raised:
            return seam, raised
    return seam, None


def test_every_call_site_fails_in_every_way_and_says_which_file_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(
        files, "_file_mode", 0o640
    )  # as `share: group` has it: then modes are set by calls of their own
    monkeypatch.setattr(files, "_dir_mode", 0o2750)
    whole, _ = run_everything(tmp_path / "undisturbed")
    n_calls, covered = whole.n, set()
    check_sound(tmp_path / "undisturbed")
    for number in map(errno.__dict__.get, ERRNOS):
        for k in range(1, n_calls + 1):
            folder = tmp_path / f"{number}-{k}"
            files.make_dir(folder / "a")
            files.write_json(folder / "a" / "whole.json", {"version": 1})
            seam, raised = run_everything(folder, k, number)
            site = seam.sites[k - 1] if len(seam.sites) >= k else None
            if site:
                covered.add(site)
            if raised is not None:
                assert raised.errno == number, (site, raised)
                assert str(raised.filename).startswith(str(folder)), (site, raised)
            check_sound(folder)
            _, raised = run_everything(folder)
            assert raised is None, (site, raised)
            check_sound(folder)
            assert json.loads((folder / "a" / "whole.json").read_text()) == {"version": 2}
    for k in range(1, n_calls + 1):
        folder = tmp_path / f"twice-{k}"
        seam, _ = run_everything(folder, k, errno.EIO, n_failures=2)  # what cleans up after a failure fails too
        covered.update(seam.sites[k - 1 : k + 1])
        _, raised = run_everything(folder)
        assert raised is None
        for scratch in folder.rglob("*.tmp"):
            scratch.unlink()
        check_sound(folder)
    assert call_sites() <= covered, f"call sites that no fault has hit: {sorted(call_sites() - covered)}"


def check_sound(folder):
    """No scratch file, the file that is replaced is old or new, the one that is appended to holds whole lines."""
    assert not list(folder.rglob("*.tmp"))
    whole = folder / "a" / "whole.json"
    if whole.exists():
        assert json.loads(whole.read_text()) in ({"version": 1}, {"version": 2})
    lines = folder / "a" / "lines.jsonl"
    if lines.exists():
        rows, damage, _ = files.read_json_lines(lines)
        assert damage.n_bad_lines <= 1
        assert all(row["n"] in (1, 2) for row in rows)


# -- whole commands -------------------------------------------------------------------------------------------------

SPEC = {
    "space": {"start": [1.0]},
    "fixed": {"steps": 4, "every": 2, "pause": 0.0},
    "launch": {"parallel": 1, "grace": "5s", "max_attempts": 5},
}
# role, function: what a sweep of one trial calls at least twice
PLACES = (
    ("command", "open"),
    ("command", "replace"),
    ("command", "mkdir"),
    ("worker", "write"),
    ("worker", "fsync"),
    ("worker", "replace"),
    ("child", "write"),
    ("child", "fsync"),
    ("child", "close"),
)
CALLED = ("open", "write", "fsync", "close", "replace", "mkdir", "fstat", "pread")
ALL_PLACES = [(role, name) for role in ("command", "worker", "child") for name in CALLED]


def fault_cases():
    """In an ordinary run one error a place, another one at each; in a long run everything, once and for ever."""
    for i, (role, name) in enumerate(PLACES):
        yield f"{role}/{name}:{ERRNOS[i % len(ERRNOS)]}@{1 + i % 2}"
    for role, name in ALL_PLACES:
        for error in ERRNOS:
            for number in ("2", "1+"):
                yield pytest.param(f"{role}/{name}:{error}@{number}", marks=pytest.mark.long)


@pytest.mark.parametrize("fault", list(fault_cases()))
def test_a_sweep_in_which_a_call_fails_says_so_and_the_same_command_finishes_it(project, fault):
    project.write_spec(**SPEC)
    project.env.update(PYTHONPATH=str(INJECT), DLCLUSTER_FAULT=fault, DLCLUSTER_CALLS=str(project.root / "calls"))
    done = project.run_sweep(code=None, timeout=60)
    said = done.err + everything_said(project)
    error = getattr(errno, fault.partition(":")[2].partition("@")[0])
    assert done.code in (0, 3, 4), f"{done.code}\n{said}"
    assert "Traceback" not in done.err, done.err
    finished = project.sweep.has_plan() and [project.ends(trial)[-1:] for trial in project.trials()] == [["completed"]]
    if not finished:
        assert os.strerror(error) in said, said
        assert str(project.root) in said, said
    assert not [path for path in project.runs.rglob("*.tmp")] if project.runs.exists() else True
    del project.env["DLCLUSTER_FAULT"], project.env["DLCLUSTER_CALLS"]
    project.run_sweep()
    if project.ends(project.trials()[0])[-1].startswith("failed"):
        project.run(
            "resume", "count", "--failed"
        )  # what the training code has met, or has met again and again, is kept
    check_oracle(project)


def everything_said(project):
    """What workers have printed, and the messages of the ends of trials."""
    logs = [path.read_text(errors="replace") for path in project.runs.glob("count/submissions/*/workers.log")]
    ends = [path.read_text(errors="replace") for path in project.runs.glob("count/trials/*/*/attempts/*/journal.jsonl")]
    return "\n".join(logs + ends)


# -- F6: power cuts -------------------------------------------------------------------------------------------------


class File:
    def __init__(self):
        self.data, self.durable = b"", b""


class Folder:
    def __init__(self):
        self.entries, self.durable = {}, {}


class Disk:
    """The strictest disk that POSIX allows: after a power cut only what was synced is there, names and bytes alike."""

    def __init__(self, root):
        self.root_path, self.root = root, Folder()

    def parts(self, path):
        return Path(path).relative_to(self.root_path).parts

    def find(self, path):
        node = self.root
        for part in self.parts(path):
            node = node.entries[part]
        return node

    def folder_of(self, path):
        return self.find(Path(path).parent)

    def apply(self, op):
        kind, path = op["op"], op["path"]
        name = Path(path).name
        if kind == "open":
            self.folder_of(path).entries.setdefault(name, File())
        elif kind == "write":
            self.find(path).data += bytes.fromhex(op["data"])
        elif kind == "mkdir":
            self.folder_of(path).entries.setdefault(name, Folder())
        elif kind == "unlink":
            self.folder_of(path).entries.pop(name)
        elif kind == "replace":
            self.folder_of(op["to"]).entries[Path(op["to"]).name] = self.folder_of(path).entries.pop(name)
        elif kind == "fsync":
            node = self.find(path)
            if isinstance(node, File):
                node.durable = node.data
            else:
                node.durable = dict(node.entries)

    def write_image(self, target, keep_names):
        """The disk after a power cut; with `keep_names` all names have made it, but bytes still only if synced."""
        self._write(self.root, target, keep_names)

    def _write(self, folder, target, keep_names):
        target.mkdir()
        for name, node in (folder.entries if keep_names else folder.durable).items():
            if isinstance(node, Folder):
                self._write(node, target / name, keep_names)
            else:
                (target / name).write_bytes(node.durable)


def recorded_sweep(project):
    log = project.root / "operations"
    job = (project.root / "counter.py").read_text()
    job = job.replace("            return\n", "            return\n", 1).replace(
        "def swallow(",
        "def predicting(run, **params):\n    train(run, **params)\n"
        "    run.predictions('validation', [1, 2, 3], correct=[1, 0, 1])\n\n\ndef swallow(",
    )
    job = job.replace("def predicting(run, **params)", "def predicting(run, *, start=1.0, steps=6, every=2, pause=0.0)")
    job = job.replace(
        "    train(run, **params)\n", "    train(run, start=start, steps=steps, every=every, pause=pause)\n"
    )
    (project.root / "counter.py").write_text(job)
    project.write_spec(**SPEC, job="counter:predicting")
    project.runs.mkdir()
    project.env.update(PYTHONPATH=str(INJECT), DLCLUSTER_RECORD=str(log), DLCLUSTER_RECORD_UNDER=str(project.runs))
    project.run_sweep()
    check_oracle(project)
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_after_a_power_cut_the_end_is_not_there_or_all_that_it_stands_for_is(project, tmp_path, every):
    from dlcluster.results.predictions import read_predictions
    from dlcluster.run_dir import SweepDir
    from dlcluster.worker import checkpoints
    from tests.support import expected_history

    operations = recorded_sweep(project)
    (trial,) = project.trials()
    disk, n_ended, n_images = Disk(project.runs), 0, 0
    interesting = {i for i, op in enumerate(operations) if op["op"] in ("fsync", "replace") and "trials" in op["path"]}
    for i, operation in enumerate(operations):
        disk.apply(operation)
        if i % every and i not in interesting and i != len(operations) - 1:
            continue
        for keep_names in (False, True):
            n_images += 1
            image = tmp_path / f"{i}-{keep_names}"
            disk.write_image(image, keep_names)
            sweep = SweepDir(image / "count")
            if not sweep.has_plan() or (keep_names and not sweep.plan_file.stat().st_size):
                assert not (sweep.trials_dir.exists() and list(sweep.trials_dir.rglob("journal.jsonl"))), operation
                continue
            assert sweep.read_plan().trials == (trial,)
            folder = sweep.trial(trial)
            for attempt in folder.attempts():
                facts = attempt.facts()
                if facts.end is None:
                    continue
                n_ended += 1
                history = history_of(folder)
                steps = [(row["step"], row["metrics"]["loss"]) for row in history.metrics]
                assert steps == expected_history(1.0, 4), (i, operation)
                assert read_predictions(folder.predictions_file("validation", 4)) is not None, (i, operation)
            for manifest in checkpoints.manifests(folder):
                if manifest.stat().st_size:
                    checkpoints._load(manifest)
    assert n_ended >= 1
    assert n_images > 20
    final = tmp_path / "final"
    disk.write_image(final, keep_names=False)
    assert SweepDir(final / "count").trial(trial).attempt(1).facts().is_completed
