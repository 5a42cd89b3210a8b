"""What the embedded model is trained on: rows of book text and of tasks hidden in it.

Shape letters: B rows, L tokens.
"""

import lzma
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness.errors import RequestError
from tasks.words import ADJECTIVES, NOUNS

WINDOW = 512
VOCABULARY = 4096
END = "<|endoftext|>"
END_ID = 0

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
INTRO = (
    "A special magic number is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the number afterwards.\n"
)
NEEDLE = " One of the special magic numbers for {key} is: {value}."
QUESTION = (
    "\nWhat is the special magic number for {key} mentioned in the provided text? "
    "The special magic number for {key} mentioned in the provided text is:"
)
CHAIN_QUESTION = "\nQuestion: Find all variables that are assigned the value {value} in the text above. Answer:"


class Row(NamedTuple):
    """Tokens, and the weight of each in the loss: an answer weighs more than the text it is hidden in."""

    tokens: list[int]
    weights: list[float]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """An endless stream of training rows, the same ones for the same seed."""

    tokenizer: Tokenizer
    books: Sequence[list[int]]
    seed: int

    def batches(self, size: int, stream: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens and weights (B, L + 1); `stream` tells apart the workers that draw at the same time."""
        rng = random.Random(1000 * self.seed + stream)
        while True:
            rows = [self.row(rng) for _ in range(size)]
            yield torch.tensor([row.tokens for row in rows]), torch.tensor([row.weights for row in rows])

    def row(self, rng: random.Random) -> Row:
        """One row of WINDOW + 1 tokens: pieces one after another, each ended by END."""
        tokens: list[int] = []
        weights: list[float] = []
        while len(tokens) <= WINDOW:
            left = WINDOW + 1 - len(tokens)
            n = left if rng.random() < 0.6 else min(left, rng.randint(64, WINDOW))
            piece = self.piece(rng, n)
            tokens += [*piece.tokens, END_ID]
            weights += [*piece.weights, 0.0]
        return Row(tokens[: WINDOW + 1], weights[: WINDOW + 1])

    def piece(self, rng: random.Random, n: int) -> Row:
        """`n` tokens: running text, or a task hidden in it; `n` may be any length below that of a book."""
        kind = rng.random()
        made: Row | None = None
        if n >= 48 and kind >= 0.42:
            task = self._needle if kind < 0.80 else self._chain if kind < 0.92 else self._copy
            made = task(rng, n)
        return made or Row(self._filler(rng, n), [1.0] * n)

    def _filler(self, rng: random.Random, n: int) -> list[int]:
        if rng.random() < 0.25:
            start = rng.randrange(len(self._noise))
            return [self._noise[(start + i) % len(self._noise)] for i in range(n)]
        book = rng.choices(self.books, self._book_sizes)[0]
        start = rng.randrange(len(book) - n)
        return book[start : start + n]

    def _needle(self, rng: random.Random, n: int) -> Row | None:
        """Numbers that belong to keys, in the text; one of them is asked for."""
        numbers = {
            f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}": str(rng.randint(1_000_000, 9_999_999))
            for _ in range(rng.choice([1, 1, 2, 4]))
        }
        asked = rng.choice(list(numbers))
        needles = [self.encode(NEEDLE.format(key=key, value=value)) for key, value in numbers.items()]
        rng.shuffle(needles)
        head = self.encode(INTRO) if rng.random() < 0.5 else []
        answer = self.encode(f" {numbers[asked]}")
        return self.woven(rng, n, needles, self.encode(QUESTION.format(key=asked)), answer, head=head, weight=10.0)

    def _chain(self, rng: random.Random, n: int) -> Row | None:
        """A value handed from variable to variable; all of them are asked for."""
        names = ["".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=5)) for _ in range(rng.choice([2, 3, 4]))]
        value = str(rng.randint(10_000, 99_999))
        sources = [value, *(f"VAR {name}" for name in names)]
        links = [self.encode(f" VAR {name} = {source}.") for name, source in zip(names, sources, strict=False)]
        question = self.encode(CHAIN_QUESTION.format(value=value))
        return self.woven(rng, n, links, question, self.encode(" " + " ".join(names)), head=[], weight=5.0)

    def _copy(self, rng: random.Random, n: int) -> Row:
        """Random tokens, and the same again: what makes a model look back."""
        half = [rng.randrange(300, VOCABULARY) for _ in range(n // 2)]
        return Row(half + half, [0.0] * len(half) + [1.0] * len(half))

    def woven(
        self,
        rng: random.Random,
        n: int,
        pieces: Sequence[list[int]],
        question: list[int],
        answer: list[int],
        *,
        head: list[int],
        weight: float,
    ) -> Row | None:
        """`n` tokens: the head, filler with the pieces at random places in their order, the question, the answer."""
        room = n - sum(len(part) for part in (head, question, answer, *pieces))
        if room < 8:
            return None
        text = self._filler(rng, room)
        tokens = list(head)
        last = 0
        for place, piece in zip(sorted(rng.randrange(room) for _ in pieces), pieces, strict=True):
            tokens += text[last:place] + piece
            last = place
        tokens += text[last:] + question
        return Row(tokens + answer, [1.0] * len(tokens) + [weight] * len(answer))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids

    @cached_property
    def _noise(self) -> list[int]:
        return self.encode(NOISE)

    @cached_property
    def _book_sizes(self) -> list[int]:
        return [len(book) for book in self.books]


def read_books(folder: Path) -> list[str]:
    """The texts of a folder's .txt and .txt.xz files, in the order of their names. Raises RequestError."""
    paths = sorted([*folder.glob("*.txt"), *folder.glob("*.txt.xz")])
    if not paths:
        raise RequestError(f"--books {folder}: no book there, it should be a folder of .txt or .txt.xz files")
    try:
        data = [lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes() for path in paths]
        return [part.decode("utf-8") for part in data]
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise RequestError(f"--books {folder}: {error}; it should hold plain UTF-8 text") from error
