from __future__ import annotations

from pathlib import Path

import pytest

from dlcluster.errors import SpecError
from dlcluster.spec.schema import load_spec

HEAD = "name: t\njob: jobs.digits\nobjective: {metric: val_accuracy, goal: maximize}\n"
RANDOM = "sampler: {kind: random, trials: 4}\n"


@pytest.fixture
def write(tmp_path):
    """Write a spec; text or bytes."""

    def write_spec(content: str | bytes, name: str = "sweep.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_spec


@pytest.fixture
def load(write):
    """Load a spec of which only the interesting part is given."""

    def load_text(body: str, overrides=(), head: str = HEAD, **options):
        return load_spec(write(head + body), overrides, **options)

    return load_text


@pytest.fixture
def errors_of(load):
    """What is printed for a spec that is wrong."""

    def text(body: str, *args, **kwargs) -> str:
        with pytest.raises(SpecError) as caught:
            load(body, *args, **kwargs)
        return str(caught.value)

    return text
