"""The handle that training code gets."""

from __future__ import annotations

import math
import os
import random
import sys

import numpy as np
import pytest

from dlcluster.run_dir import TrialDir
from dlcluster.worker.run import Fenced, Lost, Stopped, seed_everything
from dlcluster.worker.shared_page import SharedPage
from tests.support import strict_json
from tests.worker.helpers import make_run, rows_of


def test_steps_count_by_themselves_and_can_be_given(tmp_path):
    run = make_run(tmp_path)
    run.log(loss=1.0)
    run.log({"loss": 0.5, "top 5": 0.1})
    run.log(loss=0.4, step=10)
    run.log(loss=0.3)
    run.log(loss=0.2, step=np.int64(12))
    assert [row["step"] for row in rows_of(run)] == [1, 2, 10, 11, 12]
    assert rows_of(run)[1]["metrics"] == {"loss": 0.5, "top 5": 0.1}


@pytest.mark.parametrize("step", [-1, 1.5, True, "3", math.nan])
def test_a_step_that_is_no_count_is_refused(tmp_path, step):
    run = make_run(tmp_path)
    with pytest.raises(ValueError, match="step must be an integer"):
        run.log(loss=1.0, step=step)
    assert rows_of(run) == []


@pytest.mark.parametrize("metrics", [{"loss": "low"}, {"": 1.0}, {3: 1.0}, {"loss": [1]}, {"loss": 1.0, "flag": True}])
def test_a_row_that_is_refused_leaves_no_trace(tmp_path, metrics):
    run = make_run(tmp_path)
    with pytest.raises((TypeError, ValueError), match="metric"):
        run.log(metrics)
    run.log(loss=1.0)
    assert [row["step"] for row in rows_of(run)] == [1]


def test_the_journal_is_strict_json_whatever_is_logged(tmp_path):
    run = make_run(tmp_path, on_nonfinite="record")
    run.log(loss=math.nan, a=math.inf, b=-math.inf, c=1e400, d=np.float32(1))
    (line,) = (run.dir / "attempts" / "0001" / "journal.jsonl").read_text().splitlines()
    row = strict_json(line)
    assert row["metrics"] == {"loss": None, "a": None, "b": None, "c": None, "d": 1.0}
    assert row["nonfinite"] == {"loss": "nan", "a": "inf", "b": "-inf", "c": "inf"}


@pytest.mark.parametrize(
    ("policy", "state", "reason"), [("fail", "failed", "diverged"), ("stop", "stopped", "diverged")]
)
def test_a_nonfinite_objective_ends_the_trial_after_it_is_recorded(tmp_path, policy, state, reason):
    run = make_run(tmp_path, on_nonfinite=policy)
    with pytest.raises(Stopped) as stopped:
        run.log(loss=math.nan)
    assert (stopped.value.state.value, stopped.value.reason) == (state, reason)
    assert "loss is nan at step 1" in stopped.value.message
    assert rows_of(run)[0]["nonfinite"] == {"loss": "nan"}


@pytest.mark.parametrize("name", ["loss", "train_loss", "Val_Loss"])
def test_every_loss_counts_as_divergence_and_another_metric_does_not(tmp_path, name):
    run = make_run(tmp_path, objective="accuracy")
    run.log(gradient_norm=math.inf)
    with pytest.raises(Stopped):
        run.log({name: math.inf})


def test_stopped_is_no_exception_that_a_training_loop_could_survive():
    assert not issubclass(Stopped, Exception)
    assert not issubclass(Fenced, Exception)


def test_the_first_log_after_a_request_returns_and_the_second_does_not(tmp_path):
    stop = SharedPage()
    run = make_run(tmp_path, stop=stop)
    run.log(loss=1.0)
    stop.set()
    run.log(loss=0.5)
    with pytest.raises(Stopped) as stopped:
        run.log(loss=0.25)
    assert stopped.value.state.value == "interrupted"
    assert len(rows_of(run)) == 3


