"""A site profile fills the keys of `launch:` that the spec does not give; in messages they keep their own places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlcluster.spec.document import E_KEY, E_VALUE, Document, KeyPath
from dlcluster.spec.loader import load_document

MERGED = ("env",)  # mappings of which the spec may give some names and the profile others


def apply_profile(document: Document, default: str | None, find: Callable[[str], Path]) -> None:
    """Fill `launch:` from the profile that `launch.profile` names, else from the default one, if there is one."""
    launch = document.data.setdefault("launch", {}) if default else document.data.get("launch")
    name = launch.get("profile", default) if isinstance(launch, dict) else None
    if not isinstance(name, str):
        return
    profile = load_document(find(str(name)))
    given = profile.data.get("launch") if isinstance(profile.data, dict) else None
    if not isinstance(given, dict):
        profile.add((), E_VALUE, "expected a profile with the one key launch:, a mapping")
        profile.stop_if_wrong()
    for key in [key for key in profile.data if key != "launch"]:
        profile.add((key,), E_KEY, "a profile holds launch: only", "move it to the spec", of_key=True)
    if "profile" in given:
        profile.add(("launch", "profile"), E_KEY, "a profile cannot name another", of_key=True)
    profile.stop_if_wrong()
    for key, value in given.items():
        if key not in launch:
            _take(document, profile, ("launch", key), launch, value)
        elif key in MERGED and isinstance(value, dict) and isinstance(launch[key], dict):
            for inner in value.keys() - launch[key].keys():
                _take(document, profile, ("launch", key, inner), launch[key], value[inner])


def _take(document: Document, profile: Document, path: KeyPath, into: dict[str, Any], value: Any) -> None:
    into[str(path[-1])] = value
    for ours, theirs in ((document.places, profile.places), (document.key_places, profile.key_places)):
        ours.update({known: place for known, place in theirs.items() if known[: len(path)] == path})
