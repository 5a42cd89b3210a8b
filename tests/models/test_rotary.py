"""The pinned rotary embedding: exact angles, whatever is done to the model, and gradients where they are wanted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.models.generation import generate
from harness.models.rotary import PinnedRotary, rotary_scaling
from harness.models.scoring import score_segments
from harness.types import Segment
from methods.base import RopeScaling
from methods.yarn import YaRN
from tests.models.zoo import chunked

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


def tables(site, scaling, n_tokens: int, original_P=None) -> tuple[torch.Tensor, torch.Tensor]:
    return site.pinned(scaling, "cpu", original_P)(torch.zeros(1, 1, 1), torch.arange(n_tokens)[None])


@pytest.mark.parametrize("start_tokens", [0, 7, 50])
def test_start_tokens_turn_by_the_model_s_own_frequencies(family, start_tokens):
    """None: not a bit is changed. All: the original. Between: a table with the head of one and the tail of another."""
    site, original_P = family.sites[0], family.rope.inv_freq_P
    rescaled = scaling(original_P / np.linspace(1, 5, len(original_P)), 1.3)
    found = tables(site, replace(rescaled, start_tokens=start_tokens), 50, original_P)
    before = tables(site, scaling(original_P, 1.3), 50)  # the attention factor is everywhere
    behind = tables(site, rescaled, 50)
    for got, original, new in zip(found, before, behind, strict=True):
        assert torch.equal(got, torch.cat((original[:, :start_tokens], new[:, start_tokens:]), dim=1))
        assert not torch.equal(original, new)


class ByHand(torch.nn.Module):
    """cos and sin looked up in a table that was written down position by position, half-split."""

    def __init__(self, rope, scaling, n_tokens: int) -> None:
        super().__init__()
        angles_LP = [
            position * (rope.inv_freq_P if position < scaling.start_tokens else scaling.inv_freq_P)
            for position in range(n_tokens)
        ]
        angles_LD = torch.tensor(np.concatenate((angles_LP, angles_LP), axis=1))
        self.table = [(scaling.attention_factor * part).float() for part in (angles_LD.cos(), angles_LD.sin())]

    def forward(self, x, position_ids, **kwargs):
        cos, sin = (table[position_ids[0]][None].to(x.dtype) for table in self.table)
        return cos, sin


def test_start_tokens_hold_through_the_cache_and_in_scores(tiny_llama, ids):
    """Generation reads the prompt in chunks and writes token by token; the table reads everything anew each time."""
    rope, site = tiny_llama.rope, tiny_llama.sites[0]
    kept = replace(YaRN().rope_scaling(rope, seq_len=1024), start_tokens=64)
    prompt, n_new = ids, 6

    def by_hand(tokens):
        own = site.module
        site.put(ByHand(rope, kept, len(tokens)))
        try:
            with torch.no_grad():
                return tiny_llama.hf(torch.tensor([tokens]), use_cache=False).logits[0]
        finally:
            site.put(own)

    expected = list(prompt)
    for _ in range(n_new):
        expected.append(by_hand(expected)[-1].argmax().item())
    logprobs_L = by_hand(expected)[:-1].log_softmax(-1).gather(1, torch.tensor(expected)[1:, None])[:, 0]
    segment = Segment(token_ids=expected, n_context=10)
    with rotary_scaling(tiny_llama, kept), chunked(tiny_llama, 48):
        assert tiny_llama.regime == "rescaled"
        generated = generate(tiny_llama, prompt, max_new_tokens=n_new)
        (scored,) = score_segments(tiny_llama, [segment]).logprobs
    assert list(generated.token_ids) == expected[len(prompt) :]
    torch.testing.assert_close(torch.tensor(scored), logprobs_L[9:], atol=1e-3, rtol=0)
    with rotary_scaling(tiny_llama, replace(kept, start_tokens=0)):
        (without,) = score_segments(tiny_llama, [segment]).logprobs
    assert np.abs(np.subtract(without, scored)).max() > 0.1


def test_start_tokens_of_the_original_rope_change_nothing(tiny_llama, ids):
    own = RopeScaling(inv_freq_P=tiny_llama.rope.inv_freq_P, attention_factor=1.0, start_tokens=30)
    assert own.is_original(tiny_llama.rope)
    segment = Segment(token_ids=ids, n_context=1)
    plain = score_segments(tiny_llama, [segment]).logprobs
    with rotary_scaling(tiny_llama, own):
        assert tiny_llama.regime == "original"
        assert score_segments(tiny_llama, [segment]).logprobs == plain


def test_gradients_flow_beside_start_tokens(tiny_llama):
    inv_freq_P = torch.tensor(tiny_llama.rope.inv_freq_P / 2, requires_grad=True)
    for start_tokens, reached in ((60, False), (20, True)):
        given = RopeScaling(inv_freq_P=inv_freq_P, attention_factor=1.0, start_tokens=start_tokens)
        with rotary_scaling(tiny_llama, given):
            tiny_llama.hf(input_ids=torch.arange(100, 160)[None], use_cache=False).logits.sum().backward()
        tiny_llama.hf.zero_grad(set_to_none=True)
        assert (inv_freq_P.grad.abs().min() > 0) == reached


def test_start_tokens_without_the_original_frequencies_are_refused():
    with pytest.raises(ValueError, match="start_tokens = 3 needs the model's own frequencies"):
        PinnedRotary(replace(scaling(np.ones(4)), start_tokens=3), layout="half_split")