def test_a_save_after_a_request_stores_this_very_step_and_ends(tmp_path):
    stop = SharedPage()
    run = make_run(tmp_path, stop=stop)
    stop.set()
    run.log(loss=1.0)
    with pytest.raises(Stopped):
        run.save({"step": 1})
    assert rows_of(run, "checkpoint")[0]["step"] == 1


def test_a_return_counts_as_interrupted_only_if_the_code_has_seen_the_request(tmp_path):
    stop = SharedPage()
    run = make_run(tmp_path, stop=stop)
    stop.set()
    assert not run.was_asked_to_stop()
    assert run.should_stop()
    assert run.was_asked_to_stop()


@pytest.mark.parametrize("method", ["log", "save", "resume", "predictions"])
def test_a_forked_process_may_not_use_the_run(tmp_path, method):
    run = make_run(tmp_path)
    pid = os.fork()
    if pid == 0:
        try:
            arguments = {"save": ({},), "predictions": ("validation", [1])}.get(method, ())
            getattr(run, method)(*arguments)
            code = 1
        except RuntimeError as error:
            code = 0 if f"run.{method}: called in a forked process" in str(error) else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert rows_of(run) == []


def test_resume_goes_on_from_the_newest_checkpoint_and_says_so(tmp_path):
    first = make_run(tmp_path)
    assert first.resume() is None
    for step in range(1, 5):
        first.log(loss=1 / step)
    first.save({"weights": [1, 2]}, epoch=2)
    second = make_run(tmp_path, attempt=2)
    state = second.resume()
    assert state == {"weights": [1, 2]}
    assert (state.epoch, state.step) == (2, 4)
    second.log(loss=0.2)
    resume, metrics = rows_of(second)
    assert (resume["kind"], resume["step"], metrics["step"]) == ("resume", 4, 5)


def test_a_second_attempt_without_a_checkpoint_says_that_it_begins_anew(tmp_path):
    make_run(tmp_path)
    second = make_run(tmp_path, attempt=2)
    assert second.resume() is None
    assert [(row["kind"], row["step"]) for row in rows_of(second)] == [("resume", 0)]


@pytest.mark.parametrize("epoch", [-1, 1.0, "2", None, True])
def test_an_epoch_that_is_no_count_is_refused(tmp_path, epoch):
    with pytest.raises(ValueError, match="epoch must be an integer"):
        make_run(tmp_path).save({}, epoch=epoch)


@pytest.mark.parametrize("method", ["save", "predictions"])
def test_an_attempt_that_has_been_taken_over_writes_nothing_more(tmp_path, method):
    run = make_run(tmp_path)
    run.log(loss=1.0)
    TrialDir(run.dir).attempt(2).path.mkdir()
    before = sorted(run.dir.rglob("*"))
    with pytest.raises(Fenced):
        run.save({"a": 1}) if method == "save" else run.predictions("validation", [1], correct=[1])
    assert sorted(run.dir.rglob("*")) == before
    assert len(rows_of(run)) == 1


def load_predictions(run):
    (file,) = (run.dir / "predictions").iterdir()
    with np.load(file, allow_pickle=False) as arrays:
        return file.name, dict(arrays)


def test_predictions_are_sorted_by_item_and_compact(tmp_path):
    run = make_run(tmp_path)
    run.log(loss=1.0, step=30)
    run.predictions("validation", [30, 10, 20], correct=[1, 0, True])
    name, arrays = load_predictions(run)
    assert name == "validation-00000030.npz"
    assert arrays["ids"].tolist() == [10, 20, 30]
    assert arrays["correct"].tolist() == [False, True, True]
    assert (arrays["ids"].dtype, arrays["correct"].dtype) == (np.uint8, bool)
    assert run.written == [str(run.dir / "predictions" / name)]


def test_predictions_take_scores_text_ids_and_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    run = make_run(tmp_path)
    run.predictions("train", ["b", "ä"], scores=torch.tensor([0.5, 1.5], requires_grad=True))
    _name, arrays = load_predictions(run)
    assert arrays["ids"].tolist() == ["b", "ä"]
    assert arrays["scores"].tolist() == [0.5, 1.5]
    assert arrays["scores"].dtype == np.float32


