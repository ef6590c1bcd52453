"""Checkpoints that verify: a file and a manifest with its size and SHA-256, the manifest written last.

Written by torch when the job has imported torch, else as JSON. What does not verify is moved aside and never loaded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dlcluster.files import file_sha256, make_dir, read_json, replace_when_done, write_json, write_text
from dlcluster.run_dir import TrialDir

KEEP = 2


class Checkpoint(dict[str, Any]):
    """What was saved, as a mapping, with the `epoch` and the `step` at which it was."""

    def __init__(self, state: Mapping[str, Any], epoch: int, step: int) -> None:
        super().__init__(state)
        self.epoch, self.step = epoch, step


def save(trial: TrialDir, state: Mapping[str, Any], *, epoch: int, step: int, attempt: int) -> dict[str, Any]:
    """Write a checkpoint and its manifest durably, then drop all but the newest two. Returns the manifest."""
    make_dir(trial.checkpoints)
    torch = sys.modules.get("torch")
    file = trial.checkpoint_file(step, ".pt" if torch else ".state.json")
    if torch:
        with replace_when_done(file) as scratch:
            torch.save(dict(state), scratch)
    else:
        write_text(file, json.dumps(dict(state), allow_nan=False))
    manifest = {
        "file": file.name,
        "step": step,
        "epoch": epoch,
        "attempt": attempt,
        "bytes": file.stat().st_size,
        "sha256": file_sha256(file),
    }
    write_json(trial.checkpoint_file(step, ".json"), manifest)
    for old in manifests(trial)[KEEP:]:
        drop(old)
    return manifest


def manifests(trial: TrialDir) -> list[Path]:
    """Newest first. A checkpoint without a manifest was never finished and does not exist."""
    try:
        names = [path for path in trial.checkpoints.iterdir() if path.suffix == ".json"]
    except FileNotFoundError:
        return []
    return sorted((p for p in names if not p.name.startswith(".") and not p.stem.endswith(".state")), reverse=True)


def drop(manifest: Path) -> None:
    """The manifest goes first: what is left of a checkpoint that is half gone is a file that nobody looks at."""
    row = read_json(manifest)
    manifest.unlink(missing_ok=True)
    if isinstance(row, dict) and isinstance(row.get("file"), str):
        (manifest.parent / Path(row["file"]).name).unlink(missing_ok=True)


def load_newest(trial: TrialDir, note: Callable[[str], None]) -> tuple[Checkpoint, str] | None:
    """The newest checkpoint that verifies, with its file's name; damaged ones are moved aside and noted."""
    for manifest in manifests(trial):
        try:
            return _load(manifest)
        except Unusable as problem:
            aside = _set_aside(manifest)
            note(f"checkpoint {manifest.name}: {problem}; moved to {aside}")
    return None


class Unusable(Exception):
    """A checkpoint that cannot be trusted."""


def _load(manifest: Path) -> tuple[Checkpoint, str]:
    row = read_json(manifest)
    if not isinstance(row, dict) or not isinstance(row.get("file"), str):
        raise Unusable("damaged manifest")
    file = manifest.parent / Path(row["file"]).name
    try:
        if file.stat().st_size != row["bytes"]:
            raise Unusable(f"{file.stat().st_size} bytes instead of {row['bytes']}")
        if file_sha256(file) != row["sha256"]:
            raise Unusable("its SHA-256 differs from the manifest's")
    except FileNotFoundError:
        raise Unusable("its file is missing") from None
    return Checkpoint(_read_state(file), row["epoch"], row["step"]), file.name


def _read_state(file: Path) -> Mapping[str, Any]:
    if file.suffix == ".json":
        return json.loads(file.read_text())
    import torch

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < (2, 6):  # CVE-2025-32434: before 2.6 weights_only=True could be made to run code
        raise RuntimeError(f"torch {torch.__version__} cannot read checkpoints safely; install torch >= 2.6")
    return torch.load(file, map_location="cpu", weights_only=True)


def check_loadable(file: Path) -> None:
    """Raise TypeError if a checkpoint just written could not be read back (say, it holds objects of a class)."""
    try:
        _read_state(file)
    except Exception as error:
        raise TypeError(
            "run.save: only tensors, numbers, text, lists and dicts can be saved (state_dict() of a model, "
            f"get_state() of a generator); reading the checkpoint back failed: {str(error).splitlines()[0]}"
        ) from error


def _set_aside(manifest: Path) -> str:
    row = read_json(manifest)
    n = 1
    while (aside := manifest.with_name(f"{manifest.stem}.corrupt-{n}")).exists():
        n += 1
    name = row.get("file") if isinstance(row, dict) else None
    for path in (manifest, manifest.parent / Path(name).name if isinstance(name, str) else manifest):
        if path.exists():
            path.rename(aside if path == manifest else aside.with_suffix(aside.suffix + "".join(path.suffixes[-1:])))
    return aside.name
