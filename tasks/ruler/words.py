"""The English words of the tasks, from packages that carry them."""

import importlib.util
import random
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import accumulate

from harness.errors import RequestError

_SEED = 42  # the authors shuffle the list once with it


def _wonderwords(kind: str) -> list[str]:
    if importlib.util.find_spec("wonderwords") is None:
        raise RequestError("RULER's words need the package wonderwords: pip install wonderwords")
    text = (files("wonderwords") / "assets" / f"{kind}list.txt").read_text(encoding="utf-8")
    return [line.rstrip() for line in text.splitlines()]


@dataclass(frozen=True)
class KeyWords:
    """All "adjective-noun" in sorted order, six million of them, without a list of that length.

    Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/niah.py, `words`.
    """

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]

    @classmethod
    def load(cls) -> "KeyWords":
        """The words of wonderwords. Raises RequestError without that package."""
        adjectives, nouns = set(_wonderwords("adjective")), set(_wonderwords("noun"))
        return cls(tuple(sorted(adjectives, key=lambda word: word + "-")), tuple(sorted(nouns)))

    @cached_property
    def _groups(self) -> list[list[str]]:
        """Adjectives whose words are mixed in sorted order: "blue-..." and "blue-eyed-..."."""
        groups: list[list[str]] = []
        for adjective in self.adjectives:
            if groups and adjective.startswith(groups[-1][0] + "-"):
                groups[-1].append(adjective)
            else:
                groups.append([adjective])
        return groups

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(group) * len(self.nouns) for group in self._groups)]

    @cached_property
    def _mixed(self) -> dict[str, list[str]]:
        mixed = (group for group in self._groups if len(group) > 1)
        return {group[0]: sorted(f"{a}-{noun}" for a in group for noun in self.nouns) for group in mixed}

    def __len__(self) -> int:
        return len(self.adjectives) * len(self.nouns)

    def __getitem__(self, index: int) -> str:
        place = bisect_right(self._starts, index) - 1
        head, offset = self._groups[place][0], index - self._starts[place]
        if head in self._mixed:
            return self._mixed[head][offset]
        return f"{head}-{self.nouns[offset]}"

    def draw(self, rng: random.Random) -> str:
        """One of them."""
        return self[rng.choice(range(len(self)))]


@dataclass(frozen=True)
class ListWords:
    """The words of the numbered lists: nouns, adjectives and verbs, then the rest of a longer English list.

    Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/common_words_extraction.py, `words`.
    Differs: past the first list the authors draw all words from another, a file of Git LFS in their repository; here
    the first list is used up and the further words come from Webster's Second International of 1934, so that the size
    grows without a step and the common words stay of one kind.
    """

    first: tuple[str, ...]

    @classmethod
    def load(cls) -> "ListWords":
        """The words of wonderwords. Raises RequestError without that package."""
        first = sorted({word for kind in ("noun", "adjective", "verb") for word in _wonderwords(kind)})
        random.Random(_SEED).shuffle(first)
        return cls(tuple(first))

    @cached_property
    def further(self) -> tuple[str, ...]:
        """The words of english-words that are not among the first. Raises RequestError without that package."""
        try:
            from english_words import get_english_words_set
        except ImportError as error:
            raise RequestError("RULER's cwe needs the package english-words: pip install english-words") from error
        webster = get_english_words_set(["web2"], alpha=True, lower=True)
        return tuple(sorted(webster.difference(self.first)))

    def draw(self, rng: random.Random, n: int, *, n_drawn: int = 0) -> list[str]:
        """`n` different words, in random order within each list; `n_drawn` are drawn where there are so many.

        Raises RequestError where there are fewer than `n`.
        """
        n_drawn = max(n, n_drawn)
        if n_drawn <= len(self.first):
            return rng.sample(self.first, n_drawn)[:n]
        n_words = len(self.first) + len(self.further)
        if n > n_words:
            raise RequestError(f"RULER's cwe: a list of {n} different words is asked for, there are {n_words}")
        words = rng.sample(self.first, len(self.first))
        return (words + rng.sample(self.further, min(n_drawn, n_words) - len(words)))[:n]
