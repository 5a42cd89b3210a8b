"""The published needle grid: the authors' contexts, text for text, and what stands around them."""

import json

import pytest

from harness.catalogue import build
from harness.config import find_preset, read_toml
from harness.errors import RequestError
from harness.types import Output
from tasks import needle_grid
from tasks.haystack import Haystack
from tasks.needle import Needle
from tasks.needle_grid import KEYWORDS, NEEDLE, Contexts, NeedleGrid, published_depths
from tasks.tokens import encode
from tests.tasks.retrieval import cases
from tests.tasks.retrieval.make_golden import GOLDEN, digest

TASK = "san_francisco"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())["needle"]


@pytest.fixture
def essays(monkeypatch):
    """Sentences in place of the essays."""
    haystack = Haystack.of("essay", [" ".join(cases.SENTENCES)], separator="", keeps_lines=True)
    monkeypatch.setattr(needle_grid, "joined_essays", lambda: haystack)
    return haystack


def draw(tokenizer, *, seq_len=600, n=1, **fields):
    return list(NeedleGrid(**fields).examples(TASK, seq_len=seq_len, n=n, seed=0, tokenizer=tokenizer))


def read(tokenizer, example):
    return tokenizer.decode(list(example.prompt_ids), clean_up_tokenization_spaces=False)


def test_depths_are_the_authors(golden):
    for (n, interval), percents in zip(cases.GRIDS, golden["depths"], strict=True):
        assert [100 * depth for depth in published_depths(n, interval)] == pytest.approx(percents, abs=1e-9)


@pytest.mark.parametrize("name", cases.HAYSTACKS)
def test_contexts_are_the_authors(name, golden, byte_tokenizer):
    files = [text.replace("\r\n", "\n") for _, text in sorted(cases.HAYSTACKS[name].items())]
    haystack = Haystack.of("essay", files, separator="", keeps_lines=True)
    rows = iter(golden["contexts"][name])
    for n, interval in cases.CONTEXT_GRIDS:
        for length in cases.LENGTHS:
            contexts = Contexts.of(haystack, byte_tokenizer, length)
            made = [contexts.with_needle(depth)[0] for depth in published_depths(n, interval)]
            assert [digest(text) for text in made] == next(rows)


def test_without_a_period_the_needle_goes_to_the_beginning(byte_tokenizer):
    haystack = Haystack.of("essay", list(cases.HAYSTACKS["no_period"].values()), separator="")
    contexts = Contexts.of(haystack, byte_tokenizer, 500)
    assert contexts.with_needle(0.9) == contexts.with_needle(0.0) != contexts.with_needle(1.0)


def test_the_prompt_is_the_authors(golden, byte_tokenizer):
    frame = needle_grid._Frame.of("anthropic", byte_tokenizer)
    assert digest(byte_tokenizer.decode(frame.ids("A\nB"))) == golden["prompt"]


def test_the_preset_has_the_published_lengths_and_depths(golden):
    preset = read_toml(find_preset("needle-sf-35"))
    (suite,) = preset["suite"]
    assert preset["seq_lens"] == golden["lengths"]
    assert preset["n_samples"] == 35 == NeedleGrid().n_available(TASK)
    assert suite["name"] == "needle-sf"


def test_sigmoid_depths_crowd_at_both_ends_of_any_needle():
    assert list(published_depths(5, "sigmoid")) == [0, pytest.approx(0.07586), 0.5, pytest.approx(0.92414), 1]


def test_a_needle_takes_sigmoid_depths(byte_tokenizer):
    suite = Needle(depths=5, depth_interval="sigmoid")
    examples = suite.examples("keys1_noise", seq_len=1500, n=6, seed=0, tokenizer=byte_tokenizer)
    found = [(e.metadata["depth_fraction"], e.metadata["needle_positions"][0]) for e in examples]
    assert [depth for depth, _ in found] == [*published_depths(5, "sigmoid"), 0]
    assert all(abs(depth - position) < 0.06 for depth, position in found)


