"""What of a prompt is kept with its record: its beginning, the text around the needle, its end."""

from collections.abc import Sequence
from typing import Any

from harness.types import Example

_END_CHARS = 160  # of the head and of the tail
_NEEDLE_CHARS = 280
_NEAR = 64  # tokens decoded at each end, and around a needle whose place is known
_WIDE = 512  # tokens decoded on either side of a depth that is only about right


def excerpt(example: Example, tokenizer: Any) -> dict[str, str]:
    """`head`, `needle` (where its place is known) and `tail` of what the model read, about 600 characters together.

    Only slices are decoded, so a prompt of any length costs the same.
    """
    ids = example.prompt_ids
    if not ids and example.segments:
        first = example.segments[0]
        ids = first.token_ids[: first.n_context]
    if not len(ids):
        return {}
    start = _text(tokenizer, ids[:_NEAR])
    rest = _text(tokenizer, ids[-_NEAR:]) if len(ids) > _NEAR else start[_END_CHARS:]
    found = {"head": start[:_END_CHARS], "needle": _needle(example, ids, tokenizer), "tail": rest[-_END_CHARS:]}
    return {place: text for place, text in found.items() if text}


def _needle(example: Example, ids: Sequence[int], tokenizer: Any) -> str:
    positions, depth = example.metadata.get("needle_positions"), example.metadata.get("depth_fraction")
    if positions:
        at, reach = round(positions[0] * len(ids)), _NEAR
    elif isinstance(depth, int | float):
        at, reach = round(depth * len(ids)), _WIDE
    else:
        return ""
    text = _text(tokenizer, ids[max(0, at - reach) : at + reach])
    places = [place for answer in example.answers if (place := text.find(answer)) >= 0]
    if not places:
        return text[len(text) // 2 :][:_NEEDLE_CHARS] if positions else ""
    start = max(0, places[0] - _NEEDLE_CHARS // 2)
    return text[start : start + _NEEDLE_CHARS]


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    """A slice as text; a character that the slice cuts in two is left out."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip("\ufffd")
