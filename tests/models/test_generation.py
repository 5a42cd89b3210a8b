"""Many prompts at once give what each of them gives alone."""

import random
from functools import partial

import pytest
import torch

from harness.catalogue import resolve
from harness.models.caches import BufferCache
from harness.models.generation import Request, _certain, generate, generate_each
from harness.types import Output
from methods.yarn import YaRN
from tests.models.zoo import chunked


def prompts(lengths: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 4096, (length,), generator=generator).tolist() for length in lengths]


def answers(model, requests, n_rows: int) -> list[Output]:
    found = dict(generate_each(model, requests, n_rows=n_rows))
    assert sorted(found) == list(range(len(requests)))
    return [found[place] for place in range(len(requests))]


def asked(prompt_ids, n=8, **more) -> Request:
    return Request(prompt_ids=prompt_ids, max_new_tokens=n, **more)


def tokens(outputs) -> list[tuple[int, ...]]:
    return [output.token_ids for output in outputs]


@pytest.mark.parametrize("n_rows", [2, 3, 9])
def test_a_batch_of_different_lengths_gives_each_row_s_own_tokens(family, n_rows, monkeypatch):
    requests = [asked(ids, n) for ids, n in zip(prompts((40, 7, 91, 64, 1, 40)), (8, 3, 12, 1, 8, 8), strict=True)]
    alone = [generate(family, r.prompt_ids, max_new_tokens=r.max_new_tokens) for r in requests]
    together = answers(family, requests, n_rows)
    assert tokens(together) == tokens(alone)
    assert [output.stopped for output in together] == [output.stopped for output in alone]
    with chunked(family, 13):
        assert tokens(answers(family, requests, n_rows)) == tokens(alone)
    monkeypatch.setattr(family.limits, "drafts", False)
    assert tokens(answers(family, requests, n_rows)) == tokens(alone)


def test_prompts_that_begin_alike_are_read_on_from_there(family, monkeypatch):
    """Whatever order they come in, and whichever slot becomes free."""
    common, *rest = prompts((80, 5, 30, 1, 17, 30))
    requests = [asked([*common, *ids], n) for ids, n in zip(rest, (2, 9, 4, 7, 3), strict=True)]
    requests += [asked(common, 5), asked(common, 6), asked(rest[1], 4)]
    alone = [generate(family, r.prompt_ids, max_new_tokens=r.max_new_tokens) for r in requests]
    read = counted_tokens(family, monkeypatch)
    for n_rows in (1, 2, 4):
        assert tokens(answers(family, requests, n_rows)) == tokens(alone)
    if family.can_batch:
        n_written = sum(len(output.token_ids) for output in alone)
        assert sum(read) < 3 * (sum(len(r.prompt_ids) for r in requests) - 5 * 80 + 2 * n_written)


def counted_tokens(model, monkeypatch) -> list[int]:
    """How many tokens each pass of the model reads."""
    base, seen = model.hf.base_model, []
    forward = type(base).forward

    def counting(self, *args, **options):
        seen.append((options["input_ids"] if "input_ids" in options else args[0]).numel())
        return forward(self, *args, **options)

    monkeypatch.setattr(type(base), "forward", counting)
    return seen


@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager", "math"])
def test_every_backend_gives_the_same_tokens(tiny_llama, attention):
    from harness.models.loading import load
    from harness.models.request import ModelRequest

    model = load(ModelRequest(name="tiny-llama", attention=attention), device="cpu")
    requests = [asked(ids) for ids in prompts((300, 20, 301, 150))]
    expected = answers(tiny_llama, requests, 4)
    with YaRN(factor=4.0).applied(model, seq_len=600), YaRN(factor=4.0).applied(tiny_llama, seq_len=600):
        expected = answers(tiny_llama, requests, 1)
        for n_rows, chunk in ((1, 4096), (4, 4096), (4, 64)):
            with chunked(model, chunk):
                found = answers(model, requests, n_rows)
            assert tokens(found) == tokens(expected)
    assert {output.attention for output in found} == {{"auto": "flash"}.get(attention, attention)}


