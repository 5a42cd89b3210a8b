"""Text as the model's own tokens.

Shape letters: L tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from tasks.base import Tokenizer


@dataclass(frozen=True, eq=False)
class EncodedText:
    """The tokens of a text, and the character after each one's last."""

    ids: list[int]
    ends_L: NDArray[np.int64]

    def token_at(self, character: int) -> int:
        """The index of the token that holds a character; the number of tokens when it lies behind the text."""
        return int(np.searchsorted(self.ends_L, character, side="right"))


def _call(tokenizer: Tokenizer, text: str | list[str]) -> object:
    # What looks like a special token inside a haystack is text. `verbose` would warn of texts longer than the
    # window, which are the point here.
    return tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids without special tokens."""
    ids: list[int] = _call(tokenizer, text)["input_ids"]  # type: ignore[index]
    return ids


def encode_each(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of each text without special tokens, all at once."""
    ids: list[list[int]] = _call(tokenizer, texts)["input_ids"] if texts else []  # type: ignore[index]
    return ids


def encode_text(tokenizer: Tokenizer, text: str) -> EncodedText:
    """Token ids without special tokens, with their places in the text. Raises RequestError for a slow tokenizer."""
    if not getattr(tokenizer, "is_fast", False):
        raise RequestError(
            f"the tokenizer {type(tokenizer).__name__} does not say where its tokens lie in the text; "
            "it should be a fast one (a folder with tokenizer.json)"
        )
    encoding = _call(tokenizer, text).encodings[0]  # type: ignore[attr-defined]
    ends = np.fromiter((end for _, end in encoding.offsets), dtype=np.int64, count=len(encoding.ids))
    # A token of spaces may be given an empty span: keep the ends ascending.
    return EncodedText(encoding.ids, np.maximum.accumulate(ends) if len(ends) else ends)


def leading_ids(tokenizer: Tokenizer) -> list[int]:
    """The special tokens the tokenizer puts before a text, such as a BOS; those it puts behind are left out.

    Raises RequestError when the tokenizer changes the text between them.
    """
    plain, full = encode(tokenizer, "a"), tokenizer("a")["input_ids"]
    for n in range(len(full) - len(plain) + 1):
        if full[n : n + len(plain)] == plain:
            return list(full[:n])
    raise RequestError(
        f"the tokenizer {type(tokenizer).__name__} reads 'a' as {full}, and without special tokens as {plain}: "
        "the second should stand inside the first"
    )
