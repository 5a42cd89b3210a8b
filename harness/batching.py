"""Which samples are answered together, and in which order."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

from harness.types import Example

_WINDOW = 64  # samples that are looked at together: a long one is half a megabyte of token ids
_HEAD = 256  # tokens by which a document is known


def together(examples: Iterable[Example], method: Any, rope: Any) -> Iterator[list[Example]]:
    """Samples in groups that one RoPE answers, in the order they should run; each scoring is a group of its own."""
    examples = iter(examples)
    while window := list(islice(examples, _WINDOW)):
        for _, group in groupby(ordered(window), key=lambda example: _kind(example, method, rope)):
            yield list(group)


def ordered(examples: Sequence[Example]) -> list[Example]:
    """Longest first, but samples that begin alike stay together, by their tokens: what they share is read once."""
    heads = [tuple(example.prompt_ids[:_HEAD]) for example in examples]
    longest: dict[Hashable, int] = {}
    for head, example in zip(heads, examples, strict=True):
        longest[head] = max(longest.get(head, 0), example.n_tokens)
    places = sorted(range(len(examples)), key=lambda i: (-longest[heads[i]], heads[i], list(examples[i].prompt_ids), i))
    return [examples[i] for i in places]


def _kind(example: Example, method: Any, rope: Any) -> Hashable:
    """Equal for generations that are answered under the same frequencies."""
    if example.segments:
        return "scoring", example.id
    if rope is None or not hasattr(method, "rope_scaling"):
        return "length", example.n_tokens
    scaling = method.rope_scaling(rope, seq_len=example.n_tokens)
    return "rope", scaling.inv_freq_P.tobytes(), scaling.attention_factor
