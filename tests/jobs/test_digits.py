"""The first job: it learns, never looks at the test images, and survives interruptions without a trace."""

import copy
import io
import math

import numpy as np
import pytest
import torch

from dlcluster import Stopped
from jobs import digits


class Checkpoint(dict):
    def __init__(self, state, epoch):
        super().__init__(state)
        self.epoch = epoch


class FakeRun:
    """What `train` needs of a run; checkpoints go through torch.save and weights_only, as in the real one."""

    def __init__(self, seed=0, checkpoint=None, stop_at_epoch=None):
        self.seed, self.checkpoint, self.stop_at_epoch = seed, checkpoint, stop_at_epoch
        self.rows, self.stored, self.checkpoints = [], [], {}

    def resume(self):
        return self.checkpoint

    def log(self, **metrics):
        self.rows.append({name: float(value) for name, value in metrics.items()})
        if metrics["epoch"] == self.stop_at_epoch:
            raise Stopped("interrupted", "stop_requested", 75)

    def should_stop(self):
        return False

    def save(self, state, *, epoch):
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        self.checkpoints[epoch] = Checkpoint(torch.load(buffer, map_location="cpu", weights_only=True), epoch)

    def predictions(self, split, ids, *, correct):
        self.stored.append((split, np.asarray(ids), correct.cpu().numpy()))


def trained(seed=0, checkpoint=None, **params):
    run = FakeRun(seed, checkpoint)
    digits.train(run, **{"save_every": 1, **params})
    return run


def same_bits(left, right):
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.numpy().tobytes() == right.numpy().tobytes()
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_bits(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same_bits, left, right))
    return left == right


@pytest.fixture(autouse=True)
def on_one_cpu_thread(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    torch.set_num_threads(threads)


def test_a_good_learning_rate_reads_more_than_nine_of_ten():
    rows = trained(lr=0.1).rows
    assert rows[-1]["val_accuracy"] > 0.94
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert [row["epoch"] for row in rows] == list(range(1, 16))
    assert set(rows[0]) == {"epoch", "train_loss", "val_loss", "val_accuracy"}


@pytest.mark.parametrize("lr", [1e-4, 3.0])
def test_both_ends_of_the_sweep_are_bad(lr):
    assert trained(lr=lr).rows[-1]["val_accuracy"] < 0.7


def test_adam_learns_too():
    assert trained(lr=0.003, optimizer="adam", epochs=8).rows[-1]["val_accuracy"] > 0.9


@pytest.mark.parametrize("change", [{"hidden": 32}, {"batch_size": 50}, {"momentum": 0.5}, {"weight_decay": 0.1}])
def test_every_parameter_counts(change):
    assert trained(epochs=2, **change).rows != trained(epochs=2).rows


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="'sgd' or 'adam', got 'sdg'"):
        trained(optimizer="sdg")


def test_the_split_is_disjoint_complete_and_fixed():
    parts = [digits.TRAIN, digits.VALIDATION, digits.TEST]
    assert [len(part) for part in parts] == [1077, 360, 360]
    assert sorted(np.concatenate(parts)) == list(range(len(digits.LABELS)))
    assert digits.TRAIN[:4].tolist() == [1186, 861, 1169, 1272] and digits.TEST[:4].tolist() == [1026, 476, 895, 1214]
    for part in parts:  # no digit is rare anywhere
        assert np.bincount(digits.LABELS[part], minlength=10).min() >= 0.06 * len(part)


def test_the_split_does_not_depend_on_the_seed():
    stored = [trained(seed, epochs=1).stored[0] for seed in (0, 1)]
    assert (stored[0][1] == stored[1][1]).all() and (stored[0][1] == digits.VALIDATION).all()


def test_test_images_are_never_read(monkeypatch):
    before = trained(epochs=2)
    pixels, labels = digits.PIXELS.copy(), digits.LABELS.copy()
    pixels[digits.TEST], labels[digits.TEST] = np.nan, -1000
    monkeypatch.setattr(digits, "PIXELS", pixels)
    monkeypatch.setattr(digits, "LABELS", labels)
    assert trained(epochs=2).rows == before.rows


def test_validation_images_change_no_weight(monkeypatch):
    before = trained(epochs=2)
    pixels = digits.PIXELS.copy()
    pixels[digits.VALIDATION] = 0
    monkeypatch.setattr(digits, "PIXELS", pixels)
    after = trained(epochs=2)
    assert same_bits(after.checkpoints[2], before.checkpoints[2])
    assert after.rows[-1]["val_loss"] != before.rows[-1]["val_loss"]


def test_predictions_are_those_of_the_last_epoch_and_agree_with_the_accuracy():
    run = trained(epochs=3)
    ((split, ids, correct),) = run.stored
    assert split == "validation" and len(set(ids.tolist())) == 360 and correct.dtype == bool
    assert correct.mean() == pytest.approx(run.rows[-1]["val_accuracy"])


def test_same_seed_same_numbers_other_seed_others():
    first, again, other = trained(3, epochs=2), trained(3, epochs=2), trained(4, epochs=2)
    assert first.rows == again.rows and same_bits(first.checkpoints[2], again.checkpoints[2])
    assert first.rows != other.rows


@pytest.mark.parametrize("params", [{}, {"optimizer": "adam", "lr": 0.003}, {"weight_decay": 0.1, "batch_size": 50}])
def test_an_interrupted_trial_ends_with_the_very_same_numbers(params):
    whole = trained(epochs=5, **params)
    for epoch in range(1, 5):
        torch.manual_seed(999)  # a new process: nothing but the checkpoint is known
        rest = trained(checkpoint=copy.deepcopy(whole.checkpoints[epoch]), epochs=5, **params)
        assert rest.rows == whole.rows[epoch:]
        assert same_bits(rest.checkpoints[5], whole.checkpoints[5])
        assert (rest.stored[0][2] == whole.stored[0][2]).all()


def test_a_finished_trial_does_nothing_more():
    whole = trained(epochs=2)
    assert trained(checkpoint=whole.checkpoints[2], epochs=2).rows == []


def test_the_request_to_stop_passes_through():
    run = FakeRun(stop_at_epoch=2)
    with pytest.raises(Stopped):
        digits.train(run, epochs=5, save_every=1)
    assert len(run.rows) == 2 and list(run.checkpoints) == [1]


def test_too_large_steps_show_as_numbers_not_as_a_crash():
    rows = trained(lr=1e6, epochs=1).rows
    assert not math.isfinite(rows[0]["val_loss"]) or rows[0]["val_loss"] > 2


def test_importing_the_job_computes_nothing_in_torch():
    """A worker forks after the import: a thread pool started there would be broken in every trial."""
    assert isinstance(digits.PIXELS, np.ndarray) and digits.PIXELS.dtype == np.float32
    assert digits.PIXELS.min() >= 0 and digits.PIXELS.max() == 1
    assert not any(isinstance(value, torch.Tensor) for value in vars(digits).values())
