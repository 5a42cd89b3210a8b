"""Greedy generation and scoring on the embedded model."""

import math

import pytest
import torch

from harness.models import scoring
from harness.models.generation import generate
from harness.models.scoring import score_segments
from harness.types import Example, Segment


@pytest.fixture
def counting(tiny_llama):
    """A prompt that a language model goes on with for a while."""
    return tiny_llama.tokenizer.encode("The grass is green. The sky is blue. The sun is yellow. Here we go. " * 5)


def test_finds_a_needle_inside_the_window(tiny_llama):
    encode = tiny_llama.tokenizer.encode
    noise = encode("The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n" * 10)
    needle = encode(" One of the special magic numbers for brave-harbor is: 7302945.")
    question = encode(
        "\nWhat is the special magic number for brave-harbor mentioned in the provided text? "
        "The special magic number for brave-harbor mentioned in the provided text is:"
    )
    prompt = [*noise[:200], *needle, *noise[200:300], *question]
    output = tiny_llama.answer(Example(id="x", prompt_ids=prompt, max_new_tokens=12))
    assert output.text.startswith(" 7302945")
    assert len(output.token_ids) == 12 or output.token_ids[-1] in tiny_llama.eos_ids


def test_stops_before_the_first_stop_text(tiny_llama, counting):
    free = generate(tiny_llama, counting, max_new_tokens=30)
    first, second = free.text[6:9], free.text[3:6]
    stopped = generate(tiny_llama, counting, max_new_tokens=30, stop=(first, second))
    assert stopped.text == free.text[: min(free.text.index(first), free.text.index(second))]
    assert len(stopped.token_ids) < len(free.token_ids)
    assert free.token_ids[: len(stopped.token_ids)] == stopped.token_ids


def test_writes_as_many_tokens_as_asked(tiny_llama, counting):
    for n in (1, 5):
        assert len(generate(tiny_llama, counting, max_new_tokens=n).token_ids) == n


@pytest.mark.parametrize(("prompt", "n"), [([], 4), ([5], 0)])
def test_nothing_to_read_or_to_write_is_an_error(tiny_llama, prompt, n):
    with pytest.raises(ValueError, match="at least one each"):
        generate(tiny_llama, prompt, max_new_tokens=n)


@pytest.fixture
def broken(tiny_llama):
    """The model with one weight of its last layer gone wrong."""
    norm = tiny_llama.hf.model.norm.weight
    before = norm.detach().clone()
    with torch.no_grad():
        norm[3] = math.nan
    yield tiny_llama
    with torch.no_grad():
        norm.copy_(before)


def test_numbers_that_are_not_finite_are_an_error_not_an_answer(broken, counting):
    with pytest.raises(FloatingPointError, match="logits that are not finite"):
        generate(broken, counting, max_new_tokens=3)
    with pytest.raises(FloatingPointError, match="not finite"):
        score_segments(broken, [Segment(token_ids=counting, n_context=5)])


def test_the_model_runs_as_before_after_scoring_failed(tiny_llama, counting):
    with pytest.raises((IndexError, RuntimeError)):
        score_segments(tiny_llama, [Segment(token_ids=[*counting, 5000], n_context=2)])  # no such token
    assert generate(tiny_llama, counting, max_new_tokens=2).token_ids


@pytest.mark.parametrize("n_context", [0, 4, 5])
def test_a_segment_that_scores_nothing_is_an_error(tiny_llama, n_context):
    with pytest.raises(ValueError, match="it should score one at least"):
        score_segments(tiny_llama, [Segment(token_ids=[1, 2, 3, 4], n_context=n_context)])


def test_scores_segments_apart_and_block_by_block(tiny_llama, counting, monkeypatch):
    segments = [Segment(token_ids=counting[:50], n_context=1), Segment(token_ids=counting[:9], n_context=8)]
    output = score_segments(tiny_llama, segments)
    assert [len(row) for row in output.logprobs] == [49, 1]
    assert output.logprobs[1][0] == pytest.approx(output.logprobs[0][7], abs=1e-5)
    monkeypatch.setattr(scoring, "_BLOCK_LOGITS", 3 * 4096)
    small = score_segments(tiny_llama, segments)
    assert small.greedy == output.greedy
    torch.testing.assert_close(torch.tensor(small.logprobs[0]), torch.tensor(output.logprobs[0]), atol=1e-5, rtol=0)


def test_greedy_marks_the_tokens_that_the_model_would_write(tiny_llama, counting):
    written = generate(tiny_llama, counting, max_new_tokens=4).token_ids
    wrong = (written[1] + 1) % 4096
    tokens = [*counting, written[0], wrong]
    output = score_segments(tiny_llama, [Segment(token_ids=tokens, n_context=len(counting))])
    assert output.greedy == ((True, False),)
    assert output.logprobs[0][0] > output.logprobs[0][1]
