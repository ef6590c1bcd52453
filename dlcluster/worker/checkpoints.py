"""Checkpoints that verify: a file and a manifest with its size and SHA-256, the manifest written last.

The manifest is named for the step. The file that it names is new with every save, so that a second save of a step that
is killed half-way leaves the first as it was.

Written by torch when the job has imported torch, else as JSON. What does not verify is moved aside and never loaded.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dlcluster.files import (
    file_sha256,
    make_dir_exclusively,
    read_json,
    replace_when_done,
    sync_dir,
    write_json,
    write_text,
)
from dlcluster.run_dir import TrialDir
from dlcluster.trial import content_id

KEEP = 2
MANIFEST = re.compile(r"step-\d+\.json")
DATA = re.compile(r"(?P<step>step-\d+)(?:\.(?P<attempt>\d+)-[0-9a-f]{8})?\.(?:pt|state\.json)")
FIELDS = {"file": str, "step": int, "epoch": int, "attempt": int, "bytes": int, "sha256": str}


class Checkpoint(dict[str, Any]):
    """What was saved, as a mapping, with the `epoch` and the `step` at which it was."""

    def __init__(self, state: Mapping[str, Any], epoch: int, step: int) -> None:
        super().__init__(state)
        self.epoch, self.step = epoch, step


class Unusable(Exception):
    """A checkpoint that cannot be trusted."""


def save(
    trial: TrialDir, state: Mapping[str, Any], *, epoch: int, step: int, attempt: int, check: bool = False
) -> dict[str, Any]:
    """Write a checkpoint and its manifest durably, then drop all but the newest two. Returns the manifest.

    With `check` it is read back first. Raises TypeError for a state that could not be loaded again.
    """
    if make_dir_exclusively(trial.checkpoints):  # and no folder above it: a trial that is gone stays gone
        sync_dir(trial.path)
    torch = sys.modules.get("torch")
    unique = f".{attempt}-{secrets.token_hex(4)}"
    file = trial.checkpoint_file(step, unique + (".pt" if torch else ".state.json"))
    if torch:
        with replace_when_done(file) as scratch:
            torch.save(dict(state), scratch)
            if check:
                check_loadable(scratch)
    else:
        write_text(file, as_json(dict(state)))
    manifest = {
        "file": file.name,
        "step": step,
        "epoch": epoch,
        "attempt": attempt,
        "bytes": file.stat().st_size,
        "sha256": file_sha256(file),
    }
    write_json(trial.checkpoint_file(step, ".json"), sealed(manifest))
    sound = [path for path in manifests(trial) if read_manifest(path)]
    for old in sound[KEEP:]:
        drop(old)
    _remove_leftovers(trial, attempt)
    return manifest


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """With a hash of itself: an epoch or a step that has changed would not be noticed otherwise."""
    return {**manifest, "self": content_id(manifest)}


def as_json(state: Any) -> str:
    """Strict JSON. Raises TypeError for what would come back as something else, or not at all."""
    _refuse_odd_keys(state, "state")
    try:
        return json.dumps(state, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"run.save: without torch a checkpoint is JSON, and this cannot be stored: {error}") from error


def _refuse_odd_keys(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise TypeError(f"run.save: {place} has the key {key!r}, which would come back as text")
            _refuse_odd_keys(part, f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            _refuse_odd_keys(part, f"{place}[{i}]")


def manifests(trial: TrialDir) -> list[Path]:
    """Newest first: by attempt, then by step, damaged ones before all others.

    A checkpoint without a manifest was never finished and does not exist. A later attempt that began anew, at a lower
    step, is newer than what an earlier one has left.
    """
    try:
        found = [path for path in trial.checkpoints.iterdir() if MANIFEST.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    return sorted(found, key=_age, reverse=True)


def _age(manifest: Path) -> tuple[float, int]:
    row = read_manifest(manifest)
    return (row["attempt"], row["step"]) if row else (math.inf, 0)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """What a manifest says, or None if it does not say all that it has to."""
    row = read_json(path)
    if not isinstance(row, dict) or any(type(row.get(name)) is not kind for name, kind in FIELDS.items()):
        return None
    content = {name: value for name, value in row.items() if name != "self"}
    return row if row.get("self") == content_id(content) else None


def drop(manifest: Path) -> None:
    """The manifest goes first: what is left of a checkpoint that is half gone is a file that nobody looks at."""
    row = read_json(manifest)
    manifest.unlink(missing_ok=True)
    if isinstance(row, dict) and isinstance(row.get("file"), str):
        (manifest.parent / Path(row["file"]).name).unlink(missing_ok=True)


def _remove_leftovers(trial: TrialDir, attempt: int) -> None:
    """Files of checkpoints that have been replaced, or were never finished; those of a later attempt are not ours.

    What may belong to a damaged manifest stays until somebody wants to load that, and moves both aside.
    """
    rows = {path.stem: read_manifest(path) for path in manifests(trial)}
    in_use = {row["file"] for row in rows.values() if row}
    damaged = {step for step, row in rows.items() if row is None}
    for file in list(trial.checkpoints.iterdir()):
        name = DATA.fullmatch(file.name)
        if name and file.name not in in_use and name["step"] not in damaged and int(name["attempt"] or 0) <= attempt:
            file.unlink(missing_ok=True)


def load_newest(trial: TrialDir, note: Callable[[str], None]) -> tuple[Checkpoint, str] | None:
    """The newest checkpoint that verifies, with its file's name; damaged ones are moved aside and noted."""
    for manifest in manifests(trial):
        try:
            return _load(manifest)
        except Unusable as problem:
            aside = _set_aside(manifest)
            note(f"checkpoint {manifest.name}: {problem}; moved to {aside}")
    return None


