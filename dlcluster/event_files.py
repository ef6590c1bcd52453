"""TensorBoard's event files: as bytes of a finished history, or appended to while training runs.

Written with TensorBoard's own protocol buffers, without TensorFlow and without torch.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.summary.writer.record_writer import RecordWriter

from dlcluster.files import AppendFile, make_dir
from dlcluster.trial import canonical_json

FILE_VERSION = "brain.Event:2"
BAD_TAG_CHARACTERS = re.compile(r"[^\w ./-]", re.ASCII)

Scalars = tuple[int, float, Mapping[str, float]]  # step, wall time (seconds since 1970), values by tag


def tag_of(name: str) -> str:
    """The name with everything but ASCII letters, digits, `_`, space, `.`, `/` and `-` replaced."""
    return BAD_TAG_CHARACTERS.sub("_", name).strip("/ ") or "_"


def distinct_tags(names: Iterable[str]) -> list[str]:
    """A tag for each name; names that would become the same get a number."""
    tags: list[str] = []
    for name in names:
        tag, n = tag_of(name), 2
        while tag in tags:
            tag, n = f"{tag_of(name)}_{n}", n + 1
        tags.append(tag)
    return tags


def event_file(name: str, params: Mapping[str, Any], objective: str, rows: Sequence[Scalars]) -> bytes:
    """A whole file, of at least one row: equal arguments, equal bytes."""
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    first, last = rows[0][1], rows[-1][1]
    writer.write(Event(wall_time=first, file_version=FILE_VERSION).SerializeToString())
    for summary in [*_session_start(name, params, objective, first), _session_end(last)]:
        writer.write(Event(wall_time=first, summary=summary).SerializeToString())
    for row in rows:
        writer.write(_scalars(*row))
    return buffer.getvalue()


class EventWriter:
    """Appends events while training runs: a new file in the folder, and one `write()` an event."""

    def __init__(self, folder: Path) -> None:
        make_dir(folder)
        name = (
            f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        )
        self._name = folder.parent.parent.name
        self._file = AppendFile(folder / name)
        self._records = RecordWriter(self._file)
        self._records.write(Event(wall_time=time.time(), file_version=FILE_VERSION).SerializeToString())

    def hparams(self, params: Mapping[str, Any], objective: str) -> None:
        """The parameters of this trial, and the metric that the HParams tab shows beside them."""
        now = time.time()
        for summary in _session_start(self._name, params, objective, now):
            self._records.write(Event(wall_time=now, summary=summary).SerializeToString())

    def scalars(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """The metrics of one step; None is shown as NaN."""
        values = (nan if value is None else float(value) for value in metrics.values())
        self._records.write(_scalars(step, time.time(), dict(zip(distinct_tags(metrics), values, strict=True))))

    def close(self) -> None:
        self._file.close()


def _scalars(step: int, wall_time: float, values: Mapping[str, float]) -> bytes:
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    return Event(wall_time=wall_time, step=step, summary=summary).SerializeToString()


def _session_start(name: str, params: Mapping[str, Any], objective: str, seconds: float) -> list[Summary]:
    """What the HParams plugin wants first: the experiment, and the parameters of this session."""
    values = dict(zip(distinct_tags(params), map(_hparam, params.values()), strict=True))
    metrics = [summary_v2.Metric(tag_of(objective))] if objective else []
    hparams = [summary_v2.HParam(key) for key in values]
    return [
        summary_v2.hparams_config_pb(hparams=hparams, metrics=metrics, time_created_secs=seconds),
        summary_v2.hparams_pb(values, trial_id=name, start_time_secs=seconds),
    ]


def _session_end(seconds: float) -> Summary:
    info = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=seconds)
    data = plugin_data_pb2.HParamsPluginData(session_end_info=info)
    value = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(data),
        tensor=metadata.NULL_TENSOR,
    )
    return Summary(value=[value])


def _hparam(value: Any) -> bool | float | str:
    """Numbers and booleans as they are, text of printable characters, anything else as JSON."""
    if isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else canonical_json(value)
    return "".join(c if c.isprintable() else "_" for c in text)
