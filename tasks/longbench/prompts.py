"""Prompts cut in the middle, put into a chat template, and fitted to a length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.errors import RequestError
from harness.types import JSON
from tasks import tokens
from tasks.base import Tokenizer

Cut = Callable[[Tokenizer, Sequence[int], int], str]


@dataclass(frozen=True)
class Fitted:
    """What the model reads. n_text: tokens of the whole text; n_kept: of those, the ones that a cut left."""

    ids: list[int]
    n_text: int
    n_kept: int

    def metadata(self) -> dict[str, JSON]:
        """What a record says of it."""
        return {"truncated": self.n_kept < self.n_text, "n_text_tokens": self.n_text, "n_kept_tokens": self.n_kept}


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids with the special tokens that the tokenizer puts before a text; those it puts behind are left out."""
    ids: list[int] = tokenizer(text, truncation=False, verbose=False)["input_ids"]  # else it warns of long texts
    return ids[: len(ids) - _n_behind(tokenizer)]


def cut_halves(tokenizer: Tokenizer, ids: Sequence[int], max_length: int) -> str:
    """The text of the first half and of the last half, each decoded by itself, special tokens left out.

    Source: THUDM/LongBench 2e00731, LongBench/pred.py, get_pred.
    """
    half = max_length // 2
    first, last = ids[:half], ids[len(ids) - half :]
    return _decode(tokenizer, first) + _decode(tokenizer, last)


def cut_joined(tokenizer: Tokenizer, ids: Sequence[int], max_length: int) -> str:
    """The text of the first and the last half, decoded as one; the longer half is the last.

    Source: THUDM/LongBench 2e00731, pred.py, query_llm.
    """
    half = max_length // 2
    return _decode(tokenizer, [*ids[:half], *ids[len(ids) - (max_length - half) :]])


def read_ids(tokenizer: Tokenizer, text: str, *, chat: bool) -> list[int]:
    """What the model reads: the text as it is, or as the user's turn, with the assistant's turn opened."""
    if not chat:
        return encode(tokenizer, text)
    turns = [{"role": "user", "content": text}]
    wrapped = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(wrapped, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def check_chat(tokenizer: Tokenizer, suite: str) -> None:
    """Raises RequestError for a tokenizer without a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise RequestError(
            f"suite '{suite}': prompt = 'chat', but the tokenizer of {name} has no chat template: set prompt = 'base'"
        )


def wrapper_length(tokenizer: Tokenizer, *, chat: bool) -> int:
    """The tokens that the chat template adds to a text."""
    return len(read_ids(tokenizer, "", chat=True)) - len(encode(tokenizer, "")) if chat else 0


def fit(tokenizer: Tokenizer, text: str, *, max_length: int, n_prompt: int, chat: bool, cut: Cut) -> Fitted:
    """The text, cut to `max_length` tokens where it has more, as the model reads it: at most `n_prompt` tokens.

    Cut text can come back as more tokens than it had, and a chat template adds some: where `n_prompt` is exceeded,
    the text is cut by the excess once more. Raises ValueError when nothing would be left.
    """
    ids = encode(tokenizer, text)
    limit = min(len(ids), max_length)
    if limit < len(ids):
        text = cut(tokenizer, ids, limit)
    read = read_ids(tokenizer, text, chat=chat) if chat or limit < len(ids) else ids
    while len(read) > n_prompt:
        limit -= len(read) - n_prompt
        if limit < 2:
            raise ValueError(f"{n_prompt} tokens hold nothing of the text")
        read = read_ids(tokenizer, cut(tokenizer, ids, limit), chat=chat)
    return Fitted(read, n_text=len(ids), n_kept=limit)


def _n_behind(tokenizer: Tokenizer) -> int:
    """How many special tokens, such as an EOS, the tokenizer puts behind a text."""
    return len(tokenizer("a")["input_ids"]) - len(tokens.leading_ids(tokenizer)) - len(tokens.encode(tokenizer, "a"))


def _decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text