def load_of_earlier_attempt(trial: TrialDir, attempt: int) -> Checkpoint | None:
    """The newest checkpoint that verifies, of those from before this attempt; it changes nothing.

    For the other ranks of a trial, which may look after rank 0 has set a damaged one aside or has saved another. Raises
    RuntimeError for a rank that is so late that rank 0 has already dropped what it went on from itself.
    """
    is_late = False
    for manifest in manifests(trial):
        row = read_manifest(manifest)
        if row and row["attempt"] >= attempt:
            is_late = True
            continue
        try:
            return _load(manifest)[0]
        except Unusable:
            continue
    if is_late and attempt > 1:
        raise RuntimeError("run.resume: rank 0 has saved again before this rank asked; call it before the training")
    return None


def _load(manifest: Path) -> tuple[Checkpoint, str]:
    row = read_manifest(manifest)
    if row is None:
        raise Unusable("damaged manifest")
    file = manifest.parent / Path(row["file"]).name
    try:
        if file.stat().st_size != row["bytes"]:
            raise Unusable(f"{file.stat().st_size} bytes instead of {row['bytes']}")
        if file_sha256(file) != row["sha256"]:
            raise Unusable("its SHA-256 differs from the manifest's")
    except FileNotFoundError:
        raise Unusable("its file is missing") from None
    return Checkpoint(_state_in(file), row["epoch"], row["step"]), file.name


def _state_in(file: Path) -> Mapping[str, Any]:
    """Raises Unusable if the bytes are those that were written, and yet no checkpoint."""
    try:
        state = json.loads(file.read_text()) if file.suffix == ".json" else _read_with_torch(file)
    except (OSError, MemoryError, OldTorch):
        raise  # says nothing about the checkpoint
    except Exception as error:
        raise Unusable(f"it cannot be read: {first_line_of(error)}") from error
    if not isinstance(state, Mapping):
        raise Unusable(f"it holds no mapping but {type(state).__name__}")
    return state


def first_line_of(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class OldTorch(RuntimeError):
    """This torch cannot read checkpoints safely."""


def _read_with_torch(file: Path) -> Any:
    import torch

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < (2, 6):  # CVE-2025-32434: before 2.6 weights_only=True could be made to run code
        raise OldTorch(f"torch {torch.__version__} cannot read checkpoints safely; install torch >= 2.6")
    return torch.load(file, map_location="cpu", weights_only=True)


def check_loadable(file: Path) -> None:
    """Raise TypeError if a checkpoint just written could not be read back (say, it holds objects of a class)."""
    try:
        _read_with_torch(file)
    except Exception as error:
        raise TypeError(
            "run.save: only tensors, numbers, text, lists and dicts can be saved (state_dict() of a model, "
            f"get_state() of a generator); reading the checkpoint back failed: {first_line_of(error)}"
        ) from error


def _set_aside(manifest: Path) -> str:
    """Rename the manifest and its file to `*.corrupt-N`, which no reader takes for a checkpoint. Returns N's name."""
    row = read_manifest(manifest)
    if row:
        files = [manifest.with_name(Path(row["file"]).name)]
    else:
        found = [(path, DATA.fullmatch(path.name)) for path in manifest.parent.iterdir()]
        files = [path for path, name in found if name and name["step"] == manifest.stem]
    n = 1
    while manifest.with_name(f"{manifest.name}.corrupt-{n}").exists():
        n += 1
    for path in (*files, manifest):
        with contextlib.suppress(FileNotFoundError):
            path.rename(path.with_name(f"{path.name}.corrupt-{n}"))
    return f"{manifest.name}.corrupt-{n}"
