"""TensorBoard's own reader finds in the event files what the journals say."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from dlcluster.event_files import EventWriter, distinct_tags
from dlcluster.results.aggregate import aggregate
from dlcluster.results.tensorboard import write_tensorboard

from .builder import Sweep, state_of


def read(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars(folder, tag):
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


@pytest.fixture
def sweep(tmp_path):
    sweep = Sweep(tmp_path / "lr", params=[{"lr": 0.1, "opt": "sgd\n<b>", "layers": [1, 2], "on": True}], seeds=(0, 1))
    first = sweep.attempt(0)
    for step in (1, 2, 3):
        first.log(step, **{"val_acc": step / 8, "loss|x": 1.0})
    first.end("interrupted", "deadline")
    second = sweep.attempt(0, 2)
    second.resume(2)
    second.log(3, val_acc=0.75, loss=math.nan)
    second.log(4, val_acc=0.875, loss=math.inf)
    second.end()
    return sweep


def test_scalars_are_one_history(sweep):
    written = write_tensorboard(sweep.dir)
    assert (written.n_written, str(written)) == (1, str(sweep.dir.trials_dir))
    folder = sweep.trial_dir(0).tensorboard
    assert scalars(folder, "val_acc") == [(1, 0.125), (2, 0.25), (3, 0.75), (4, 0.875)]
    assert scalars(folder, "loss_x") == [(1, 1.0), (2, 1.0)]
    (step, nan), infinite = scalars(folder, "loss")
    assert (step, infinite) == (3, (4, math.inf))
    assert math.isnan(nan)
    times = [event.wall_time for event in read(folder).Scalars("val_acc")]
    assert times == sorted(times)


def test_hparams_with_the_objective(sweep):
    write_tensorboard(sweep.dir)
    content = read(sweep.trial_dir(0).tensorboard).PluginTagToContent("hparams")
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    assert [info.name.tag for info in experiment.metric_infos] == ["val_acc"]
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert start.group_name == sweep.trials[0].id
    assert start.hparams["lr"].number_value == 0.1
    assert start.hparams["opt"].string_value == "sgd_<b>"
    assert start.hparams["layers"].string_value == "[1,2]"
    assert start.hparams["on"].bool_value is True
    assert start.hparams["seed"].number_value == 0
    assert metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG]).end_time_secs > 0


def test_twice_replaces(sweep, tmp_path):
    out = tmp_path / "out"
    write_tensorboard(sweep.dir, out=out)
    (file,) = (out / sweep.trials[0].id).iterdir()
    before = file.read_bytes()
    write_tensorboard(sweep.dir, out=out)
    assert list((out / sweep.trials[0].id).iterdir()) == [file]
    assert file.read_bytes() == before
    assert not sweep.trial_dir(0).tensorboard.exists()
    assert not (out / sweep.trials[1].id).exists()  # nothing logged: nothing to show


def test_event_files_of_the_training_are_left_alone(sweep):
    folder = sweep.trial_dir(0).tensorboard / "attempt-0001"
    writer = EventWriter(folder)
    writer.hparams({"lr": 0.1}, "val_acc")
    writer.scalars(1, {"val_acc": 0.5, "loss": None})
    writer.close()
    written = write_tensorboard(sweep.dir, aggregate(sweep.dir, state_of))
    assert (written.n_written, written.n_left_alone) == (0, 1)
    assert scalars(folder, "val_acc") == [(1, 0.5)]
    assert math.isnan(scalars(folder, "loss")[0][1])
    content = read(folder).PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    assert metadata.parse_session_start_info_plugin_data(content).group_name == sweep.trials[0].id


def test_a_live_file_can_be_read_before_it_is_closed(tmp_path):
    writer = EventWriter(tmp_path / "tb")
    writer.scalars(7, {"a b/c:d": 1.0, "a b/c_d": 2.0})
    assert scalars(tmp_path / "tb", "a b/c_d") == [(7, 1.0)]
    assert scalars(tmp_path / "tb", "a b/c_d_2") == [(7, 2.0)]
    writer.close()
    again = EventWriter(tmp_path / "tb")
    again.close()
    assert len(list((tmp_path / "tb").iterdir())) == 2


def test_tags_stay_distinct():
    assert distinct_tags(["a:b", "a_b", "a|b", "", "ä/x"]) == ["a_b", "a_b_2", "a_b_3", "_", "_/x"]


def test_neither_tensorflow_nor_torch_is_imported():
    code = (
        "import sys, warnings; warnings.simplefilter('error'); import dlcluster.event_files;"
        "print([m for m in ('tensorflow', 'torch', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
