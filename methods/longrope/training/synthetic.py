"""The source `tiny-llama`: rows like those the embedded model was trained on, of any length, from a fresh machine."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from harness.errors import RequestError
from harness.types import JSON, content_hash
from methods.longrope.training.sources import Document
from tasks.base import Tokenizer
from tasks.haystack import training_docs
from tasks.texts import TEXTS, find_files, read_text
from tasks.tokens import encode

_VERSION = 1  # raised when the documents of a seed change
_SHORTEST = 64


@dataclass(frozen=True, kw_only=True)
class TinyLlamaRows:
    """Needles, chains of variables, copies and running text, one a document, without end; answers weigh more.

    max_length, min_length: of a document, in tokens without the special ones; `full_share` of the documents have
    `max_length`, the others any length between.
    dense_share: so many of the documents hide `dense_keys` numbers and ask for each of them: one such document
    teaches as much retrieval as many that ask once.
    dense_words: what keys of dense documents are made of: the `list` of the embedded model's training and of the suite
        `needle`; words of the `text`, so that keys of other words are not forgotten; or `blends` of two halves of
        those, several tokens each as rare words are, so that keys are told apart by all of their tokens.
    texts: a folder of texts the tasks hide in; by default the half of Python's language reference that no evaluation
    uses.
    """

    max_length: int
    min_length: int = _SHORTEST
    full_share: float = 0.6
    dense_share: float = 0.0
    dense_keys: int = 8
    dense_words: Literal["list", "text", "blends"] = "list"
    seed: int = 1
    texts: str | None = field(default=None, metadata={"path": True})

    def __post_init__(self) -> None:
        if not _SHORTEST <= self.min_length <= self.max_length:
            raise ValueError(
                f"min_length = {self.min_length}, max_length = {self.max_length}: "
                f"they should be at least {_SHORTEST}, the first no more than the second"
            )
        for name in ("full_share", "dense_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name):g}: it should be a fraction between 0 and 1")
        if not 1 <= self.dense_keys <= 200:
            raise ValueError(f"dense_keys = {self.dense_keys}: it should be from 1 to 200")

    def identity(self) -> JSON:
        """The settings, and the text that the tasks hide in."""
        settings = [self.max_length, self.min_length, self.full_share, self.dense_share, self.dense_keys]
        return [_VERSION, *settings, self.dense_words, self.seed, content_hash(self._text().encode())]

    def documents(self, tokenizer: Tokenizer, start: int = 0) -> Iterator[Document]:
        """Documents without end: each has a generator of its own."""
        from harness.assets.tiny_llama_rows import VOCABULARY, Rows

        if len(tokenizer) < VOCABULARY:
            raise RequestError(
                f"source 'tiny-llama': the tokenizer has {len(tokenizer)} tokens, it should have {VOCABULARY}"
            )
        # The longest filler is read at a random place of a book that is longer than it.
        book = encode(tokenizer, self._text())
        book *= 1 + (self.max_length + 1) // len(book)
        encoder: Any = SimpleNamespace(encode=lambda text: SimpleNamespace(ids=encode(tokenizer, text)))
        rows = Rows(tokenizer=encoder, books=[book], seed=self.seed)
        index = start
        while True:
            rng = random.Random(int(content_hash(["tiny-llama", _VERSION, self.seed, index])[:16], 16))
            n = self.max_length if rng.random() < self.full_share else rng.randint(self.min_length, self.max_length)
            row = self._dense(rows, rng, n) if rng.random() < self.dense_share else None
            tokens, weights = row or rows.piece(rng, n)
            yield Document(np.array(tokens, dtype=np.int64), np.array(weights, dtype=np.float32))
            index += 1

    def _dense(self, rows: Any, rng: random.Random, n: int) -> tuple[list[int], list[float]] | None:
        """`dense_keys` numbers in a text and a question about each; None where `n` tokens are too few."""
        from harness.assets.tiny_llama_rows import NEEDLE, QUESTION

        firsts, seconds = self._words
        pairs = rng.sample(range(len(firsts) * len(seconds)), self.dense_keys)
        names = [f"{firsts[pair // len(seconds)]}-{seconds[pair % len(seconds)]}" for pair in pairs]
        values = [str(rng.randint(1_000_000, 9_999_999)) for _ in names]
        needles = [rows.encode(NEEDLE.format(key=key, value=value)) for key, value in zip(names, values, strict=True)]
        tail: list[int] = []
        weights: list[float] = []
        for i in rng.sample(range(len(names)), len(names)):
            question, answer = rows.encode(QUESTION.format(key=names[i])), rows.encode(f" {values[i]}")
            tail += question + answer
            weights += [1.0] * len(question) + [10.0] * len(answer)
        woven = rows.woven(rng, n - len(tail), needles, [], [], head=[], weight=1.0)
        return None if woven is None else (woven.tokens + tail, woven.weights + weights)

    @cached_property
    def _words(self) -> tuple[Sequence[str], Sequence[str]]:
        """The first and the second words of dense documents' keys."""
        from tasks.words import ADJECTIVES, NOUNS

        if self.dense_words == "list":
            return ADJECTIVES, NOUNS
        words = sorted(set(re.findall(r"\b[a-z]{3,12}\b", self._text())))
        if len(words) ** 2 < self.dense_keys:
            raise RequestError(
                f"dense_words = '{self.dense_words}': the text has {len(words)} words, "
                f"too few for {self.dense_keys} keys"
            )
        if self.dense_words == "blends":
            words = _blends(words, self.seed)
        return words, words

    def _text(self) -> str:
        if self.texts is None:
            docs = training_docs()
            return docs.filler(0, len(docs.text))
        return "\n\n".join(read_text(found.path) for found in find_files(Path(self.texts), TEXTS, setting="texts"))


def _blends(words: Sequence[str], seed: int) -> list[str]:
    """As many words as there are, each the first half of one and the second half of another."""
    rng = random.Random(seed)
    ends = rng.sample(words, len(words))
    return [first[: (len(first) + 1) // 2] + end[len(end) // 2 :] for first, end in zip(words, ends, strict=True)]
