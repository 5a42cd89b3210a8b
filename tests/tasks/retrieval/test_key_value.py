"""Key-value retrieval: the authors' prompt and score, at any length."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.catalogue import build
from harness.errors import RequestError
from harness.types import Example, Output
from tasks.key_value import KeyValue, render
from tests.tasks.retrieval import cases
from tests.tasks.retrieval.make_golden import GOLDEN, digest

TASKS = ("kv_retrieval", "kv_retrieval_query_aware")
PAIR = re.compile(r'"([0-9a-f-]{36})": "([0-9a-f-]{36})"')


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())["key_value"]


def draw(tokenizer, *, seq_len, n=1, task=TASKS[0], **fields):
    return list(KeyValue(**fields).examples(task, seq_len=seq_len, n=n, seed=0, tokenizer=tokenizer))


def pairs_of(tokenizer, example):
    text = tokenizer.decode(list(example.prompt_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text, PAIR.findall(text)


def test_the_prompt_is_the_authors(golden):
    for (n, asked), hashes in zip(cases.KEY_VALUE_PROMPTS, golden["prompts"], strict=True):
        pairs = cases.pairs(n)
        assert [digest(render(task, pairs, pairs[asked].key)) for task in TASKS] == hashes


def test_scores_are_the_authors(golden):
    assert len(golden["scores"]) == 360 and 0 < sum(golden["scores"]) < 360
    for (value, said), score in zip(cases.answers(), golden["scores"], strict=True):
        assert KeyValue().score(TASKS[0], Example(id="x", answers=(value,)), Output(text=said)).value == score


@pytest.mark.parametrize("task", TASKS)
def test_the_key_that_is_asked_for_stands_at_its_depth(task, tokenizer):
    examples = draw(tokenizer, seq_len=3000, n=5, depths=5, task=task)
    for example, depth in zip(examples, (0, 0.25, 0.5, 0.75, 1), strict=True):
        text, pairs = pairs_of(tokenizer, example)
        assert example.metadata["depth_fraction"] == depth and example.metadata["n_pairs"] == len(pairs)
        place = round(depth * (len(pairs) - 1))
        assert pairs[place] == (example.metadata["key"], example.answers[0])
        assert text.endswith(f'\n\nKey: "{pairs[place][0]}"\nCorresponding value:')
        assert len(dict(pairs)) == len(pairs) >= 20
        assert json.loads(text[text.index("{") : text.index("}") + 1]) == dict(pairs)
        assert text.index("Key: ") < text.index("{") if "aware" in task else text.count("Key: ") == 1
        (position,) = example.metadata["needle_positions"]
        behind = tokenizer.decode(list(example.prompt_ids[round(position * len(example.prompt_ids)) :][:40]))
        assert example.metadata["key"][:12] in behind


def test_samples_share_no_pair(byte_tokenizer):
    found = [
        pair for example in draw(byte_tokenizer, seq_len=1000, n=20) for pair in pairs_of(byte_tokenizer, example)[1]
    ]
    assert len({identifier for pair in found for identifier in pair}) == 2 * len(found)
    assert all(identifier[14] == "4" and identifier[19] in "89ab" for pair in found for identifier in pair)


def test_no_further_pair_fits(tokenizer):
    for seq_len in (800, 1511, 9000):
        for example in draw(tokenizer, seq_len=seq_len, n=3):
            a_pair = len(tokenizer(f'"{example.metadata["key"]}": "{example.answers[0]}",\n ')["input_ids"])
            assert seq_len - 48 - 1.2 * a_pair < len(example.prompt_ids) <= seq_len - 48


def test_only_short_lengths_give_the_answer_more_room(byte_tokenizer):
    short, long = draw(byte_tokenizer, seq_len=400)[0], draw(byte_tokenizer, seq_len=2000)[0]
    assert short.max_new_tokens > 48 and short.n_tokens == 380
    assert long.max_new_tokens == 48 and long.n_tokens >= 1900


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seq_len=st.integers(360, 4000), seed=st.integers(0, 1000), depth=st.floats(0, 1), task=st.sampled_from(TASKS))
def test_any_length_is_kept_to(seq_len, seed, depth, task, tokenizer):
    suite = KeyValue(depths=(depth,))
    (example,) = suite.examples(task, seq_len=seq_len, n=1, seed=seed, tokenizer=tokenizer)
    assert 0.95 * seq_len <= example.n_tokens <= seq_len
    assert example.metadata["n_pairs"] >= 2


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"depths": 0}, "depths = 0"),
        ({"depths": [0.5], "depth_interval": "sigmoid"}, "spaces a number of depths"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(RequestError, match=message):
        build(KeyValue, params, where="suite 'key_value'")
