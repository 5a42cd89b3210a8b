"""The pinned rotary embedding: exact angles, whatever is done to the model, and gradients where they are wanted."""

import numpy as np
import pytest
import torch

from harness.models.rotary import PinnedRotary, rotary_scaling
from methods.base import RopeScaling

FAR = torch.tensor([[131071]])


def scaling(inv_freq, attention_factor=1.0) -> RopeScaling:
    return RopeScaling(inv_freq_P=inv_freq, attention_factor=attention_factor)


def test_a_cast_of_the_model_leaves_the_angles_alone():
    inv_freq_P = 1e4 ** -(np.arange(32) / 32)
    rotary = PinnedRotary(scaling(inv_freq_P), layout="half_split", keeps_float32=True)
    for cast in (rotary, rotary.to(torch.bfloat16), rotary.half()):
        cos, sin = cast(torch.zeros(1, 1, 1), FAR)
        np.testing.assert_allclose(cos[0, 0, :32], np.cos(131071 * inv_freq_P), atol=0.01)
        np.testing.assert_allclose(sin[0, 0, 32:], np.sin(131071 * inv_freq_P), atol=0.01)


def test_a_bfloat16_model_keeps_its_angles(tiny_llama):
    rotary = tiny_llama.sites[0].module
    before = rotary(torch.zeros(1, 1, 1), FAR)
    try:
        tiny_llama.hf.to(torch.bfloat16)
        after = rotary(torch.zeros(1, 1, 1), FAR)
    finally:
        tiny_llama.hf.to(torch.float32)  # the weights are bfloat16 numbers, so nothing is lost
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert rotary(torch.zeros(1, 1, 1, dtype=torch.bfloat16), FAR)[0].dtype == torch.bfloat16


def test_frequencies_are_in_no_buffer_and_no_state():
    rotary = PinnedRotary(scaling(np.ones(4)), layout="interleaved")
    assert not list(rotary.buffers())
    assert not list(rotary.parameters())
    assert not rotary.state_dict()


def test_zero_frequency_switches_a_pair_off():
    cos, sin = PinnedRotary(scaling(np.array([1.0, 0.0])), layout="half_split")(torch.zeros(1, 1, 1), FAR)
    assert cos[0, 0, [1, 3]].tolist() == [1, 1]
    assert sin[0, 0, [1, 3]].tolist() == [0, 0]


def test_the_attention_factor_multiplies_cos_and_sin(tiny_llama):
    rope, rotary = tiny_llama.rope, tiny_llama.sites[0]
    plain = rotary.module(torch.zeros(1, 1, 1), FAR)
    with rotary_scaling(tiny_llama, scaling(rope.inv_freq_P, 1.5)):
        assert tiny_llama.regime == "rescaled"
        scaled = rotary.module(torch.zeros(1, 1, 1), FAR)
    for a, b in zip(scaled, plain, strict=True):
        torch.testing.assert_close(a, 1.5 * b)


def test_gradients_reach_frequencies_and_attention_factor(tiny_llama):
    inv_freq_P = torch.tensor(tiny_llama.rope.inv_freq_P, requires_grad=True)
    attention_factor = torch.tensor(1.1, requires_grad=True)
    ids_BL = torch.arange(100, 160)[None]
    with rotary_scaling(tiny_llama, scaling(inv_freq_P, attention_factor)):
        assert tiny_llama.regime == "rescaled"
        tiny_llama.hf(input_ids=ids_BL, use_cache=False).logits.logsumexp(-1).sum().backward()
    tiny_llama.hf.zero_grad(set_to_none=True)
    assert inv_freq_P.grad.abs().min() > 0
    assert attention_factor.grad.abs() > 0


def test_a_second_method_on_top_is_refused(tiny_llama):
    own = scaling(tiny_llama.rope.inv_freq_P)
    with rotary_scaling(tiny_llama, own):
        with pytest.raises(RuntimeError, match="applied to the model already"), rotary_scaling(tiny_llama, own):
            pass
        assert tiny_llama.regime == "original"
    with rotary_scaling(tiny_llama, own):
        assert tiny_llama.scaling is own


def test_frequencies_of_the_wrong_number_are_refused_and_nothing_is_changed(tiny_llama):
    before = tiny_llama.sites[0].module
    with (
        pytest.raises(ValueError, match="31 frequencies: the model has 32"),
        rotary_scaling(tiny_llama, scaling(np.ones(31))),
    ):
        pass
    assert tiny_llama.sites[0].module is before
    assert tiny_llama.scaling is None


def test_layers_of_other_types_keep_the_stock_embedding(family):
    site = family.sites[0]
    rotary = site.pinned(scaling(np.zeros(len(site.own.inv_freq_P))), "cpu")
    hidden, positions = torch.zeros(1, 1, 1), torch.tensor([[100]])
    if not site.by_layer_type:
        with pytest.raises(ValueError, match="serves full attention only"):
            rotary(hidden, positions, "sliding_attention")
        return
    assert rotary(hidden, positions, "full_attention")[1].abs().max() == 0
    expected = site.stock(hidden, positions, "sliding_attention")
    got = rotary(hidden, positions, "sliding_attention")
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
