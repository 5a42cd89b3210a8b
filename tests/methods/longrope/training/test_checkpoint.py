"""Checkpoints: whole or not there, and a training that goes on from one as if it had never stopped."""

import dataclasses
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from harness.errors import RequestError
from methods.longrope.training import checkpoint
from methods.longrope.training.loop import fit
from methods.longrope.training.settings import TrainingSettings
from tests.conftest import ROOT
from tests.methods.longrope.training.corpora import LONG, SHORT, TARGET
from tests.methods.longrope.training.small import loaded, model_folder, rescaled, small_mix, with_epochs

SETTINGS = TrainingSettings(batch_tokens=2 * TARGET, learning_rate=1e-2, warmup_steps=2, save_every=1, keep=2)
_FILES_A_CHECKPOINT = 6  # weights, moments, generators, state, the folder, the folder above


def mixed(folder):
    return small_mix(folder, with_epochs(SHORT), with_epochs(LONG))


def trained(folder, settings=SETTINGS, *, name="run", model=None, **given):
    model = model or loaded(folder / "m")
    return fit(model, rescaled(model, **given), mixed(folder), settings, folder=folder / name)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model, its corpus, and what a training without a break gives."""
    folder = tmp_path_factory.mktemp("home")
    model_folder(folder / "m")
    return folder, trained(folder, name="whole")


def losses(outcome):
    return [(r.loss, r.loss_short, r.loss_long, r.gradient_norm, r.learning_rate) for r in outcome.history]


def killed(folder, when, n):
    done = subprocess.run(
        [sys.executable, "-m", "tests.methods.longrope.training.killed", str(folder), when, str(n)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    return folder / "run" / "checkpoints"


@pytest.mark.parametrize(
    ("when", "n", "last"),
    [("steps", 4, 3), ("writing", 3 * _FILES_A_CHECKPOINT + 2, 3)],
    ids=["in a step", "while a checkpoint is written"],
)
def test_a_killed_training_goes_on_bit_for_bit(tmp_path, home, when, n, last):
    folder, whole = home
    for name in ("m", "shards"):
        (tmp_path / name).symlink_to(folder / name)
    places = killed(tmp_path, when, n)
    assert [place.name for place in checkpoint.all_in(places)] == [f"step-{last - 1:06d}", f"step-{last:06d}"]
    leftovers = list(places.glob(".writing-*"))
    assert len(leftovers) == (when == "writing")
    outcome = trained(tmp_path)
    assert losses(outcome) == losses(whole)
    assert outcome.n_tokens_by_bin == whole.n_tokens_by_bin
    for ours, theirs in zip(outcome.weights, whole.weights, strict=True):
        a, b = load_file(ours), load_file(theirs)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert not list(places.glob(".writing-*"))


def test_a_checkpoint_is_safetensors_and_json_and_the_last_ones_are_kept(home):
    folder, whole = home
    places = checkpoint.all_in(folder / "whole" / "checkpoints")
    assert [place.name for place in places] == ["step-000005", "step-000006"]
    assert whole.checkpoint == places[-1]
    assert {path.suffix for place in places for path in place.iterdir()} == {".safetensors", ".json"}
    weights = dict(checkpoint.tensors_in(whole.weights))
    assert set(weights) == set(dict(loaded(folder / "m").hf.named_parameters()))


def test_a_finished_training_gives_its_outcome_again_without_a_step(home):
    folder, whole = home
    again = trained(folder, name="whole")
    assert losses(again) == losses(whole) and again.checkpoint == whole.checkpoint
    model = loaded(folder / "m")
    trained(folder, name="whole", model=model)
    weights = load_file(whole.weights[0])
    assert all(torch.equal(weights[name], own) for name, own in model.hf.named_parameters())


def test_the_generators_go_on_too(tmp_path):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    np.random.standard_normal()  # half a pair of normal numbers is kept for the next call
    state = checkpoint.TrainingState(
        step=1, identity={}, data={}, n_tokens_by_bin={}, n_tokens_by_regime={}, history=(), seconds=0.0
    )
    place = checkpoint.save(tmp_path, state, weights={}, moments={}, keep=1)

    def draw():
        return random.random(), np.random.standard_normal(), np.random.random(), float(torch.rand(()))

    wanted = draw()
    draw()
    checkpoint.restore_generators(place)
    assert draw() == wanted


@pytest.mark.parametrize(
    ("settings", "given", "said"),
    [
        ({"learning_rate": 2e-2}, {}, "was made with learning_rate = 0.01, here it is 0.02"),
        ({"short_rope": "rescaled"}, {}, 'was made with short_rope = "original", here it is "rescaled"'),
        ({}, {"attention_factor": 1.2}, "was made with rope = "),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_in_one_line(home, settings, given, said):
    folder, _ = home
    with pytest.raises(RequestError) as caught:
        trained(folder, dataclasses.replace(SETTINGS, **settings), name="whole", **given)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert "go on with the same configuration, or give another output folder" in str(caught.value)


def test_another_model_is_refused(home, tmp_path):
    folder, _ = home
    wider = loaded(model_folder(tmp_path / "m", head_dim=16))
    with pytest.raises(RequestError, match="was made with model's config ="):
        trained(folder, name="whole", model=wider)


def test_what_no_number_depends_on_may_change(home):
    folder, whole = home
    again = trained(folder, dataclasses.replace(SETTINGS, keep=5, save_every=None), name="whole")
    assert losses(again) == losses(whole)


@pytest.mark.parametrize("where", ["weights-1.safetensors", "state.json"])
def test_a_full_disk_leaves_the_last_good_checkpoint(home, tmp_path, monkeypatch, where):
    folder, whole = home
    for name in ("m", "shards"):
        (tmp_path / name).symlink_to(folder / name)
    trained_to_3 = dataclasses.replace(SETTINGS, keep=1)
    plain_save, plain_sync = checkpoint.save_file, checkpoint._sync

    def is_full(path):
        return path.name == where and path.parent.name == ".writing-step-000004"

    def save_file(tensors, path):
        if is_full(path):
            path.write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        plain_save(tensors, path)

    def sync(path):
        if is_full(path):
            raise OSError(28, "No space left on device")
        plain_sync(path)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    monkeypatch.setattr(checkpoint, "_sync", sync)
    with pytest.raises(RequestError) as caught:
        trained(tmp_path, trained_to_3)
    places = tmp_path / "run" / "checkpoints"
    assert [path.name for path in places.iterdir()] == ["step-000003"]
    assert str(caught.value) == (
        f"checkpoint '{places / 'step-000004'}': the disk is full: free some space and start again; "
        f"the last good checkpoint is '{places / 'step-000003'}'"
    )
    monkeypatch.undo()
    assert losses(trained(tmp_path, trained_to_3)) == losses(whole)


def test_a_damaged_checkpoint_is_said_in_one_line(home, tmp_path):
    place = tmp_path / "step-000001"
    place.mkdir()
    (place / "state.json").write_text(json.dumps({"format": 9}))
    with pytest.raises(RequestError, match="has format 9: it should be 1"):
        checkpoint.read_state(place)
    (place / "state.json").write_text("{")
    with pytest.raises(RequestError, match=r"cannot be read .*delete it, an older one is used"):
        checkpoint.read_state(place)
    (place / "weights-1.safetensors").write_bytes(b"no")
    with pytest.raises(RequestError, match=r"weights-1\.safetensors' cannot be read"):
        dict(checkpoint.tensors_in(checkpoint.weight_files(place)))


def test_many_tensors_are_written_to_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_FILE_BYTES", 1000)
    weights = {f"w{i}": torch.full((100,), float(i)) for i in range(7)}
    state = checkpoint.TrainingState(
        step=1, identity={}, data={}, n_tokens_by_bin={}, n_tokens_by_regime={}, history=(), seconds=0.0
    )
    place = checkpoint.save(tmp_path, state, weights=weights, moments={}, keep=1)
    assert len(checkpoint.weight_files(place)) == 3
    found = dict(checkpoint.tensors_in(checkpoint.weight_files(place)))
    assert all(torch.equal(found[name], value) for name, value in weights.items())
