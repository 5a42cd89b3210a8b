"""Segments: where positions restart, what attends to what, and what no token predicts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.longrope.training.bins import Bin
from tests.methods.longrope.training.corpora import (
    BOS,
    EOS,
    FIRST,
    LONG,
    SHORT,
    TARGET,
    WINDOW,
    corpus,
    mix,
)

MANY = {"max_epochs": 300}


def longs(**settings):
    return Bin(**{**vars(LONG), **MANY, **settings})


def shorts(**settings):
    return Bin(**{**vars(SHORT), **MANY, **settings})


def parts(segment):
    """The documents of a segment, by their BOS."""
    starts = np.flatnonzero(segment.input_ids_L == BOS)
    return np.split(np.arange(segment.n_tokens), starts[1:])


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=3, max_size=20).filter(lambda many: min(many) <= 12),
    seed=st.integers(0, 1000),
    weighted=st.booleans(),
)
def test_a_short_segment_is_whole_documents_each_on_its_own(tmp_path_factory, lengths, seed, weighted):
    made = corpus(tmp_path_factory.mktemp("s"), lengths, weighted=weighted)
    planned = mix(made, shorts(), total_tokens=5 * TARGET, seed=seed)
    for segment in planned:
        assert segment.regime == "original" and segment.bin == "short" and not segment.skips_positions
        assert segment.n_tokens == TARGET == len(segment.position_ids_L) == len(segment.loss_weights_L)
        borders = segment.cu_seqlens.tolist()
        assert borders == [*(int(part[0]) for part in parts(segment)), TARGET]
        assert segment.cu_seqlens.dtype == np.int32
        for n, part in enumerate(parts(segment)):
            ids, positions = segment.input_ids_L[part], segment.position_ids_L[part]
            assert positions.tolist() == list(range(len(part)))
            assert len(part) <= WINDOW
            assert (segment.document_ids_L[part] == n).all()
            body = ids[1:-1] if ids[-1] == EOS else ids[1:]
            assert body.tolist() == list(range(body[0], body[0] + len(body))) if len(body) else True
            if part[-1] < TARGET - 1:  # only the last one is cut
                assert ids[-1] == EOS
            weights = segment.loss_weights_L[part]
            assert weights[0] == 0
            wanted = np.where(ids == EOS, 1, ids) if weighted else np.ones(len(ids))
            assert weights[1:].tolist() == wanted[1:].tolist()


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(10, 120), min_size=3, max_size=12).filter(lambda many: max(many) >= 20),
    masked=st.booleans(),
    bos=st.booleans(),
)
def test_no_label_crosses_a_document(tmp_path_factory, lengths, masked, bos):
    made = corpus(tmp_path_factory.mktemp("s"), lengths, bos=bos)
    planned = mix(made, longs(), total_tokens=3 * TARGET, document_mask=masked)
    for segment in planned:
        labels_L, weights_L = segment.targets()
        counted = weights_L > 0
        assert not counted[-1]
        ids_L = segment.input_ids_L
        for place in np.flatnonzero(counted):
            assert labels_L[place] == ids_L[place + 1]
            assert ids_L[place] != EOS  # what ends a document predicts nothing
            # a document's tokens count on: what is predicted is the next one or the end
            assert labels_L[place] in (ids_L[place] + 1, EOS) or ids_L[place] == BOS
        ends = np.flatnonzero(ids_L[:-1] == EOS)
        assert (weights_L[ends] == 0).all()
        n_documents = len(ends) + (ids_L[-1] != EOS) if len(ends) else 1
        assert counted.sum() >= TARGET - 1 - n_documents


def test_a_long_segment_has_full_attention_or_stays_inside_documents_by_a_setting(tmp_path):
    made = corpus(tmp_path / "s", [20, 25, 30, 40])
    whole = mix(made, longs(), total_tokens=2 * TARGET)[0]
    masked = mix(made, longs(), total_tokens=2 * TARGET, document_mask=True)[0]
    assert np.array_equal(whole.input_ids_L, masked.input_ids_L)
    assert whole.regime == masked.regime == "rescaled"
    assert whole.cu_seqlens is None
    assert whole.position_ids_L.tolist() == list(range(TARGET))
    assert not whole.document_ids_L.any()
    starts = np.flatnonzero(masked.input_ids_L == BOS)
    assert len(starts) > 1
    assert masked.cu_seqlens.tolist() == [*starts, TARGET]
    assert (masked.position_ids_L[starts] == 0).all()
    assert np.array_equal(whole.loss_weights_L, masked.loss_weights_L)
    assert (whole.loss_weights_L[starts] == 0).all()


@pytest.mark.parametrize(("bos", "eos"), [(True, True), (False, True), (True, False), (False, False)])
def test_documents_stand_between_the_special_tokens_that_the_tokenizer_has(tmp_path, bos, eos):
    made = corpus(tmp_path / "s", [6] * 12, bos=bos, eos=eos)
    segment = mix(made, shorts(), total_tokens=24, segment_length=24)[0]
    size = 6 + bos + eos
    assert segment.cu_seqlens.tolist()[:3] == [0, size, 2 * size]
    first = segment.input_ids_L[:size]
    assert (first[0] == BOS) == bos
    assert (first[-1] == EOS) == eos
    assert (segment.loss_weights_L[:size] == [0, *[1] * (size - 1)]).all()


def test_a_long_document_is_truncated_or_split_by_a_setting(tmp_path):
    made = corpus(tmp_path / "s", [50])
    split = shorts(overlong="split", max_epochs=1)
    planned = mix(made, split, total_tokens=55, segment_length=55)
    (count,) = planned.counts()
    assert (count.n_pieces, count.n_tokens_there) == (4, 50 + 4 + 1)  # a BOS each, and one EOS
    # 14 tokens and room for BOS and EOS are a window; only the piece that ends the document has its EOS.
    pieces = sorted(planned[0].input_ids_L[part].tolist()[1:] for part in parts(planned[0]))
    assert pieces == [list(range(FIRST + at, FIRST + at + 14)) for at in (0, 14, 28)] + [
        [*range(FIRST + 42, FIRST + 50), EOS]
    ]
    truncated = shorts(overlong="truncated", max_epochs=1)
    (segment,) = mix(made, truncated, total_tokens=15, segment_length=15)
    assert segment.input_ids_L.tolist() == [BOS, *range(FIRST, FIRST + 14)]
    assert EOS not in segment.input_ids_L


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(14, 90), min_size=1, max_size=6), seed=st.integers(0, 10_000))
def test_pose_skips_positions_and_text_once_inside_a_window(tmp_path_factory, lengths, seed):
    made = corpus(tmp_path_factory.mktemp("s"), lengths)
    bin = Bin(
        name="pose", kind="pose", share=1, above_length=15, segment_length="window", max_epochs=4, max_length="target",
        overlong="truncated",
    )  # fmt: skip
    planned = mix(made, bin, total_tokens=4 * len(lengths) * WINDOW, seed=seed)
    assert len(planned) == 4 * len(lengths)  # one document a segment
    for segment in planned:
        assert segment.n_tokens == WINDOW
        assert segment.regime == "rescaled" and segment.skips_positions and segment.cu_seqlens is None
        steps = np.diff(segment.position_ids_L)
        assert segment.position_ids_L[0] == 0
        assert segment.position_ids_L[-1] < TARGET
        assert (steps > 0).all() and (steps > 1).sum() <= 1
        body = np.diff(segment.input_ids_L[(segment.input_ids_L != BOS) & (segment.input_ids_L != EOS)])
        assert (body > 0).all() and (body > 1).sum() <= 1


def test_pose_reaches_far_positions_and_leaves_both_parts_room(tmp_path):
    made = corpus(tmp_path / "s", [40] * 50)
    bin = Bin(name="pose", kind="pose", share=1, above_length="window", segment_length="window", max_epochs=8)
    segments = list(mix(made, bin, total_tokens=400 * WINDOW))
    last = [segment.position_ids_L[-1] for segment in segments]
    assert min(last) == WINDOW - 1 and max(last) == TARGET - 1
    skips = [int(np.argmax(np.diff(segment.position_ids_L) > 1)) + 1 for segment in segments]
    assert max(skips) <= (WINDOW + 1) // 2


def test_transformers_reads_a_skip_without_a_mask_as_packing_and_with_one_as_it_is(tmp_path):
    """Why `skips_positions` asks for an attention mask of ones."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    made = corpus(tmp_path / "s", [40] * 4)
    bin = Bin(name="pose", kind="pose", share=1, above_length="window", segment_length="window", max_epochs=4)
    segment = max(mix(made, bin, total_tokens=16 * WINDOW), key=lambda segment: segment.position_ids_L[-1])
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2000, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=TARGET,
        )
    ).eval()  # fmt: skip
    ids, positions = (torch.tensor(part)[None] for part in (segment.input_ids_L, segment.position_ids_L))
    with torch.no_grad():
        bare = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        masked = model(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids)).logits
        model.set_attn_implementation("eager")
        mask = torch.full((WINDOW, WINDOW), float("-inf")).triu(1)[None, None]
        right = model(input_ids=ids, position_ids=positions, attention_mask=mask).logits
    assert torch.allclose(masked, right, atol=1e-5)
    assert not torch.allclose(bare, right, atol=1e-3)