@pytest.mark.parametrize(
    ("split", "ids", "values", "expected"),
    [
        ("test", [1], {"correct": [1]}, "stay sealed"),
        ("valid", [1], {"correct": [1]}, "'train' or 'validation'"),
        ("validation", [1], {}, "either correct"),
        ("validation", [1], {"correct": [1], "scores": [1]}, "either correct"),
        ("validation", [1, 2], {"correct": [1]}, "one shape"),
        ("validation", [[1], [2]], {"correct": [[1], [0]]}, "one shape"),
        ("validation", [1, 1], {"correct": [1, 0]}, "distinct"),
        ("validation", [1.5, 2.5], {"correct": [1, 0]}, "integers or text"),
        ("validation", [None, {}], {"correct": [1, 0]}, "integers or text"),
        ("validation", [True, False], {"correct": [1, 0]}, "integers or text"),
        ("validation", [1, 2], {"correct": [0.5, 1]}, "0 and 1"),
    ],
)
def test_predictions_that_nobody_could_use_are_refused(tmp_path, split, ids, values, expected):
    run = make_run(tmp_path)
    with pytest.raises(ValueError, match=expected):
        run.predictions(split, ids, **values)
    assert not list(run.dir.rglob("*.npz"))


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_seed_fixes_python_numpy_and_torch(seed):
    torch = pytest.importorskip("torch")

    def draws():
        seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draws() == draws()
    assert draws() != (seed_everything(seed + 1 if seed < 9 else 0), random.random())


def test_seeding_imports_nothing(monkeypatch):
    monkeypatch.delitem(sys.modules, "numpy")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    seed_everything(3)
    assert "numpy" not in sys.modules
    assert "torch" not in sys.modules


# -- power cuts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch, tmp_path):
    """What has been made durable, in order, as paths below the folder of the test."""
    paths, fsync = [], os.fsync

    def note(fd):
        fsync(fd)
        paths.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))

    monkeypatch.setattr(os, "fsync", note)
    return paths


FOLDERS = ["trial/attempts/0001", "trial/attempts", "trial", "."]
JOURNAL = "trial/attempts/0001/journal.jsonl"


def test_a_short_trial_that_saves_nothing_waits_for_no_disk(tmp_path, synced):
    run = make_run(tmp_path)
    for _ in range(100):
        run.log(loss=1.0)
    run.predictions("validation", [1], correct=[1])
    assert synced == []


def test_the_first_time_the_journal_is_made_durable_so_are_the_names_on_the_way_to_it(tmp_path, synced, monkeypatch):
    monkeypatch.setattr("dlcluster.worker.run.SECONDS_BETWEEN_SYNCS", -1.0)
    run = make_run(tmp_path)
    run.log(loss=1.0)
    assert synced == [JOURNAL, *FOLDERS]
    run.log(loss=1.0)
    assert synced[5:] == [JOURNAL]


def test_a_folder_that_has_gone_before_it_was_durable_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("dlcluster.worker.run.SECONDS_BETWEEN_SYNCS", -1.0)
    run = make_run(tmp_path)
    (tmp_path / "trial").rename(tmp_path / "moved")
    with pytest.raises(Lost):
        run.log(loss=1.0)


def test_what_came_before_a_checkpoint_is_durable_before_its_manifest(tmp_path, synced):
    run = make_run(tmp_path)
    run.log(loss=1.0)
    run.predictions("validation", [1], correct=[1])
    run.save({"x": 1})
    file = "trial/predictions/validation-00000001.npz"
    first = [JOURNAL, *FOLDERS, file, "trial/predictions", "trial", "trial"]
    assert synced[: len(first)] == first
    assert all(path.startswith("trial/checkpoints") for path in synced[len(first) :])
    del synced[:]
    run.save({"x": 2})
    assert synced[0] == JOURNAL
    assert all(path.startswith("trial/checkpoints") for path in synced[1:])