def test_the_needle_stands_behind_a_sentence_at_its_depth(essays, tokenizer):
    for example in draw(tokenizer, seq_len=1500, n=7, depths=7, max_new_tokens=20):
        text, depth = read(tokenizer, example), example.metadata["depth_fraction"]
        context = text.split("<context>\n")[1].split("\n</context>")[0]
        before, behind = context.split(NEEDLE.strip())
        assert not before.strip() or before.rstrip().endswith(".") or depth == 1
        assert abs(len(before) / len(before + behind) - depth) < 0.05
        (position,) = example.metadata["needle_positions"]
        at = round(position * len(example.prompt_ids))
        assert "best thing to do" in tokenizer.decode(list(example.prompt_ids[at : at + 20]))


def test_200_tokens_are_kept_free_for_question_and_answer(essays, byte_tokenizer):
    for seq_len in (300, 1000):
        contexts = Contexts.of(essays, byte_tokenizer, seq_len)
        assert len(encode(byte_tokenizer, contexts.with_needle(1.0)[0])) == seq_len - 200
        (example,) = draw(byte_tokenizer, seq_len=seq_len)
        assert seq_len - 200 < example.n_tokens <= seq_len


@pytest.mark.parametrize("form", ["anthropic", "base"])
def test_forms_of_the_prompt(form, essays, byte_tokenizer):
    text = read(byte_tokenizer, draw(byte_tokenizer, prompt=form)[0])
    assert text.count("What is the best thing to do in San Francisco?") == 1
    assert NEEDLE in text
    assert text.endswith(
        "Answer:" if form == "base" else "Assistant: Here is the most relevant sentence in the context:"
    )


def test_the_chat_form_is_the_models_own_template(essays, bos_tokenizer):
    with pytest.raises(RequestError, match="no chat template"):
        draw(bos_tokenizer, prompt="chat", max_new_tokens=10)
    bos_tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "
    )
    try:
        (example,) = draw(bos_tokenizer, prompt="chat", max_new_tokens=10, depths=(1.0,))
    finally:
        bos_tokenizer.chat_template = None
    text = read(bos_tokenizer, example)
    assert example.prompt_ids[0] == bos_tokenizer.bos_token_id
    assert "[user] You are a helpful AI bot" in text
    assert text.endswith("[assistant] Here is the most relevant sentence in the context:")
    at = round(example.metadata["needle_positions"][0] * len(example.prompt_ids))
    assert "best thing to do" in bos_tokenizer.decode(list(example.prompt_ids[at : at + 24]))


def test_a_sample_a_depth_and_the_grid_again_behind_it(essays, byte_tokenizer):
    examples = draw(byte_tokenizer, n=7, depths=3)
    assert [example.metadata["depth_fraction"] for example in examples] == [0, 0.5, 1, 0, 0.5, 1, 0]
    assert NeedleGrid(depths=(0.2, 0.4)).n_available(TASK) == 2


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", 0),
        (NEEDLE, 1),
        ("Eat a Sandwich in dolores park.", 2 / 3),
        ("Go to the park on a sunny day", 1 / 3),
        ("eat a  sandwich", 0),
    ],
)
def test_the_score_is_the_share_of_keywords(text, score, essays, byte_tokenizer):
    (example,) = draw(byte_tokenizer)
    assert example.answers == KEYWORDS
    assert NeedleGrid().score(TASK, example, Output(text=text)).value == pytest.approx(score)
    assert NeedleGrid().settled(TASK, example, text) == (score == 1)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"depths": 0}, "depths = 0"),
        ({"depths": [0.1, 50]}, "50.*from 0 to 1"),
        ({"depths": [0.1], "depth_interval": "sigmoid"}, "depth_interval = 'sigmoid' spaces a number of depths"),
        ({"depth_interval": "sigmoidal"}, "did you mean 'sigmoid'"),
        ({"prompt": "anthropics"}, "did you mean 'anthropic'"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(RequestError, match=message):
        build(NeedleGrid, params, where="suite 'needle-sf'")


def test_an_answer_longer_than_what_is_kept_free_is_refused(essays, byte_tokenizer):
    with pytest.raises(RequestError, match=r"max_new_tokens = 120.*question has 102 tokens.*at most 200"):
        draw(byte_tokenizer, max_new_tokens=120)
