"""An exported folder: transformers loads it, Longreach reads the same RoPE from it, and its card says what is true."""

import json
from pathlib import Path

import numpy as np
import pytest

from harness.errors import RequestError
from harness.models.rope_facts import rope_spec_of
from methods.longrope.trained import TrainedCheckpoint
from methods.longrope.training import export as module
from methods.longrope.training.export import Measured, add_measured, export_checkpoint
from methods.longrope.training.settings import StepReport, TrainingOutcome
from methods.longrope.training.trained_rope import rope_config
from tests.methods.longrope.training.exported import exported, factors_file, trained_weights
from tests.methods.longrope.training.small import WINDOW, loaded, model_folder
from tests.methods.ropes import LLAMA3, TINY, make, make_rope

TARGET = 64
IDS = [*range(10, 10 + TARGET)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return loaded(model_folder(tmp_path_factory.mktemp("base") / "base"))


def factors(folder: Path, **changes) -> str:
    return factors_file(folder, **{"rescale_factors": [1.5, 2.0, 3.0, 5.0]} | changes)


def logits(hf, ids=IDS):
    import torch

    with torch.no_grad():
        return hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def by_transformers(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def outcome(folder: Path) -> TrainingOutcome:
    def step(number: int, loss: float) -> StepReport:
        return StepReport(
            step=number, n_steps=3, loss=loss, loss_short=loss - 0.25, loss_long=None, learning_rate=1e-5,
            gradient_norm=1.0, n_tokens=100 * number, tokens_per_s=7.0, peak_memory_bytes=1, remaining_s=0.0,
        )  # fmt: skip

    return TrainingOutcome(
        checkpoint=folder, weights=(), n_tokens_by_bin={"short": 120, "long": 180},
        n_tokens_by_regime={"original": 120, "rescaled": 180}, history=(step(1, 3.5), step(2, 3.25), step(3, 2.125)),
        seconds=12.5, attention="flash",
    )  # fmt: skip


@pytest.mark.parametrize("attention_factor", [1.0, 1.2])
def test_transformers_runs_it_as_it_was_trained(model, tmp_path, attention_factor):
    import torch
    from transformers import AutoTokenizer

    method = make("longrope2", factors=factors(tmp_path, attention_factor=attention_factor))
    folder = exported(tmp_path / "out", model, method, name="longrope2", target_length=TARGET)
    theirs = by_transformers(folder)
    assert AutoTokenizer.from_pretrained(folder).encode("w7 w8") == model.tokenizer.encode("w7 w8")
    assert AutoTokenizer.from_pretrained(folder).model_max_length == TARGET
    checkpoint = TrainedCheckpoint(path=str(folder))
    for n, same in ((TARGET, True), (WINDOW, attention_factor == 1.0)):
        with checkpoint.applied(model, seq_len=n):
            ours = logits(model.hf, IDS[:n])
        difference = (logits(theirs, IDS[:n]) - ours).abs().max()
        assert (difference < 1e-3) if same else (difference > 0.01)
        assert (ours - logits(model.hf, IDS[:n])).abs().max() > 0.05
    said = config(folder)
    assert said["rope_parameters"]["short_factor"] == [1.0] * 4
    assert said["rope_parameters"]["long_factor"] == [1.5, 2.0, 3.0, 5.0]
    assert (said["max_position_embeddings"], said["original_max_position_embeddings"]) == (TARGET, WINDOW)
    assert torch.equal(theirs.lm_head.weight, theirs.model.embed_tokens.weight)
    limits = json.loads((folder / "longreach.json").read_text())["limits"]
    assert any("attention factor 1 inside the window and 1.2 beyond" in line for line in limits) is not same
    assert all(line in (folder / "README.md").read_text() for line in limits)


BASELINES = {
    "yarn": ({"target_length": TARGET}, "yarn"),
    "position_interpolation": ({"target_length": TARGET}, "linear"),
    "ntk": ({"target_length": TARGET}, "default"),
    "abf": ({"rope_theta": 8e4}, "default"),
    "vanilla": ({}, "default"),
    "ntk_by_parts": ({"target_length": TARGET}, "longrope"),
    "dynamic_ntk": ({}, "default"),
}


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_a_model_with_its_own_rope_at_every_length(model, tmp_path, name):
    settings, rope_type = BASELINES[name]
    folder = exported(
        tmp_path / "out", model, make(name, **settings), name=name, target_length=TARGET, short_rope="rescaled"
    )
    said = config(folder)
    assert said["rope_parameters"]["rope_type"] == rope_type
    assert said["rope_parameters"].get("short_factor") == said["rope_parameters"].get("long_factor")
    own = loaded(folder)
    assert own.rope.original_max_position_embeddings == TARGET
    theirs = by_transformers(folder)
    checkpoint = TrainedCheckpoint(path=str(folder))
    assert checkpoint.original_inside_window is (name == "vanilla")
    for n in (WINDOW, TARGET):
        with checkpoint.applied(model, seq_len=n):
            ours = logits(model.hf, IDS[:n])
        assert (logits(own.hf, IDS[:n]) - ours).abs().max() < 1e-3
        assert (logits(theirs, IDS[:n]) - ours).abs().max() < 1e-3


def test_a_baseline_trained_with_mixing_has_two_ropes(model, tmp_path):
    method = make("yarn", target_length=TARGET)
    folder = exported(tmp_path / "out", model, method, name="yarn", target_length=TARGET)
    assert config(folder)["rope_parameters"]["rope_type"] == "longrope"
    assert TrainedCheckpoint(path=str(folder)).original_inside_window
    with pytest.raises(RequestError, match="changes with the length of a request: to start from the unscaled one"):
        rope_spec_of(str(folder))


def test_a_list_of_factors_for_all_lengths_reads_as_transformers_computes_it(tmp_path):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    lists = {"short_factor": [1.0, 2.0, 3.0, 4.0], "long_factor": [1.0, 2.0, 3.0, 4.0]}
    for rope_type, more in (("longrope", {}), ("longrope", {"attention_factor": 1.3}), ("su", {"factor": 2.0})):
        parameters = {
            "rope_type": rope_type,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 16,
            **lists,
            **more,
        }
        stated = {
            "hidden_size": 32, "num_attention_heads": 4, "head_dim": 8, "max_position_embeddings": 64,
            "rope_parameters": parameters,
        }  # fmt: skip
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"model_type": "llama", **stated}))
        ours = rope_spec_of(str(path))
        known = LlamaConfig(**{**stated, "rope_parameters": {**parameters, "rope_type": "longrope"}})
        inv_freq, attention_factor = ROPE_INIT_FUNCTIONS["longrope"](known)
        np.testing.assert_allclose(ours.inv_freq_P, inv_freq.numpy(), rtol=1e-6)
        assert ours.attention_factor == pytest.approx(attention_factor)
        assert ours.original_max_position_embeddings == 64
    parameters["long_factor"] = [1.0, 2.0, 3.0]
    parameters["short_factor"] = [1.0, 2.0, 3.0]
    path.write_text(json.dumps({"model_type": "llama", **stated}))
    with pytest.raises(RequestError, match="it has 3 factors: it should be 4, one a pair"):
        rope_spec_of(str(path))


