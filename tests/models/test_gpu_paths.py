"""What only a GPU does, with its kernels replaced by plain ones: padding, counted lengths, rows that never move."""

import math

import pytest
import torch

from harness.models import decoding, forward, generation, kernels
from harness.models.decoding import Decoder
from harness.models.generation import generate
from harness.models.scoring import score_segments
from harness.types import Segment
from tests.models.test_generation import answers, asked, prompts, tokens

LENGTHS = (40, 7, 91, 64, 1, 40)


@pytest.fixture(autouse=True)
def _one_token_a_step(tiny_llama):
    tiny_llama.limits.drafts = False
    yield
    tiny_llama.limits.drafts = True


@pytest.fixture
def requests():
    return [asked(ids, n) for ids, n in zip(prompts(LENGTHS), (8, 3, 12, 1, 8, 8), strict=True)]


@pytest.fixture
def alone(tiny_llama, requests):
    return tokens(generate(tiny_llama, r.prompt_ids, max_new_tokens=r.max_new_tokens) for r in requests)


def counted(query, key, value, scaling, lengths_B):
    """As `kernels.counted`, with a mask."""
    assert key.shape[2] >= int(lengths_B.max())
    seen = torch.arange(key.shape[2]) < lengths_B[:, None]
    scores = (query @ key.transpose(2, 3)) * scaling
    out = scores.masked_fill(~seen[:, None, None], -math.inf).softmax(-1) @ value
    return out.transpose(1, 2), "counted"


def test_padded_prompts_give_the_same_tokens(tiny_llama, requests, alone, monkeypatch):
    monkeypatch.setitem(forward._MULTIPLE, "cpu", 32)
    monkeypatch.setitem(generation._TOGETHER, "cpu", 300)
    for n_rows in (1, 3):
        tiny_llama.cache = None
        assert tokens(answers(tiny_llama, requests, n_rows)) == alone


def test_padded_segments_give_the_same_scores(family, monkeypatch):
    context, *endings = prompts((70, 3, 9))
    segments = [Segment(token_ids=[*context, *ending], n_context=70) for ending in endings]
    whole = Segment(token_ids=context, n_context=1)
    expected = [score_segments(family, group) for group in (segments, [whole])]
    monkeypatch.setitem(forward._MULTIPLE, "cpu", 32)
    for group, before in zip((segments, [whole]), expected, strict=True):
        found = score_segments(family, group)
        assert [len(row) for row in found.logprobs] == [len(row) for row in before.logprobs]
        for ours, theirs in zip(found.logprobs, before.logprobs, strict=True):
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), atol=1e-4, rtol=0)


def test_rows_whose_lengths_are_counted_need_no_mask(tiny_llama, requests, alone, monkeypatch):
    monkeypatch.setattr(kernels, "can_count", lambda *args: True)
    monkeypatch.setattr(kernels, "counted", counted)
    found = answers(tiny_llama, requests, 3)
    assert tokens(found) == alone
    assert any("counted" in output.attention for output in found)


class Replayed:
    """As `_Graph`: one step over the same rows and all slots, called again and again."""

    made = 0

    def __init__(self, decoder, tokens_B1, positions_B):
        self.decoder, self.n_rows = decoder, len(tokens_B1)
        type(self).made += 1

    def replay(self, tokens_B1, positions_B):
        assert len(tokens_B1) == self.n_rows
        return self.decoder._forward(tokens_B1, positions_B, self.decoder._cache.capacity, True)


@pytest.mark.parametrize("counts", [False, True])
def test_a_graph_keeps_its_rows_while_prompts_come_and_go(tiny_llama, requests, alone, counts, monkeypatch):
    if counts:
        monkeypatch.setattr(kernels, "can_count", lambda *args: True)
        monkeypatch.setattr(kernels, "counted", counted)
    monkeypatch.setattr(decoding, "_Graph", Replayed)
    monkeypatch.setattr(Decoder, "keeps_rows", property(lambda self: True))
    before = Decoder.__init__

    def wanting(self, *args):
        before(self, *args)
        self._wants_graph = True

    monkeypatch.setattr(Decoder, "__init__", wanting)
    for n_rows in (2, 4):
        Replayed.made = 0
        assert tokens(answers(tiny_llama, requests, n_rows)) == alone
        assert Replayed.made == 1


def test_a_model_that_cannot_be_captured_goes_on_step_by_step(tiny_llama, requests, alone, monkeypatch):
    def failing(*args):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(decoding, "_Graph", failing)
    before = Decoder.__init__

    def wanting(self, *args):
        before(self, *args)
        self._wants_graph = True

    monkeypatch.setattr(Decoder, "__init__", wanting)
    try:
        assert tokens(answers(tiny_llama, requests, 3)) == alone
        assert not tiny_llama.limits.graphs
    finally:
        tiny_llama.limits.graphs = True