def test_a_stop_text_or_the_budget_of_one_row_leaves_the_others_alone(tiny_llama):
    text = "The grass is green. The sky is blue. The sun is yellow. Here we go. " * 5
    ids = tiny_llama.tokenizer.encode(text)
    free = generate(tiny_llama, ids, max_new_tokens=30)
    end = free.text[6:9]
    first, second, third = answers(tiny_llama, [asked(ids, 30, stop=(end,)), asked(ids, 30), asked(ids[5:], 2)], 3)
    assert (first.text, first.stopped) == (free.text[: free.text.index(end)], "stop")
    assert (second.token_ids, second.stopped) == (free.token_ids, free.stopped)
    assert (len(third.token_ids), third.stopped) == (2, "length")


def test_a_settled_text_is_the_beginning_of_the_whole_one(tiny_llama):
    """The suites' own early stops, on samples of theirs: same score, fewer tokens."""
    for name, task in (("needle", "keys4_noise"), ("passkey", "passkey"), ("ruler-nvidia", "niah_single_1")):
        suite = resolve("suite", name)()
        samples = list(suite.examples(task, seq_len=512, n=4, seed=0, tokenizer=tiny_llama.tokenizer))
        whole = answers(tiny_llama, [asked(s.prompt_ids, s.max_new_tokens) for s in samples], 4)
        settled = [partial(suite.settled, task, sample) for sample in samples]
        requests = [
            asked(s.prompt_ids, s.max_new_tokens, settled=check) for s, check in zip(samples, settled, strict=True)
        ]
        early = answers(tiny_llama, requests, 3)
        for sample, full, part in zip(samples, whole, early, strict=True):
            assert full.token_ids[: len(part.token_ids)] == part.token_ids
            assert suite.score(task, sample, part) == suite.score(task, sample, full)
        assert name != "ruler-nvidia" or all(part.stopped == "settled" for part in early)


@pytest.mark.parametrize(
    ("text", "stop", "certain"),
    [
        ("is 12", (), "is 12"),
        ("is 12\ufffd\ufffd", (), "is 12"),
        ("is 12\n", ("\n\n",), "is 12"),
        ("is 12", ("2.", "12 34"), "is "),
    ],
)
def test_what_of_a_text_is_certain(text, stop, certain):
    assert _certain(text, stop) == certain


def test_random_schedules_give_the_same_tokens(tiny_llama):
    """Rows that stop at random places, in caches of random sizes."""
    draw = random.Random(3)
    for _ in range(3):
        lengths = tuple(draw.choice((3, 20, 60, 61, 130)) for _ in range(7))
        requests = [asked(ids, draw.randint(1, 10)) for ids in prompts(lengths, seed=draw.randint(0, 99))]
        alone = [generate(tiny_llama, r.prompt_ids, max_new_tokens=r.max_new_tokens) for r in requests]
        assert tokens(answers(tiny_llama, requests, draw.randint(1, 5))) == tokens(alone)


def test_a_cache_is_kept_for_what_it_is_large_enough_for(tiny_llama):
    tiny_llama.cache = None
    generate(tiny_llama, prompts((100,))[0], max_new_tokens=4)
    kept = tiny_llama.cache
    assert isinstance(kept, BufferCache)
    generate(tiny_llama, prompts((50,))[0], max_new_tokens=4)
    assert tiny_llama.cache is kept
    answers(tiny_llama, [asked(ids) for ids in prompts((200, 200))], 2)
    assert tiny_llama.cache is not kept


def test_the_rows_before_a_failure_are_there(tiny_llama):
    """A consumer that stops, or a row that fails, takes nothing from the rows that are done."""
    outputs = generate_each(
        tiny_llama, [asked(ids, n) for ids, n in zip(prompts((9, 9)), (1, 50), strict=True)], n_rows=2
    )
    assert len(next(outputs)[1].token_ids) == 1
    outputs.close()
    assert generate(tiny_llama, prompts((9,))[0], max_new_tokens=1).token_ids