def test_the_facts_and_the_card_hold_what_was_given_and_nothing_else(model, tmp_path):
    method = make("longrope2", factors=factors(tmp_path))
    measured = [Measured(what="needle, 4 keys, 64 tokens", value=0.9375, base=0.0625, n_samples=16)]
    settings = {"training": {"learning_rate": 2e-5, "schedule": "cosine"}, "data": {"folder": tmp_path / "my texts"}}
    folder = exported(
        tmp_path / "out", model, method, name="longrope2", target_length=TARGET, settings=settings,
        outcome=outcome(tmp_path), measured=measured,
    )  # fmt: skip
    facts = json.loads((folder / "longreach.json").read_text())
    assert facts["method"]["name"] == "longrope2"
    assert facts["method"]["params"]["factors"] == "factors.json"
    assert (folder / "factors.json").read_bytes() == Path(factors(tmp_path)).read_bytes()
    assert facts["rope"]["attention_factor"] == {"inside_window": 1.0, "beyond_window": 1.2}
    assert facts["base"].keys() >= {"label", "weights", "config", "tokenizer"}
    training = facts["training"]
    assert (training["steps"], training["n_tokens"], training["n_tokens_by_bin"]) == (
        3,
        300,
        {"short": 120, "long": 180},
    )
    assert training["last_step"] == {"step": 3, "loss": 2.125, "loss_short": 1.875, "loss_long": None}
    card = (folder / "README.md").read_text()
    for shown in (
        "| 3 | 2.125 | 1.875 | - |", "| short | 120 |", "| rescaled | 180 |", "3 steps, 300 tokens, 12 s",
        "| needle, 4 keys, 64 tokens | 0.9375 | 0.0625 | 16 |", "| `training.learning_rate` | `2e-05` |",
        "| `data.folder` | `my texts` |", "Requests of at most 16 tokens", training["settings_sha256"],
        'name = "checkpoint"', "# out",
    ):  # fmt: skip
        assert shown in card
    assert str(tmp_path) not in card + json.dumps(facts)


