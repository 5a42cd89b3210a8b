"""Choices of one question share what they begin with, and score as if they did not."""

import pytest
import torch

from harness.models.scoring import score_segments
from harness.types import Segment
from tests.models.test_generation import counted_tokens, prompts
from tests.models.zoo import chunked


@pytest.mark.parametrize("n_choices", [2, 4])
def test_choices_score_together_as_each_alone(family, n_choices, monkeypatch):
    context, *endings = prompts((70, 3, 1, 9, 1))
    segments = [Segment(token_ids=[*context, *ending], n_context=70) for ending in endings[:n_choices]]
    alone = [score_segments(family, [segment]) for segment in segments]
    read = counted_tokens(family, monkeypatch)
    for chunk in (4096, 32):
        with chunked(family, chunk):
            together = score_segments(family, segments)
        assert together.greedy == tuple(output.greedy[0] for output in alone)
        for ours, output in zip(together.logprobs, alone, strict=True):
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(output.logprobs[0]), atol=1e-4, rtol=0)
    if family.can_batch:
        assert sum(n for n in read if n > 1) < 2 * (70 + 4 * 20)


def test_what_choices_share_may_reach_beyond_a_context_or_be_nothing(tiny_llama):
    """Contexts of different lengths, an unequal first token, a choice that is another one's beginning."""
    ids = prompts((60,))[0]
    segments = [
        Segment(token_ids=ids[:40], n_context=30),
        Segment(token_ids=ids, n_context=39),
        Segment(token_ids=ids[:31], n_context=1),
        Segment(token_ids=ids[5:50], n_context=20),
    ]
    for group in (segments[:2], segments[:3], segments):
        together = score_segments(tiny_llama, group)
        for segment, ours in zip(group, together.logprobs, strict=True):
            alone = score_segments(tiny_llama, [segment]).logprobs[0]
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(alone), atol=1e-4, rtol=0)
