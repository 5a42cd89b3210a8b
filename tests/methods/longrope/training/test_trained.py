"""A trained checkpoint as a method: its weights and its RoPE are on the base model for a while, and nothing stays."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import pytest

import run_bench
from harness.catalogue import build
from harness.config import load_plan
from harness.errors import RequestError
from harness.models.generation import generate
from methods.longrope.trained import TrainedCheckpoint
from methods.resonance import Resonance
from tests.methods.longrope.training.exported import exported, factors_file
from tests.methods.longrope.training.small import WINDOW, loaded, model_folder
from tests.methods.ropes import make, make_rope
from tests.models.zoo import edit_json

TARGET = 64
IDS = [*range(10, 10 + TARGET)]
FACTORS = {"rescale_factors": [1.5, 2.0, 3.0, 5.0]}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request, tmp_path_factory):
    return loaded(model_folder(tmp_path_factory.mktemp("base") / "base", tied=request.param))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    method = make("longrope2", factors=factors_file(place, **FACTORS))
    return exported(place / "out", model, method, name="longrope2", target_length=TARGET)


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def logits(model, n=TARGET):
    import torch

    with torch.no_grad():
        return model.hf(input_ids=torch.tensor([IDS[:n]]), use_cache=False).logits[0]


def places(model) -> dict[str, int]:
    return {name: p.data_ptr() for name, p in model.hf.named_parameters(remove_duplicate=False)}


def test_the_weights_are_the_trained_ones_at_every_length_and_the_rope_is_not(model, folder):
    """Against the exported folder as a model of its own, its RoPE stated."""
    own = loaded(folder, rope={"rope_type": "default", "original_max_position_embeddings": WINDOW})
    factors = make("longrope2", factors=str(folder / "factors.json"))
    checkpoint = TrainedCheckpoint(path=str(folder))
    import torch

    for n, regime in ((3, "original"), (WINDOW, "original"), (WINDOW + 1, "rescaled"), (TARGET, "rescaled")):
        with checkpoint.applied(model, seq_len=n), factors.applied(own, seq_len=n):
            assert model.regime == regime
            ours, expected = logits(model), logits(own)
        torch.testing.assert_close(ours, expected)
        assert (ours - logits(model)).abs().max() > 0.05
    with make("vanilla").applied(own, seq_len=WINDOW), checkpoint.applied(model, seq_len=WINDOW):
        assert torch.equal(logits(own, WINDOW), logits(model, WINDOW))


def test_nothing_stays_and_nothing_is_copied(model, folder):
    import torch

    before, own, answer = places(model), [p.detach().clone() for p in model.hf.parameters()], logits(model)
    objects = [id(p) for p in model.hf.parameters()]
    tied = model.hf.config.tie_word_embeddings
    checkpoint = TrainedCheckpoint(path=str(folder))
    with checkpoint.applied(model, seq_len=TARGET):
        assert not set(places(model).values()) & set(before.values())
        assert (model.hf.lm_head.weight is model.hf.model.embed_tokens.weight) is tied
        assert all(p.dtype == torch.float32 for p in model.hf.parameters())
    with pytest.raises(KeyboardInterrupt), checkpoint.applied(model, seq_len=TARGET):
        raise KeyboardInterrupt
    with (
        pytest.raises(RuntimeError, match="applied to the model already"),
        make("yarn").applied(model, seq_len=TARGET),
        checkpoint.applied(model, seq_len=TARGET),
    ):
        pass
    assert places(model) == before
    assert [id(p) for p in model.hf.parameters()] == objects
    assert all(torch.equal(p, was) for p, was in zip(model.hf.parameters(), own, strict=True))
    assert torch.equal(logits(model), answer)


def test_weights_are_read_once_and_those_of_one_folder_are_held(model, folder, tmp_path, monkeypatch):
    read = []
    cls = type(model.hf)
    load = cls.from_pretrained
    monkeypatch.setattr(cls, "from_pretrained", lambda *args, **options: read.append(args) or load(*args, **options))
    model.held = None
    first = TrainedCheckpoint(path=str(folder))
    for n in (WINDOW, TARGET, WINDOW):
        with first.applied(model, seq_len=n):
            pass
    with TrainedCheckpoint(path=str(folder), switch="live").applied(model, seq_len=TARGET):
        pass
    assert len(read) == 1
    other = exported(tmp_path / "out", model, make("yarn"), name="yarn", target_length=TARGET)
    with TrainedCheckpoint(path=str(other)).applied(model, seq_len=TARGET):
        assert len(read) == 2
        assert str(other) in model.held.key


def test_weights_take_the_type_of_the_model(folder, model):
    import torch

    half = loaded(Path(model.request.name), dtype="bfloat16")
    with TrainedCheckpoint(path=str(folder)).applied(half, seq_len=TARGET):
        assert {p.dtype for p in half.hf.parameters()} == {torch.bfloat16}
        assert torch.isfinite(logits(half)).all()


def test_the_rope_beyond_the_window_is_that_of_the_target_whatever_the_request(model, tmp_path):
    """Dynamic NTK would follow the request; the weights were trained under one RoPE."""
    folder = exported(tmp_path / "out", model, make("dynamic_ntk"), name="dynamic_ntk", target_length=TARGET)
    checkpoint = TrainedCheckpoint(path=str(folder))
    expected = make("dynamic_ntk").rope_scaling(model.rope, seq_len=TARGET)
    for n in (WINDOW + 1, TARGET, 4 * TARGET):
        assert (checkpoint.rope_scaling(model.rope, seq_len=n).inv_freq_P == expected.inv_freq_P).all()
    assert checkpoint.extension_ratio(model.rope, 20) == TARGET / WINDOW


def test_weights_that_were_trained_without_mixing_can_be_read_under_the_original_rope_inside_the_window(
    model, tmp_path
):
    method = make("position_interpolation", target_length=TARGET)
    folder = exported(
        tmp_path / "out", model, method, name="position_interpolation", target_length=TARGET, short_rope="rescaled"
    )
    trained, switched = (
        TrainedCheckpoint(path=str(folder)),
        TrainedCheckpoint(path=str(folder), inside_window="original"),
    )
    assert not trained.rope_scaling(model.rope, seq_len=WINDOW).is_original(model.rope)
    assert switched.rope_scaling(model.rope, seq_len=WINDOW).is_original(model.rope)
    beyond = [one.rope_scaling(model.rope, seq_len=WINDOW + 1).inv_freq_P for one in (trained, switched)]
    assert (beyond[0] == beyond[1]).all()


def test_a_method_on_another_one_keeps_its_files(model, tmp_path):
    found = factors_file(tmp_path, **FACTORS)
    method = Resonance(on="longrope2", on_params={"factors": found})
    folder = exported(tmp_path / "out", model, method, name="resonance", target_length=TARGET)
    Path(found).unlink()
    checkpoint = TrainedCheckpoint(path=str(folder))
    assert checkpoint.facts["method"]["params"]["on_params"] == {"factors": "factors.json"}
    assert not checkpoint.rope_scaling(model.rope, seq_len=TARGET).is_original(model.rope)


def test_a_generation_may_change_its_rope_on_the_way(model, folder):
    import torch

    checkpoint = TrainedCheckpoint(path=str(folder), switch="live")
    prompt, tokens = IDS[: WINDOW - 3], []
    model.eos_ids, eos_ids = frozenset(), model.eos_ids
    try:
        with checkpoint.applied(model, seq_len=WINDOW + 7):
            output = generate(model, prompt, max_new_tokens=10)
    finally:
        model.eos_ids = eos_ids
    for _ in range(10):
        with TrainedCheckpoint(path=str(folder)).applied(model, seq_len=len(prompt) + len(tokens)), torch.no_grad():
            tokens.append(int(model.hf(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, -1].argmax()))
    assert output.token_ids == tuple(tokens)
    assert output.regime == "rescaled"


def test_its_identity_is_what_the_folder_holds_not_where(model, folder, copied):
    checkpoint = TrainedCheckpoint(path=str(folder))
    artifacts = checkpoint.artifacts()
    assert artifacts.keys() == {"factors", "checkpoint_weights", "checkpoint_method"}
    assert TrainedCheckpoint(path=str(copied)).artifacts() == artifacts
    edit_json(copied / "longreach.json", measured=[{"what": "x", "value": 1.0, "base": None, "n_samples": None}])
    assert TrainedCheckpoint(path=str(copied)).artifacts() == artifacts
    rope = json.loads((copied / "longreach.json").read_text())["rope"]
    edit_json(copied / "longreach.json", rope=rope | {"inside_window": "rescaled"})
    changed = TrainedCheckpoint(path=str(copied)).artifacts()
    assert {name for name in artifacts if changed[name] != artifacts[name]} == {"checkpoint_method"}
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert TrainedCheckpoint(path=str(copied)).artifacts()["checkpoint_weights"] != artifacts["checkpoint_weights"]


def test_it_travels_without_its_weights(model, folder):
    checkpoint = TrainedCheckpoint(path=str(folder))
    with checkpoint.applied(model, seq_len=TARGET):
        pass
    sent = pickle.dumps(checkpoint)
    assert len(sent) < 20_000
    for twin in (pickle.loads(sent), copy.deepcopy(checkpoint)):
        assert twin == checkpoint
        assert twin.artifacts() == checkpoint.artifacts()


def test_a_preset_names_it_beside_the_base(model, copied):
    preset = copied.parent / "mine.toml"
    preset.write_text(
        f'seq_lens = [64]\n[model]\nname = "{model.request.name}"\n[[method]]\nname = "vanilla"\n[[method]]\n'
        'name = "checkpoint"\npath = "copy"\n[[suite]]\nname = "passkey"\n'
    )
    base, trained = load_plan(str(preset)).cells
    assert base.cell.key != trained.cell.key
    assert trained.cell.method_params == {"inside_window": "trained", "switch": "request"}
    assert trained.cell.artifacts["weights"] == base.cell.artifacts["weights"]
    assert "checkpoint_weights" in trained.cell.artifacts
    assert "checkpoint_weights" not in base.cell.artifacts


def test_the_command_prints_its_rope(model, folder, capsys):
    argv = ["factors", "checkpoint", "--model", str(model.request.name), "--seq-len", "64", "--set", f"path={folder}"]
    assert run_bench.main([*argv, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["rescale_factors"] == pytest.approx(FACTORS["rescale_factors"])
    assert (table["attention_factor"], table["extension_ratio"]) == (1.2, 4.0)


def refused(message: str):
    return pytest.raises(RequestError, match=message)


def test_refuses_another_model_in_one_line(model, folder, tmp_path):
    checkpoint = TrainedCheckpoint(path=str(folder))
    other = loaded(model_folder(tmp_path / "other", tied=model.hf.config.tie_word_embeddings, rms_norm_eps=1e-3))
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "other" / "model.safetensors")
    save_file({k: t + 1 for k, t in tensors.items()}, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    said = "was trained from base with weights .*, model 'other' has .*: apply it to the model that it was"
    with refused(said) as e, checkpoint.applied(other, seq_len=TARGET):
        pass
    assert "\n" not in str(e.value)
    assert (other.held, other.scaling) == (None, None)
    with refused("was trained from a model with original_max_position_embeddings = 16, this one has 32"):
        checkpoint.rope_scaling(make_rope(8, 1e4, 32), seq_len=64)
    twin = tmp_path / "twin"
    shutil.copytree(model.request.name, twin)
    edit_json(twin / "tokenizer_config.json", model_max_length=1234)
    with refused("was trained from base with tokenizer "), checkpoint.applied(loaded(twin), seq_len=TARGET):
        pass
    assert torch.isfinite(logits(model)).all()


def test_refuses_a_bad_folder_when_it_is_named(copied, tmp_path):
    def named(folder, **settings):
        return build(TrainedCheckpoint, {"path": str(folder)} | settings, where="method 'checkpoint'")

    (tmp_path / "empty").mkdir()
    with refused("empty' has no longreach.json: it should be a folder that `train` exported"):
        named(tmp_path / "empty")
    (copied / "model.safetensors").unlink()
    with refused("has no model.safetensors: copy the whole folder again"):
        named(copied).artifacts()
    facts = json.loads((copied / "longreach.json").read_text())
    edit_json(copied / "longreach.json", rope=facts["rope"] | {"inside_window": "rescaled"})
    with refused("method 'checkpoint': switch = 'live': this checkpoint has one RoPE for all lengths"):
        named(copied, switch="live")
    (copied / "factors.json").unlink()
    with refused("factors.json': there is no such file"):
        named(copied)
    edit_json(copied / "longreach.json", rope={})
    with refused("longreach.json does not say rope.rope_theta: export it again"):
        named(copied)
    edit_json(copied / "longreach.json", schema_version=2)
    with refused("has schema_version 2: it should be 1"):
        named(copied)


def test_refuses_weights_of_other_names_or_shapes(model, copied):
    from safetensors.torch import load_file, save_file

    path = copied / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    for changed, message in (
        ({key: tensor for key, tensor in tensors.items() if key != name}, f"tensor {name} has none"),
        (tensors | {"model.more": tensors[name].clone()}, r"has 1 tensors that the model lacks \(first: model.more"),
        (tensors | {name: tensors[name][:3].clone()}, f"tensor {name} has none"),
    ):
        save_file(changed, path, {"format": "pt"})
        with refused(message), TrainedCheckpoint(path=str(copied)).applied(model, seq_len=TARGET):
            pass
        assert model.scaling is None


def test_frequencies_that_the_method_would_give_otherwise_now_are_refused(model, copied):
    facts = json.loads((copied / "longreach.json").read_text())
    moved = facts["rope"] | {"inv_freq": [f * 1.001 for f in facts["rope"]["inv_freq"]]}
    edit_json(copied / "longreach.json", rope=moved)
    with refused("method 'longrope2' gives other frequencies now than it was trained under"):
        TrainedCheckpoint(path=str(copied)).rope_scaling(model.rope, seq_len=TARGET)
