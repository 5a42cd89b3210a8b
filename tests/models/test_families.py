"""What holds for a model of every family that Longreach says it can measure."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, Llama4TextConfig, LlamaConfig

from harness.errors import RequestError
from harness.models.generation import generate
from harness.models.rotary import find_sites
from harness.models.scoring import score_segments
from harness.types import Segment
from methods.base import RopeScaling
from methods.position_interpolation import PositionInterpolation
from methods.vanilla import Vanilla
from tests.models.zoo import chunked, random_model


def logits(hf, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return hf(input_ids=torch.tensor([ids])).logits[0]


def stock(family):
    return AutoModelForCausalLM.from_pretrained(
        family.request.name, attn_implementation="eager", dtype=torch.float32
    ).eval()


def test_vanilla_is_the_model_as_transformers_runs_it(family, ids):
    with Vanilla().applied(family, seq_len=len(ids)):
        ours = logits(family.hf, ids)
    expected = logits(stock(family), ids)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)


def test_the_rope_facts_are_the_model_s_own(family):
    own = family.sites[0].own
    torch.testing.assert_close(torch.tensor(family.rope.inv_freq_P), torch.tensor(own.inv_freq_P), rtol=1e-6, atol=0)
    assert family.rope.attention_factor == own.attention_factor


def test_interpolated_positions_are_the_same_as_interpolated_frequencies(family, ids):
    """Half the frequency at position 2n is the whole frequency at n: the layout and the partial rotation are right."""
    rope = family.rope
    halved = RopeScaling(inv_freq_P=rope.inv_freq_P / 2, attention_factor=rope.attention_factor)
    positions_BL = torch.arange(20)[None]
    hidden_BLH = torch.zeros(1, 20, 8)
    site = family.sites[0]
    layer_type = ("full_attention",) if site.by_layer_type else ()
    expected = site.stock(hidden_BLH, positions_BL, *layer_type)
    got = site.pinned(halved, "cpu")(hidden_BLH, 2 * positions_BL, *layer_type)
    for theirs, ours in zip(expected, got, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_method_moves_the_answers_and_leaves_nothing_behind(family, ids):
    before = logits(family.hf, ids)
    with PositionInterpolation(factor=8.0).applied(family, seq_len=1024):
        moved = logits(family.hf, ids)
    assert (moved - before).abs().max() > 0.01
    assert torch.equal(logits(family.hf, ids), before)


def test_reading_in_chunks_gives_the_same_tokens(family, ids):
    whole = generate(family, ids, max_new_tokens=8)
    with chunked(family, 33):
        assert generate(family, ids, max_new_tokens=8).token_ids == whole.token_ids
    assert len(whole.token_ids) == 8 or whole.token_ids[-1] in family.eos_ids


def test_scores_are_those_of_the_whole_logit_matrix(family, ids):
    logprobs_LV = logits(family.hf, ids).log_softmax(-1)
    expected_L = logprobs_LV[99:149].gather(1, torch.tensor(ids)[100:150, None])[:, 0]
    best_L = logprobs_LV[99:149].argmax(-1) == torch.tensor(ids)[100:150]
    for chunk in (4096, 40):
        with chunked(family, chunk):
            output = score_segments(family, [Segment(token_ids=ids, n_context=100)])
        torch.testing.assert_close(torch.tensor(output.logprobs[0]), expected_L, atol=1e-4, rtol=0)
        assert output.greedy == (tuple(best_L.tolist()),)


def test_a_model_without_rope_is_refused_by_name():
    gpt2 = random_model(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32))
    with pytest.raises(RequestError, match="GPT2LMHeadModel has no rotary embedding"):
        find_sites(gpt2)


def test_a_rotary_embedding_of_another_kind_is_refused_by_name():
    complex_numbers = random_model(
        Llama4TextConfig(
            vocab_size=32, hidden_size=32, intermediate_size=32, intermediate_size_mlp=32, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_local_experts=1, num_experts_per_tok=1,
        )
    )  # fmt: skip
    with pytest.raises(RequestError, match="Llama4TextRotaryEmbedding is a rotary embedding that Longreach cannot"):
        find_sites(complex_numbers)


def test_rotary_embeddings_of_different_sizes_are_refused_by_name():
    def tower(head_dim: int):
        return random_model(
            LlamaConfig(
                vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=2, head_dim=head_dim,
            )
        )  # fmt: skip

    both = torch.nn.ModuleDict({"large": tower(16), "small": tower(8)})
    with pytest.raises(RequestError, match=r"differ: LlamaRotaryEmbedding at large\.model\.rotary_emb .* small"):
        find_sites(both)
