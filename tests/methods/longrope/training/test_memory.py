"""The memory arithmetic: against what PyTorch really holds, and how it grows."""

import dataclasses

import pytest
import torch

from methods.longrope.training.memory import memory_estimate
from methods.longrope.training.optimizer import adamw
from methods.longrope.training.settings import TrainingSettings
from methods.longrope.training.weights import MasterWeights

SETTINGS = TrainingSettings(batch_tokens=131072, dtype="bfloat16", activation_checkpointing=True)


def n_bytes(tensors):
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_gradients_and_moments_are_what_torch_holds(dtype):
    from harness.models.loading import load
    from harness.models.request import ModelRequest

    hf = load(ModelRequest(name="tiny-llama"), device="cpu").hf
    settings = dataclasses.replace(SETTINGS, dtype=dtype)
    found = memory_estimate(hf, settings, n_tokens=512)
    masters = MasterWeights(hf, getattr(torch, dtype))
    optimizer = adamw(masters.masters.values(), settings)
    hf(input_ids=torch.zeros(1, 2, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    own = {} if dtype == "float32" else dict(hf.named_parameters())
    assert found.weights == n_bytes(masters.masters.values()) + n_bytes(own.values())
    assert found.gradients == n_bytes(masters.gradients())
    states = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert found.moments == n_bytes(states)
    assert found.gathered == 0


@pytest.fixture(scope="module")
def llama3_8b():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def test_llama3_8b_at_128k_fits_eight_gpus_that_read_a_segment_together(llama3_8b):
    settings = dataclasses.replace(SETTINGS, sequence_parallel=8)
    found = memory_estimate(llama3_8b, settings, n_tokens=131072, n_processes=8, sharded=True)
    n = 8_030_261_248
    assert (found.weights, found.gradients, found.moments) == (n // 2, n // 2, n)
    assert found.checkpoints == 32 * 16384 * 4096 * 2
    assert 25 < found.total / 2**30 < 40
    alone = memory_estimate(llama3_8b, SETTINGS, n_tokens=131072, n_processes=8, sharded=True)
    assert alone.checkpoints == 8 * found.checkpoints
    assert alone.total / 2**30 > 80  # each on its own segment: it does not fit


def test_nothing_is_quadratic_in_the_length(llama3_8b):
    at = [memory_estimate(llama3_8b, SETTINGS, n_tokens=n).total for n in (16384, 32768, 49152)]
    assert at[2] - at[1] == at[1] - at[0]
