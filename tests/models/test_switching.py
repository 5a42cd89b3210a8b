"""A generation that begins inside the window: each token under the RoPE that the length before it asks for."""

from collections.abc import Callable, Iterator

import pytest
import torch

from harness.answering import answer_all
from harness.models.generation import Request, generate, generate_each
from harness.models.loading import LoadedModel, load
from harness.models.request import ModelRequest
from harness.models.rotary import rotary_scaling
from harness.types import Example
from methods.base import RopeSpec
from methods.longrope.methods import LongRoPE, LongRoPE2
from methods.resonance import Resonance
from tests.methods.longrope.training.exported import factors_file
from tests.models.zoo import CONFIGS, saved

WINDOW, LONG = 128, 160  # of the zoo's models
N_PAIRS = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Iterator[LoadedModel]:
    folder = saved(tmp_path_factory.mktemp("llama") / "llama", CONFIGS["llama"]())
    loaded = load(ModelRequest(name=str(folder)), device="cpu")
    loaded.eos_ids = frozenset()  # so that every answer is as long as it may be
    return loaded


@pytest.fixture
def live(tmp_path) -> LongRoPE2:
    lists = {"rescale_factors": [3.0 + pair for pair in range(N_PAIRS)], "short_factor": [1.5] * N_PAIRS}
    return LongRoPE2(factors=factors_file(tmp_path, **lists), switch="live")


