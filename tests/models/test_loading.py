"""A loaded model is what was asked for, or is not loaded."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from harness.errors import RequestError
from harness.models.loading import check_device, load, load_tokenizer
from harness.models.request import ModelRequest
from harness.types import Example
from methods.vanilla import Vanilla
from methods.yarn import YaRN
from tests.models.zoo import TINY_LLAMA, edit_json, saved


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(TINY_LLAMA, tmp_path / "mine"))


def refusal(request: ModelRequest) -> str:
    with pytest.raises(RequestError) as caught:
        load(request, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_type_and_attention_are_those_asked_for(dtype, attention):
    model = load(ModelRequest(name="tiny-llama", dtype=dtype, attention=attention), device="cpu")
    assert model.hf.dtype == getattr(torch, dtype)
    assert model.hf.config._attn_implementation == attention
    assert not model.hf.training
    assert model.regime == "original"
    assert model.rope.original_max_position_embeddings == 512


def test_reading_a_long_text_warns_of_nothing(tiny_llama, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(tiny_llama.tokenizer.encode("word " * 3000)) > 2000
        assert len(load_tokenizer(ModelRequest(name="tiny-llama")).encode("word " * 3000)) > 2000
    assert not caplog.records


def test_missing_weights_are_refused_not_made_up(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    message = refusal(ModelRequest(name=str(folder)))
    assert "1 tensors are missing or of another shape (first: model.layers.1.mlp.up_proj.weight)" in message


def test_weights_of_another_shape_are_refused(folder):
    edit_json(folder / "config.json", intermediate_size=512)
    assert "the weights of 12 tensors are missing or of another shape" in refusal(ModelRequest(name=str(folder)))


def test_a_configuration_that_transformers_refuses_is_one_line(folder):
    edit_json(folder / "config.json", num_hidden_layers="four")
    assert "mine" in refusal(ModelRequest(name=str(folder)))


def test_a_model_type_that_nobody_knows_is_one_line(folder):
    edit_json(folder / "config.json", model_type="mine")
    assert "model 'mine' cannot be loaded" in refusal(ModelRequest(name=str(folder)))


def test_rope_facts_of_another_size_are_refused(folder):
    message = refusal(ModelRequest(name=str(folder), rope={"rotary_dim": 32}))
    assert "write under [model.rope]: rotary_dim = 64" in message


def test_another_window_may_be_stated(folder):
    model = load(ModelRequest(name=str(folder), rope={"original_max_position_embeddings": 256}), device="cpu")
    assert model.rope.original_max_position_embeddings == 256


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "mps", "cpu:1"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(RequestError, match=f"device '{device}' is"):
        check_device(device)


def test_auto_is_some_device():
    assert check_device("auto").type in ("cpu", "cuda")


def test_a_rope_that_follows_the_length_never_runs_on_its_own(tmp_path):
    """A checkpoint of dynamic NTK: beyond its window transformers changes its frequencies, ours stay."""
    config = LlamaConfig(
        vocab_size=4096, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=32, eos_token_id=0, bos_token_id=0,
        rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
    )  # fmt: skip
    folder = saved(tmp_path / "dynamic", config)
    assert "changes with the length of a request" in refusal(ModelRequest(name=str(folder)))
    model = load(ModelRequest(name=str(folder), rope={"rope_type": "default"}), device="cpu")
    stock = model.sites[0].stock
    before = stock.inv_freq.clone()
    with torch.no_grad():
        short = model.hf(input_ids=torch.arange(1, 20)[None]).logits
        model.hf(input_ids=torch.arange(1, 200)[None])
        assert torch.equal(model.hf(input_ids=torch.arange(1, 20)[None]).logits, short)
    assert torch.equal(stock.inv_freq, before)


def test_lengths_are_not_cut_at_the_configuration_s_window(tiny_llama):
    prompt = [5] * 1500
    with YaRN().applied(tiny_llama, seq_len=1504):
        assert tiny_llama.answer(Example(id="x", prompt_ids=prompt, max_new_tokens=4)).token_ids
        assert tiny_llama.regime == "rescaled"
    with Vanilla().applied(tiny_llama, seq_len=1504):
        assert tiny_llama.regime == "original"
