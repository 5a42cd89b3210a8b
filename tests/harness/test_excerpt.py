"""What of a prompt a record keeps."""

import pytest

from harness.excerpt import excerpt
from harness.types import Example, Segment
from tasks.needle import Needle


class Words:
    """A token is a number's own text; counts how many it decodes."""

    def __init__(self) -> None:
        self.decoded = 0

    def decode(self, ids, **_) -> str:
        self.decoded += len(ids)
        return " ".join(f"w{i}" for i in ids)


def test_head_needle_and_tail_of_a_long_prompt_cost_a_few_slices():
    words = Words()
    example = Example(
        id="x", prompt_ids=range(128_000), answers=("w64000",), metadata={"needle_positions": [0.5]}, max_new_tokens=1
    )
    found = excerpt(example, words)
    assert found["head"].startswith("w0 w1 w2")
    assert " w64000 " in found["needle"]
    assert found["tail"].endswith("w127999")
    assert sum(map(len, found.values())) <= 600
    assert words.decoded < 400


@pytest.mark.parametrize("scoring", ["generated", "teacher_forced"])
@pytest.mark.parametrize("task", ["keys1_noise", "keys4_docs", "keys2_values2_noise"])
def test_the_needle_of_a_real_sample_is_found(tiny_llama, task, scoring):
    suite = Needle(scoring=scoring)
    for example in suite.examples(task, seq_len=1024, n=10, seed=0, tokenizer=tiny_llama.tokenizer):
        found = excerpt(example, tiny_llama.tokenizer)
        assert example.answers[0] in found["needle"]
        assert "special magic number" in found["head"]
        assert sum(map(len, found.values())) <= 600


def test_a_depth_alone_finds_the_answer_nearby():
    example = Example(id="x", prompt_ids=range(5000), answers=("w2600",), metadata={"depth_fraction": 0.5})
    assert " w2600 " in excerpt(example, Words())["needle"]


def test_without_a_place_there_is_no_needle():
    example = Example(id="x", prompt_ids=range(100), answers=("w50",))
    assert set(excerpt(example, Words())) == {"head", "tail"}


def test_a_short_prompt_is_not_told_twice():
    assert excerpt(Example(id="x", prompt_ids=[1, 2, 3]), Words()) == {"head": "w1 w2 w3"}


def test_a_scoring_shows_its_context():
    example = Example(id="x", segments=(Segment(token_ids=[1, 2, 3, 4], n_context=3),))
    assert excerpt(example, Words()) == {"head": "w1 w2 w3"}


def test_a_request_without_a_prompt_has_none():
    assert excerpt(Example(id="x"), Words()) == {}
