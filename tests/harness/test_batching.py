"""Samples in an order that reads nothing twice, and in groups that one RoPE answers."""

from types import SimpleNamespace

import numpy as np

from harness.batching import ordered, together
from harness.types import Example, Segment
from methods.base import RopeScaling, RopeSpec

ROPE = RopeSpec(
    inv_freq_P=np.array([1.0, 0.1]), rope_theta=1e4, rotary_dim=4, original_max_position_embeddings=100
)  # fmt: skip


def sample(name: str, ids, n_new: int = 4) -> Example:
    return Example(id=name, prompt_ids=tuple(ids), max_new_tokens=n_new)


def names(examples) -> list[str]:
    return [example.id for example in examples]


def test_the_longest_come_first():
    assert names(ordered([sample("a", range(5)), sample("b", range(2, 9)), sample("c", [7, 1])])) == ["b", "a", "c"]


def test_questions_on_one_document_stay_together_and_in_the_order_of_their_tokens():
    document, other = list(range(300)), list(range(1, 301))
    examples = [
        sample("doc 9", [*document, 9]),
        sample("other", [*other, 1, 2]),
        sample("doc 3 7", [*document, 3, 7, 8, 8]),
        sample("doc 3", [*document, 3]),
    ]
    assert names(ordered(examples)) == ["doc 3", "doc 3 7", "doc 9", "other"]


def test_samples_under_different_frequencies_are_answered_apart():
    def rope_scaling(rope, *, seq_len):
        inside = seq_len <= 100
        return RopeScaling(inv_freq_P=rope.inv_freq_P / (1 if inside else 2), attention_factor=1.0)

    examples = [sample("short", range(50)), sample("long", range(2, 130)), sample("longer", range(3, 140))]
    groups = list(together(examples, SimpleNamespace(rope_scaling=rope_scaling), ROPE))
    assert [names(group) for group in groups] == [["longer", "long"], ["short"]]


def test_a_method_of_unknown_kind_is_asked_for_one_length_at_a_time():
    examples = [sample("a", range(9)), sample("b", range(5)), sample("c", range(1, 10))]
    groups = list(together(examples, SimpleNamespace(), ROPE))
    assert sorted(names(group) for group in groups) == [["a", "c"], ["b"]]


def test_scorings_come_one_by_one():
    examples = [
        Example(id=name, segments=(Segment(token_ids=(1, 2, 3), n_context=1),)) for name in ("a", "b")
    ]  # fmt: skip
    assert [names(group) for group in together(examples, SimpleNamespace(), ROPE)] == [["a"], ["b"]]


def test_samples_are_read_a_window_at_a_time():
    read = []

    def endless():
        for index in range(1000):
            read.append(index)
            yield sample(str(index), [1, 2])

    next(together(endless(), SimpleNamespace(), ROPE))
    assert len(read) <= 64
