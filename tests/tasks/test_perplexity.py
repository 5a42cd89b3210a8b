import math

import pytest

from harness.catalogue import build
from harness.errors import RequestError
from harness.types import Output
from tasks.haystack import load
from tasks.perplexity import Perplexity


def draw(task, tokenizer, *, seq_len, n=1, **fields):
    return list(Perplexity(**fields).examples(task, seq_len=seq_len, n=n, seed=0, tokenizer=tokenizer))


def test_a_whole_window_is_running_text_of_exactly_the_length(byte_tokenizer):
    for example in draw("docs_whole", byte_tokenizer, seq_len=1000, n=5):
        (segment,) = example.segments
        assert (len(segment.token_ids), segment.n_context) == (1000, 1)
        text = byte_tokenizer.decode(list(segment.token_ids))
        start = example.metadata["start_character"]
        assert load("docs").text[start : start + len(text)] == text


def test_documents_start_at_places_of_their_own(byte_tokenizer):
    examples = draw("docs_whole", byte_tokenizer, seq_len=2000, n=20)
    assert len({example.metadata["start_character"] for example in examples}) >= 15


@pytest.mark.parametrize(("stride", "document"), [(None, None), (1, 70), (48, 300), (63, 64), (50, 1000)])
def test_sliding_windows_score_each_token_once(stride, document, tokenizer):
    (example,) = draw("docs_sliding", tokenizer, seq_len=64, stride=stride, document_tokens=document)
    has_bos = example.segments[0].token_ids[0] == tokenizer.bos_token_id
    seen, scored = [], []
    for segment in example.segments:
        assert len(segment.token_ids) == 64
        tokens = list(segment.token_ids[has_bos:])
        # where the window lies: after the tokens already seen, less those it repeats
        n_old = segment.n_context - has_bos if seen else 0
        assert seen[len(seen) - n_old :] == tokens[:n_old]
        assert not seen or n_old >= 64 - has_bos - (stride or 16)
        seen += tokens[n_old:]
        scored += segment.token_ids[segment.n_context :]
    assert len(seen) == (document or 128) - has_bos
    assert scored == seen[0 if has_bos else 1 :]


def test_a_stride_as_long_as_the_window_leaves_no_gap(bos_tokenizer):
    (example,) = draw("docs_sliding", bos_tokenizer, seq_len=65, stride=64, document_tokens=257)
    assert sum(len(segment.token_ids) - segment.n_context for segment in example.segments) == 256
    with pytest.raises(RequestError, match="64 tokens is too short, the shortest is 65"):
        draw("docs_sliding", bos_tokenizer, seq_len=64, stride=64)


def test_a_document_longer_than_the_haystack_is_refused(byte_tokenizer):
    with pytest.raises(RequestError, match=r"docs_whole.*1000000 tokens is too long"):
        draw("docs_whole", byte_tokenizer, seq_len=1_000_000)


def test_a_document_shorter_than_the_window_is_refused(byte_tokenizer):
    with pytest.raises(RequestError, match=r"document_tokens = 100.*512"):
        draw("docs_sliding", byte_tokenizer, seq_len=512, document_tokens=100)


@pytest.mark.parametrize("params", [{"stride": 0}, {"document_tokens": -1}, {"stride": 1.5}])
def test_bad_settings_are_named(params):
    with pytest.raises(RequestError, match=next(iter(params))):
        build(Perplexity, params, where="suite 'perplexity'")


def test_score_is_one_over_perplexity_with_buckets_by_place(byte_tokenizer):
    (example,) = draw("docs_sliding", byte_tokenizer, seq_len=64, stride=32, document_tokens=96)
    first, second = ([-math.log(2)] * 63, [-math.log(8)] * 32)
    score = Perplexity().score("docs_sliding", example, Output(logprobs=(tuple(first), tuple(second))))
    nll = 63 * math.log(2) + 32 * math.log(8)
    assert score.value == pytest.approx(math.exp(-nll / 95))
    assert score.measures["nll"] == pytest.approx(nll)
    buckets = score.measures["nll_by_position"]
    assert [(start, end, n) for start, end, _, n in buckets] == [
        (1, 2, 1), (2, 4, 2), (4, 8, 4), (8, 16, 8), (16, 32, 16), (32, 64, 64),
    ]  # fmt: skip
    assert sum(nll for _, _, nll, _ in buckets) == pytest.approx(nll)
    assert buckets[4][2] == pytest.approx(16 * math.log(2))
