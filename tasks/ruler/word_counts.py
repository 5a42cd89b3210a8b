"""Words that appear most often: in a numbered list, and in a text of coded words.

Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/{common,freq}_words_extraction.py.
"""

import math
import random
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np

from tasks.ruler.sample import Sample, Shot, Shuffle
from tasks.ruler.spec import (
    AUTHORS_SHORTEST,
    COMMON_WORDS_PREFIX,
    COMMON_WORDS_TEMPLATE,
    FREQUENT_WORDS_PREFIX,
    FREQUENT_WORDS_TEMPLATE,
    CommonWordsTask,
    FrequentWordsTask,
)
from tasks.ruler.words import ListWords

_ZETA_2 = math.pi**2 / 6


@dataclass(frozen=True, kw_only=True)
class CommonWordsBuilder:
    """Samples of common words extraction. Units: different words. `with_shot`: a solved example comes first."""

    task: CommonWordsTask
    shuffle: Shuffle
    words: ListWords
    seq_len: int
    with_shot: bool

    @property
    def smallest(self) -> int:
        """The common words and one more."""
        return self.task.n_common + 1

    def build(self, rng: random.Random, size: int, *, n_drawn: int) -> Sample:
        """Draws in the authors' order: the example's words, then the list's."""
        task, shot = self.task, None
        short = self.seq_len < AUTHORS_SHORTEST
        if self.with_shot:
            n_shot = task.short_shot_words if short else task.shot_words
            repeats = task.short_shot_repeats if short else task.shot_repeats
            content, common = self._list(rng, self.words.draw(rng, n_shot), repeats)
            shot = Shot(content, _numbered(common))
        drawn = self.words.draw(rng, size, n_drawn=n_drawn)
        content, common = self._list(rng, drawn, task.short_repeats if short else task.repeats)
        return Sample(content=content, answer_prefix=COMMON_WORDS_PREFIX, answers=tuple(common), shot=shot)

    def _list(self, rng: random.Random, words: list[str], repeats: tuple[int, int]) -> tuple[str, list[str]]:
        common, others = words[: self.task.n_common], words[self.task.n_common :]
        items = common * repeats[0] + others * repeats[1]
        self.shuffle(rng, items)
        return COMMON_WORDS_TEMPLATE.format(context=_numbered(items)), common


def _numbered(words: list[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))


@dataclass(frozen=True, kw_only=True)
class FrequentWordsBuilder:
    """Samples of frequent words extraction. Units: words of the coded text, before counts are rounded down."""

    task: FrequentWordsTask
    shuffle: Shuffle
    seq_len: int

    @property
    def smallest(self) -> int:
        """The fewest words in which each of the three stands at least once."""
        return math.ceil((1 + self.task.n_answers) ** self.task.alpha * _ZETA_2)

    @property
    def n_vocabulary(self) -> int:
        """How many words are drawn, the dots included."""
        return (self.seq_len - self.task.n_new_tokens) // 50

    def counts(self, size: int) -> list[int]:
        """How often each word of the vocabulary stands in the text, the most frequent first."""
        ranks = np.arange(1, self.n_vocabulary + 1)
        counts: list[int] = (size * (ranks**-self.task.alpha) / _ZETA_2).astype(int).tolist()
        return counts

    def build(self, rng: random.Random, size: int, *, n_drawn: int) -> Sample:
        """The vocabulary is drawn first; all else follows from it, but for a drawn shuffle.

        A size at which the last of the three would tie with the next word is made smaller.
        """
        while _ties(counts := self.counts(size), self.task.n_answers) and size > self.smallest:
            size -= 1
        vocabulary = self._vocabulary(rng)
        text = [word for word, n in zip(vocabulary, counts, strict=True) for _ in range(n)]
        self.shuffle(rng, text)
        return Sample(
            content=FREQUENT_WORDS_TEMPLATE.format(context=" ".join(text)),
            answer_prefix=FREQUENT_WORDS_PREFIX,
            answers=tuple(vocabulary[1 : 1 + self.task.n_answers]),
        )

    def _vocabulary(self, rng: random.Random) -> list[str]:
        words: set[str] = set()
        while len(words) < self.n_vocabulary:
            words.add("".join(rng.choices(ascii_lowercase, k=self.task.word_length)))
        vocabulary = sorted(words)
        self.shuffle(rng, vocabulary)
        vocabulary[0] = "..."  # the most frequent word is noise
        return vocabulary


def _ties(counts: list[int], n_answers: int) -> bool:
    return len(counts) > n_answers + 1 and counts[n_answers] <= counts[n_answers + 1]
