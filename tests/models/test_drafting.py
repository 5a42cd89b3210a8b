"""Guessed tokens change how many passes an answer takes, and nothing else."""

import random

import pytest
import torch

from harness.models.drafting import Drafter
from harness.models.generation import generate_each
from methods.yarn import YaRN
from tests.models.test_generation import answers, asked, counted_tokens, prompts
from tests.models.zoo import chunked


@pytest.fixture(autouse=True)
def _as_before(tiny_llama):
    eos_ids = tiny_llama.eos_ids
    yield
    tiny_llama.eos_ids, tiny_llama.limits.drafts = eos_ids, True


def undrafted(model, requests) -> list:
    """What step-by-step decoding answers, each request alone."""
    model.limits.drafts = False
    try:
        return [answers(model, [request], 1)[0] for request in requests]
    finally:
        model.limits.drafts = True


def same(found, expected) -> bool:
    """Whether they agree in everything but the times."""
    return [(o.token_ids, o.text, o.stopped) for o in found] == [(o.token_ids, o.text, o.stopped) for o in expected]


def looping(n: int, seed: int = 0) -> list[int]:
    """A prompt that says the same again and again."""
    (phrase,) = prompts((random.Random(seed).randint(3, 9),), seed)
    return (phrase * n)[:n]


class Guessing(Drafter):
    """Guesses at every step, of any length, often wrong somewhere."""

    draw = random.Random(0)

    def guess(self, tokens, n_most):
        self._waits, self._level = 0, self.draw.randrange(3)
        found = super().guess(tokens, n_most) or [self.draw.randrange(4096) for _ in range(min(3, n_most))]
        if found and self.draw.random() < 0.3:
            found[self.draw.randrange(len(found))] = 7
        return found


@pytest.fixture(params=["its own guesses", "a guess at every step"])
def _guesses(request, monkeypatch):
    if request.param != "its own guesses":
        monkeypatch.setattr("harness.models.generation.Drafter", Guessing)


@pytest.mark.usefixtures("_guesses")
@pytest.mark.parametrize("n_rows", [1, 4])
def test_a_batch_of_loops_and_texts_gives_step_by_step_answers(tiny_llama, n_rows):
    lengths, budgets = (40, 7, 91, 200, 1, 40, 130), (20, 3, 24, 1, 40, 2, 33)
    texts = [*prompts(lengths[:3]), *(looping(n, n) for n in lengths[3:])]
    requests = [asked(ids, n) for ids, n in zip(texts, budgets, strict=True)]
    with YaRN(factor=4.0).applied(tiny_llama, seq_len=300):
        expected = undrafted(tiny_llama, requests)
        assert same(answers(tiny_llama, requests, n_rows), expected)
        with chunked(tiny_llama, 13):
            assert same(answers(tiny_llama, requests, n_rows), expected)
    assert [len(output.token_ids) for output in expected] == list(budgets)


@pytest.mark.usefixtures("_guesses")
def test_every_family_gives_step_by_step_answers(family):
    """Random models fall into loops by themselves; those that cannot batch read no guesses."""
    requests = [asked(ids, n) for ids, n in zip(prompts((40, 7, 64, 30)), (20, 40, 23, 1), strict=True)]
    assert same(answers(family, requests, 3), undrafted(family, requests))


@pytest.mark.usefixtures("_guesses")
def test_the_first_end_inside_a_guess_ends_the_row(tiny_llama):
    """An end-of-sequence token, a stop text, a settled text, the budget: wherever a guess runs over it."""
    draw = random.Random(1)
    ids = [looping(n, n) for n in (60, 61, 80, 33)]
    whole = undrafted(tiny_llama, [asked(row, 36) for row in ids])
    seen = set()
    for _ in range(3):
        requests = []
        for row, output in zip(ids, whole, strict=True):
            cut = draw.randint(2, len(output.text) - 4)
            stop = (output.text[cut : cut + draw.randint(1, 4)],) if draw.random() < 0.4 else ()
            settled = (lambda text, n=cut: len(text) >= n) if draw.random() < 0.5 else None
            requests.append(asked(row, draw.randint(5, 36), stop=stop, settled=settled))
        tiny_llama.eos_ids = frozenset([draw.choice(draw.choice(whole).token_ids)])
        expected = undrafted(tiny_llama, requests)
        assert same(answers(tiny_llama, requests, draw.randint(1, 4)), expected)
        seen |= {output.stopped for output in expected}
    assert seen == {"eos", "stop", "settled", "length"}


def test_a_loop_takes_few_passes(tiny_llama, monkeypatch):
    request = asked(looping(64), 64)
    (expected,) = undrafted(tiny_llama, [request])
    read = counted_tokens(tiny_llama, monkeypatch)
    (found,) = answers(tiny_llama, [request], 1)
    assert same([found], [expected])
    assert len(found.token_ids) == 64
    assert len(read) < 64 / 4


def test_text_that_repeats_nothing_takes_the_passes_it_took(tiny_llama, monkeypatch):
    """As many, and hardly a token more in them."""
    written = iter(range(1, 4096))
    for room in ("decoding", "generation"):
        monkeypatch.setattr(f"harness.models.{room}.most_probable", lambda logits: [next(written) for _ in logits])
    read = counted_tokens(tiny_llama, monkeypatch)
    answers(tiny_llama, [asked(prompts((64,))[0], 80)], 1)
    assert len(read) == 80
    assert sum(read[1:]) == 79


def test_wrong_guesses_become_rare():
    """Every place has been seen before, and goes on in another way each time."""
    drafter, n_guessed, tokens = Drafter([1, 2, 3, 9] * 8, 400), 0, [1, 2, 3]
    for step in range(390):
        n = len(drafter.guess(tokens, 100))
        drafter.judge(n, 0)
        n_guessed += n
        tokens.append((1, 2, 3)[step % 3] if step % 4 else 10 + step)
    assert n_guessed < 390 / 3


def test_a_guess_follows_the_longest_match_and_goes_round():
    drafter = Drafter([5, 1, 2, 3, 70, 6, 1, 2, 3, 80], 20)
    assert drafter.guess([5, 1, 2, 3], 1) == [70]  # the later occurrence agrees in fewer tokens
    assert drafter.guess([6, 1, 2, 3], 9) == [80, 6]
    assert drafter.guess([9, 2, 3], 9) == []
    for _ in range(2):
        drafter.judge(2, 2)
    assert drafter.guess([4, 4, 4, 4], 6) == [4] * 6


def test_a_guess_that_gives_no_finite_number_is_refused_like_any_other(tiny_llama, monkeypatch):
    """Only a token that would be written anyway may fail a row."""
    requests = [asked(ids, 12) for ids in prompts((30, 41, 8))]
    expected = undrafted(tiny_llama, requests)
    used = {token for r, output in zip(requests, expected, strict=True) for token in (*r.prompt_ids, *output.token_ids)}
    bad = next(token for token in range(1, 4096) if token not in used)
    monkeypatch.setattr(Drafter, "guess", lambda self, tokens, n_most: [bad][:n_most])
    embedding = tiny_llama.hf.get_input_embeddings()

    def broken(module, args, output):
        return torch.where((args[0] == bad)[..., None], torch.nan, output)

    hook = embedding.register_forward_hook(broken)
    try:
        assert same(answers(tiny_llama, requests, 3), expected)
        with pytest.raises(FloatingPointError, match="not finite"):
            list(generate_each(tiny_llama, [asked([*requests[0].prompt_ids, bad])]))
    finally:
        hook.remove()
        tiny_llama.cache = None  # it holds numbers that are not finite
