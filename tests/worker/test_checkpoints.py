"""Checkpoints that verify (P16): what is damaged is moved aside, and what cannot come back is refused."""

from __future__ import annotations

import json
import os
import random
import sys

import pytest

from dlcluster.files import file_sha256
from dlcluster.run_dir import TrialDir
from dlcluster.worker import checkpoints
from tests.support import check_files


@pytest.fixture
def trial(tmp_path):
    (tmp_path / "trial").mkdir()
    return TrialDir(tmp_path / "trial")


@pytest.fixture(params=["json", "torch"])
def variant(request, monkeypatch):
    if request.param == "json":
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    else:
        pytest.importorskip("torch")
    return request.param


def save(trial, step, attempt=1, **state):
    return checkpoints.save(trial, {"step": step, **state}, epoch=step // 2, step=step, attempt=attempt, check=True)


def load(trial):
    notes = []
    found = checkpoints.load_newest(trial, notes.append)
    return (found[0], notes) if found else (None, notes)


def names(trial):
    return sorted(path.name for path in trial.checkpoints.iterdir())


def test_a_trial_that_is_gone_is_not_made_anew(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoints.save(TrialDir(tmp_path / "gone"), {"x": 1}, epoch=1, step=1, attempt=1)
    assert list(tmp_path.iterdir()) == []


def test_the_newest_comes_back(trial, variant):
    save(trial, 2)
    save(trial, 4, rates=[0.1, 1e-9], name="größe", none=None)
    state, notes = load(trial)
    assert state == {"step": 4, "rates": [0.1, 1e-9], "name": "größe", "none": None}
    assert (state.step, state.epoch, notes) == (4, 2, [])
    check_files(trial.path)


def test_two_are_kept(trial, variant):
    for step in range(1, 8):
        save(trial, step)
    assert names(trial) == sorted(
        p.name for n in (6, 7) for p in (trial.checkpoint_file(n, ".json"), data_file(trial, n))
    )


def test_steps_are_compared_as_numbers(trial, variant):
    for step in (99_999_999, 100_000_000, 100_000_001, 1_000_000_000):
        save(trial, step)
    assert load(trial)[0]["step"] == 1_000_000_000
    assert [path.name for path in checkpoints.manifests(trial)] == ["step-1000000000.json", "step-100000001.json"]


def test_what_a_later_attempt_has_saved_is_newer_whatever_its_step(trial, variant):
    save(trial, 4)
    save(trial, 6)
    save(trial, 2, attempt=2)
    assert load(trial)[0]["step"] == 2


def test_the_same_step_again_replaces(trial, variant):
    save(trial, 2, value=1)
    save(trial, 2, value=2)
    assert load(trial)[0]["value"] == 2
    assert len(names(trial)) == 2


class Killed(BaseException):
    pass


def save_and_die_before_the_manifest(trial, step, attempt=1):
    def die(*_arguments):
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoints, "write_json", die)
        save(trial, step, attempt, value="new")


@pytest.mark.parametrize(("step", "attempt"), [(0, 1), (4, 1), (4, 2), (6, 1)])
def test_a_save_that_is_killed_before_its_manifest_costs_nothing(trial, variant, step, attempt):
    save(trial, step if step < 4 else 4, value="old")
    before = names(trial)
    save_and_die_before_the_manifest(trial, step, attempt)
    assert len(names(trial)) == len(before) + 1
    state, notes = load(trial)
    assert (state["value"], notes) == ("old", [])
    save(trial, 8, attempt, value="next")
    assert {path.stem for path in checkpoints.manifests(trial)} == {before[-1][:13], "step-00000008"}
    assert len(names(trial)) == 4, "what the killed save has left is removed by the next one"
    assert load(trial)[0]["value"] == "next"


def test_several_saves_at_step_0_keep_the_last(trial, variant):
    for value in range(5):
        save(trial, 0, value=value)
        assert load(trial)[0]["value"] == value
        assert len(names(trial)) == 2


def test_files_of_a_later_attempt_and_of_others_are_left_alone(trial, variant):
    save(trial, 2)
    foreign = {"notes.pt", "step-00000009.7-0123abcd.pt", ".step-00000009.x.tmp"}
    for name in foreign:
        (trial.checkpoints / name).write_text("")
    save(trial, 4)
    assert foreign < set(names(trial))


def test_what_an_earlier_version_has_written_is_loaded_and_dropped(trial, variant):
    manifest = save(trial, 2)
    old = trial.checkpoint_file(2, ".pt" if variant == "torch" else ".state.json")
    data_file(trial, 2).rename(old)
    manifest["file"] = old.name
    trial.checkpoint_file(2, ".json").write_text(json.dumps(checkpoints.sealed(manifest)))
    assert load(trial)[0]["step"] == 2
    save(trial, 4)
    assert old.exists()
    save(trial, 6)
    assert not old.exists()


def test_nothing_there_is_no_checkpoint(trial):
    assert load(trial) == (None, [])


def data_file(trial, step):
    (file,) = (p for s in ("pt", "state.json") for p in trial.checkpoints.glob(f"step-{step:08d}.*-*.{s}"))
    return file


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << random.randrange(8)
    file.write_bytes(data)


@pytest.mark.parametrize("which", ["data", "manifest"])
def test_a_flip_of_any_byte_is_found_and_the_older_one_is_used(trial, variant, which):
    """Every byte of a small checkpoint; of a torch file, which has some thousand, a random hundred."""
    save(trial, 2)
    save(trial, 4)
    file = data_file(trial, 4) if which == "data" else trial.checkpoint_file(4, ".json")
    sound = {path: path.read_bytes() for path in trial.checkpoints.iterdir()}
    places = range(len(sound[file]))
    for at in places if len(places) < 400 else random.sample(places, 100):
        flip(file, at)
        state, notes = load(trial)
        if which == "manifest" and state == {"step": 4}:  # a space that has become another
            assert not notes
            assert sound[file][at : at + 1].isspace()
        else:
            assert (state, len(notes)) == ({"step": 2}, 1), at
            assert "step-00000004.json: " in notes[0]
            assert [n for n in names(trial) if ".corrupt-" in n and "00000004" in n], at
        for path in trial.checkpoints.iterdir():
            path.unlink()
        for path, data in sound.items():
            path.write_bytes(data)


def test_quarantined_files_keep_their_bytes_and_are_never_read_again(trial, variant):
    save(trial, 2)
    save(trial, 4)
    flip(data_file(trial, 4), 5)
    bad = data_file(trial, 4)
    content = bad.read_bytes()
    assert load(trial)[0]["step"] == 2
    assert bad.with_name(f"{bad.name}.corrupt-1").read_bytes() == content
    assert trial.checkpoint_file(4, ".json.corrupt-1").exists()
    assert load(trial) == ({"step": 2}, [])
    save(trial, 4)
    flip(data_file(trial, 4), 5)
    load(trial)
    assert trial.checkpoint_file(4, ".json.corrupt-2").exists()


@pytest.mark.parametrize(
    "damage", ["{", "", "[]", "null", "{}", '{"file": "x"}', "\0" * 60, '{"file": "../../../etc/passwd", "step": 4}']
)
def test_a_damaged_manifest_is_moved_aside(trial, variant, damage):
    save(trial, 2)
    save(trial, 4)
    trial.checkpoint_file(4, ".json").write_text(damage)
    state, notes = load(trial)
    assert state["step"] == 2
    assert "damaged manifest" in notes[0]
    assert [n for n in names(trial) if ".corrupt" not in n and "00000004" in n] == []


@pytest.mark.parametrize("missing", ["manifest", "data"])
def test_half_a_checkpoint_is_none(trial, variant, missing):
    save(trial, 2)
    save(trial, 4)
    (trial.checkpoint_file(4, ".json") if missing == "manifest" else data_file(trial, 4)).unlink()
    state, notes = load(trial)
    assert state["step"] == 2
    assert len(notes) == (missing == "data")


def test_a_damaged_manifest_costs_no_sound_checkpoint_its_place(trial, variant):
    save(trial, 2)
    save(trial, 4)
    trial.checkpoint_file(4, ".json").write_text("{")
    save(trial, 6)
    save(trial, 8)
    assert load(trial)[0]["step"] == 8
    flip(data_file(trial, 8), 3)
    assert load(trial)[0]["step"] == 6


def test_without_any_that_verifies_there_is_none_and_each_is_named(trial, variant):
    for step in (2, 4):
        save(trial, step)
        data_file(trial, step).write_bytes(b"")
    state, notes = load(trial)
    assert state is None
    assert len(notes) == 2


class Evil:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def test_a_checkpoint_with_code_in_it_is_not_run_but_moved_aside(trial, tmp_path):
    torch = pytest.importorskip("torch")
    save(trial, 2)
    manifest = save(trial, 4)
    file = data_file(trial, 4)
    torch.save({"step": Evil(tmp_path / "proof")}, file)
    manifest.update(bytes=file.stat().st_size, sha256=file_sha256(file))
    trial.checkpoint_file(4, ".json").write_text(json.dumps(checkpoints.sealed(manifest)))
    state, notes = load(trial)
    assert not (tmp_path / "proof").exists()
    assert state["step"] == 2
    assert "cannot be read" in notes[0]


def test_a_json_checkpoint_that_is_no_mapping_is_moved_aside(trial, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    manifest = save(trial, 4)
    data_file(trial, 4).write_text("[1]")
    manifest.update(bytes=3, sha256=file_sha256(data_file(trial, 4)))
    trial.checkpoint_file(4, ".json").write_text(json.dumps(checkpoints.sealed(manifest)))
    assert "no mapping but list" in load(trial)[1][0]


class Plain:
    """An object of a class that nobody has declared to be safe."""


def test_an_object_that_could_not_be_loaded_again_is_refused_before_it_is_a_checkpoint(trial, variant):
    with pytest.raises(TypeError, match=r"run\.save"):
        save(trial, 2, thing=Plain())
    assert checkpoints.manifests(trial) == []
    assert load(trial) == (None, [])


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({1: "a"}, r"state has the key 1"),
        ({"a": [{"b": {2.5: 1}}]}, r"state\['a'\]\[0\]\['b'\] has the key 2.5"),
        ({"a": float("nan")}, "cannot be stored"),
        ({"a": {1, 2}}, "cannot be stored"),
        ({"a": b"x"}, "cannot be stored"),
    ],
)
def test_without_torch_what_json_would_change_is_refused(trial, monkeypatch, state, expected):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(TypeError, match=expected):
        checkpoints.save(trial, state, epoch=0, step=1, attempt=1)
    assert checkpoints.manifests(trial) == []


def test_tensors_optimizers_and_generators_come_back(trial):
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save(trial, 2, model=model.state_dict(), optimizer=optimizer.state_dict(), rng=torch.get_rng_state(), shape=(2, 3))
    state, _notes = load(trial)
    assert torch.equal(state["model"]["weight"], model.state_dict()["weight"])
    assert state["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert state["shape"] == (2, 3)


def test_a_torch_that_is_too_old_to_load_safely_is_no_reason_to_move_checkpoints_aside(trial, monkeypatch):
    torch = pytest.importorskip("torch")
    save(trial, 2)
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(RuntimeError, match="install torch >= 2.6"):
        load(trial)
    assert not [name for name in names(trial) if "corrupt" in name]