def test_results_are_added_to_a_folder_later(model, tmp_path):
    folder = exported(tmp_path / "out", model, make("vanilla"), name="vanilla", target_length=TARGET)
    assert "Nothing was measured" in (folder / "README.md").read_text()
    before = TrainedCheckpoint(path=str(folder)).artifacts()
    add_measured(folder, [Measured(what="perplexity", value=12.5)])
    card = (folder / "README.md").read_text()
    assert "| perplexity | 12.5 | - | - |" in card
    assert "Nothing was measured" not in card
    assert "# out" in card
    assert TrainedCheckpoint(path=str(folder)).artifacts() == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_have_the_type_that_was_asked_for(model, tmp_path, dtype):
    import torch
    from safetensors.torch import load_file

    folder = exported(tmp_path / "out", model, make("vanilla"), name="vanilla", target_length=TARGET, dtype=dtype)
    trained = load_file(tmp_path / "weights-1.safetensors")
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, trained[name].to(getattr(torch, dtype)))
    assert config(folder)["dtype"] == dtype
    assert by_transformers(folder).dtype == getattr(torch, dtype)


def test_an_export_is_there_whole_or_not_at_all(model, tmp_path, monkeypatch):
    def export(**more):
        return exported(tmp_path / "out", model, make("vanilla"), name="vanilla", target_length=TARGET, **more)

    folder = export(settings={"round": 1})
    first = (folder / "README.md").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_facts", full)
        with pytest.raises(RequestError, match=r"'.*out' cannot be written: .*No space left on device"):
            export(settings={"round": 2})
    assert (folder / "README.md").read_text() == first
    export(settings={"round": 3})
    assert "`round` | `3`" in (folder / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "weights-1.safetensors"]


def test_refuses_in_one_line(model, tmp_path):
    from safetensors.torch import load_file, save_file

    def export(folder="out", method=None, **more):
        return export_checkpoint(
            tmp_path / folder,
            **{
                "base": model, "weights": [weights], "method_name": "vanilla", "method": method or make("vanilla"),
                "target_length": TARGET, "short_rope": "original", "settings": {},
            } | more,
        )  # fmt: skip

    weights = trained_weights(model, tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(RequestError, match="full' holds something else: give a new folder"):
        export("full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"
    tensors = load_file(weights)
    name = next(iter(tensors))
    for changed, message in (
        ({key: tensor for key, tensor in tensors.items() if key != name}, f"lack 1 of .* tensors \\(first: {name}"),
        (tensors | {"extra": tensors[name].clone()}, "tensor extra .* is not one of the model's"),
        (tensors | {name: tensors[name][:2].clone()}, f"tensor {name} of shape .* is not one of the model's"),
    ):
        path = tmp_path / "changed.safetensors"
        save_file(changed, path)
        with pytest.raises(RequestError, match=message):
            export(weights=[path])
    with pytest.raises(RequestError, match="switches frequencies off"):
        export(method=make("cope", clip_pairs=2), method_name="cope", short_rope="rescaled")
    with pytest.raises(RequestError, match="target length 16: it should be above the model's window of 16 tokens"):
        export(target_length=WINDOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed.safetensors", "full", "weights-1.safetensors"]


def test_the_published_factors_are_told_before_any_training():
    method = make("longrope2")
    values, limits = rope_config(method, LLAMA3, target_length=131072, short_rope="original", config={})
    assert values["rope_parameters"]["rope_type"] == "longrope"
    assert len(values["rope_parameters"]["long_factor"]) == 64
    assert any("1.14354 is used for both" in limit for limit in limits)
    yarn = make("yarn", target_length=4096)
    stated = {"model_type": "llama", "head_dim": 64, "hidden_size": 256, "num_attention_heads": 4}
    values, limits = rope_config(yarn, TINY, target_length=4096, short_rope="rescaled", config=stated)
    assert (values["rope_parameters"]["rope_type"], limits) == ("yarn", ())


def test_a_model_with_a_rope_for_each_kind_of_layer_keeps_the_others(tmp_path):
    from harness.models.loading import load
    from harness.models.request import ModelRequest
    from tests.models.zoo import CONFIGS, saved

    base = load(ModelRequest(name=str(saved(tmp_path / "base", CONFIGS["gemma3"]()))), device="cpu")
    method = make("yarn", target_length=512)
    folder = exported(
        tmp_path / "out", base, method, name="yarn", target_length=512, short_rope="rescaled"
    )  # fmt: skip
    stated = config(folder)["rope_parameters"]
    assert stated["sliding_attention"] == config(tmp_path / "base")["rope_parameters"]["sliding_attention"]
    with TrainedCheckpoint(path=str(folder)).applied(base, seq_len=200):
        ours = logits(base.hf, [*range(1, 201)])
    assert (logits(by_transformers(folder), [*range(1, 201)]) - ours).abs().max() < 2e-3


def test_a_part_of_the_head_that_turns_stays_that_part(tmp_path):
    rope = make_rope(8, 1e4, 128)
    stated = {"model_type": "glm", "head_dim": 16, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}
    for name in ("yarn", "position_interpolation", "ntk", "ntk_by_parts"):
        method = make(name, target_length=512)
        values, _ = rope_config(method, rope, target_length=512, short_rope="rescaled", config=stated)
        assert values["rope_parameters"]["partial_rotary_factor"] == 0.5