def ids(n: int, seed: int = 1) -> list[int]:
    return torch.randint(1, 4096, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def asked(n_prompt: int, n_new: int, seed: int = 1, **more) -> Request:
    return Request(prompt_ids=ids(n_prompt, seed), max_new_tokens=n_new, **more)


def stepwise(model: LoadedModel, method: LongRoPE2, prompt: list[int], n_new: int) -> tuple[int, ...]:
    """The definition: one full forward pass a token, under the RoPE for the length of what is read."""
    tokens = list(prompt)
    for _ in range(n_new):
        scaling = method.rope_scaling(model.rope, seq_len=len(tokens))
        with rotary_scaling(model, scaling), torch.no_grad():
            tokens.append(int(model.hf(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    return tuple(tokens[len(prompt) :])


def answers(model: LoadedModel, method: LongRoPE2, requests: list[Request], n_rows: int = 1) -> list:
    longest = max(len(r.prompt_ids) + r.max_new_tokens for r in requests)
    with method.applied(model, seq_len=longest):
        found = dict(generate_each(model, requests, n_rows=n_rows))
    assert sorted(found) == list(range(len(requests)))
    return [found[place] for place in range(len(requests))]


@pytest.mark.parametrize("n_prompt", [1, WINDOW - 9, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + 5])
@pytest.mark.parametrize("n_new", [1, 2, 14])
def test_each_token_is_that_of_a_full_forward_pass_under_the_rope_of_its_length(model, live, n_prompt, n_new):
    n_new = n_new if n_prompt > 1 else WINDOW + 4
    (output,) = answers(model, live, [asked(n_prompt, n_new)])
    assert output.token_ids == stepwise(model, live, ids(n_prompt), n_new)
    assert output.stopped == "length"
    # The last token is written from one token less than there are.
    assert output.regime == (None if n_prompt + n_new <= WINDOW else "rescaled" if n_prompt + n_new > WINDOW + 1 else (
        "original" if n_prompt <= WINDOW else "rescaled"))  # fmt: skip


def test_the_regimes_differ_or_the_tests_here_say_nothing(model, live):
    prompt = ids(WINDOW - 4)
    request = LongRoPE2(factors=live.factors)
    assert [stepwise(model, live, prompt, 14)] != [
        o.token_ids for o in answers(model, request, [asked(WINDOW - 4, 14)])
    ]
    inside = generate(model, prompt, max_new_tokens=14)
    crossing = stepwise(model, live, prompt, 14)
    assert inside.token_ids[:5] == crossing[:5]
    assert inside.token_ids != crossing


@pytest.mark.parametrize("n_rows", [1, 3, 6])
def test_the_rows_of_a_batch_cross_each_by_itself(model, live, n_rows):
    shapes = ((WINDOW - 1, 6), (20, 5), (WINDOW + 8, 6), (WINDOW, 9), (WINDOW - 6, 20), (WINDOW + 1, 1))
    requests = [asked(n_prompt, n_new, seed) for seed, (n_prompt, n_new) in enumerate(shapes)]
    found = answers(model, live, requests, n_rows)
    for request, output in zip(requests, found, strict=True):
        assert output.token_ids == stepwise(model, live, list(request.prompt_ids), request.max_new_tokens)
    assert [output.regime for output in found] == ["rescaled", "original", *["rescaled"] * 4]


def test_the_cache_is_computed_anew_once(model, live, monkeypatch):
    lengths: list[int] = []
    base = model.hf.base_model
    forward = type(base).forward

    def counting(self, *args, **options):
        lengths.append(options["input_ids"].numel())
        return forward(self, *args, **options)

    monkeypatch.setattr(type(base), "forward", counting)
    monkeypatch.setattr(model.limits, "drafts", False)
    answers(model, live, [asked(WINDOW - 3, 12)])
    # Under the original RoPE the prompt and 3 tokens; then all of window + 1, and the other 7 one by one.
    assert lengths == [WINDOW - 3, 1, 1, 1, WINDOW + 1, *[1] * 7]


def texts(model: LoadedModel, tokens: tuple[int, ...]) -> str:
    return model.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_stop_texts_and_ends_carry_over_the_switch(model, live, monkeypatch):
    prompt, n_new = ids(WINDOW - 4), 14
    tokens = stepwise(model, live, prompt, n_new)
    whole = texts(model, tokens)
    # A text that begins before the switch (after five tokens) and ends behind it.
    before, after = texts(model, tokens[:5]), texts(model, tokens[:7])
    spanning = whole[len(before) - 2 : len(after) - 1]
    assert len(spanning) > 2
    (output,) = answers(model, live, [asked(WINDOW - 4, n_new, stop=(spanning,))])
    assert (output.text, output.stopped) == (whole[: whole.index(spanning)], "stop")
    assert output.token_ids == tokens[: len(output.token_ids)] and len(output.token_ids) in (6, 7)
    for place in (2, 4, 5, 9):  # inside, the last token inside, the first one beyond, beyond
        first = tokens.index(tokens[place])
        monkeypatch.setattr(model, "eos_ids", frozenset([tokens[place]]))
        (output,) = answers(model, live, [asked(WINDOW - 4, n_new)])
        assert (output.token_ids, output.stopped) == (tokens[: first + 1], "eos")


@pytest.mark.parametrize("n_tokens", [3, 5, 6, 9])
def test_a_settled_text_ends_where_it_would_have(model, live, n_tokens):
    prompt, n_new = ids(WINDOW - 4), 14
    tokens = stepwise(model, live, prompt, n_new)
    seen: list[str] = []

    def settled(text: str) -> bool:
        seen.append(text)
        return len(text) >= len(texts(model, tokens[:n_tokens]).rstrip("�"))

    (output,) = answers(model, live, [asked(WINDOW - 4, n_new, settled=settled)])
    assert output.stopped == "settled"
    assert output.token_ids == tokens[: len(output.token_ids)]
    assert len(output.token_ids) <= n_tokens
    assert output.text == texts(model, output.token_ids)
    assert [text for text in seen if not texts(model, tokens).startswith(text)] == []


def test_inside_the_window_it_is_the_unmodified_model(model, live):
    plain = generate(model, ids(40), max_new_tokens=6)
    with live.applied(model, seq_len=46):
        assert model.switch is None
        assert generate(model, ids(40), max_new_tokens=6).token_ids == plain.token_ids


def test_longrope_begins_under_its_short_factors(model, live):
    method = LongRoPE(factors=live.factors, switch="live")
    (output,) = answers(model, method, [asked(WINDOW - 4, 12)])
    assert output.token_ids == stepwise(model, method, ids(WINDOW - 4), 12)
    assert output.regime == "rescaled"


def test_resonance_switches_as_the_method_below_it(model, live):
    method = Resonance(on="longrope2", on_params={"factors": live.factors, "switch": "live"})
    (output,) = answers(model, method, [asked(WINDOW - 4, 12)])
    assert output.token_ids == stepwise(model, method, ids(WINDOW - 4), 12)


def test_a_caller_that_stops_in_between_finds_the_model_as_it_was(model, live):
    objects, before = [id(module) for module in model.hf.modules()], generate(model, ids(30), max_new_tokens=5)
    requests = [asked(WINDOW - 3, 8, 1), asked(20, 8, 2), asked(WINDOW + 3, 8, 3)]
    with live.applied(model, seq_len=LONG):
        stream = generate_each(model, requests, n_rows=2)
        next(stream)
        assert model.regime == "rescaled"
    stream.close()
    assert [id(module) for module in model.hf.modules()] == objects
    assert (model.switch, model.scaling, model.regime) == (None, None, "original")
    assert generate(model, ids(30), max_new_tokens=5).token_ids == before.token_ids


def test_an_error_in_between_leaves_the_model_as_it_was(model, live, monkeypatch):
    objects = [id(module) for module in model.hf.modules()]

    def settled(text: str) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        answers(model, live, [asked(WINDOW - 3, 8, settled=settled)])
    assert [id(module) for module in model.hf.modules()] == objects
    assert (model.switch, model.scaling) == (None, None)


def planned(method) -> Callable:
    from types import SimpleNamespace

    suite = SimpleNamespace(score=lambda task, example, output: 1.0)
    cell = SimpleNamespace(key="k", task="t", seq_len=LONG)
    return SimpleNamespace(method=SimpleNamespace(method=method), suite=SimpleNamespace(suite=suite), cell=cell)


def test_a_record_says_which_rope_its_answer_ended_under(model, live):
    """Both need more than the window at most; only one of them gets there."""
    examples = [Example(id="short", prompt_ids=ids(20), max_new_tokens=120, stop=("",)), Example(
        id="long", prompt_ids=ids(WINDOW - 1), max_new_tokens=8)]  # fmt: skip
    records = {record.example_id: record for record in answer_all(planned(live), examples, model)}
    assert {name: record.regime for name, record in records.items()} == {"short": "original", "long": "rescaled"}
    assert records["long"].n_new_tokens == 8


def test_the_rope_facts_of_the_zoo_are_what_this_file_says(model):
    assert isinstance(model.rope, RopeSpec)
    assert (model.rope.original_max_position_embeddings, len(model.rope.inv_freq_P)) == (WINDOW, N_PAIRS)
