"""Needles woven into filler, to an exact number of tokens and at a stated depth.

Shape letters: L tokens of the filler.
"""

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from tasks.base import Tokenizer
from tasks.haystack import Haystack, sentence_starts
from tasks.tokens import EncodedText, encode, encode_text, leading_ids

_NEAR = 4  # tokens that may stay unused
_TRIES = 8

Depths = int | tuple[float, ...]
DepthInterval = Literal["linear", "sigmoid"]


def depth_grid(depths: Depths, interval: DepthInterval = "linear") -> tuple[float, ...]:
    """Fractions from 0 (the start) to 1 (the end), ascending: so many, or those given. Raises ValueError.

    interval: so many are spaced evenly, or `sigmoid`, densely towards both ends.
    """
    if isinstance(depths, int):
        if depths < 1:
            raise ValueError(f"depths = {depths}: it should be at least 1, or a list of fractions from 0 to 1")
        if depths == 1:
            return (0.5,)
        if interval == "sigmoid":
            return (*(sigmoid_percent(i * (100 / (depths - 1))) / 100 for i in range(depths - 1)), 1.0)
        return tuple(i / (depths - 1) for i in range(depths))
    if interval != "linear":
        raise ValueError(f"depth_interval = '{interval}' spaces a number of depths; a list of them needs none")
    for depth in depths:
        if not 0 <= depth <= 1:
            raise ValueError(f"depths holds {depth:g}: each should be a fraction from 0 to 1")
    if not depths:
        raise ValueError("depths is empty: it should be a number of depths, or a list of fractions from 0 to 1")
    return depths


def sigmoid_percent(percent: float) -> float:
    """A depth in percent, moved towards the nearer end; both ends and the middle stay.

    Source: gkamradt/LLMTest_NeedleInAHaystack 7b90d28, needlehaystack/llm_needle_haystack_tester.py, logistic.
    Differs: theirs falls where this rises, so that a grid has the same depths in ascending order.
    """
    return percent if percent in (0, 100) else round(100 / (1 + math.exp(-0.1 * (percent - 50))), 3)


@dataclass(frozen=True, eq=False)
class Filler:
    """Filler text with its tokens, at least as many as were asked for."""

    text: str
    tokens: EncodedText

    @classmethod
    def draw(cls, haystack: Haystack, rng: random.Random, tokenizer: Tokenizer, n_tokens: int) -> "Filler":
        """Filler that starts at a random sentence of the haystack and has at least `n_tokens` tokens."""
        start = haystack.place(rng, 4 * n_tokens)
        probe = haystack.filler(start, 2000)
        n_chars = int(1.1 * n_tokens * len(probe) / len(encode(tokenizer, probe))) + 200
        while True:
            text = haystack.filler(start, n_chars)
            tokens = encode_text(tokenizer, text)
            if len(tokens.ids) >= n_tokens:
                return cls(text, tokens)
            n_chars = int(1.1 * n_chars * n_tokens / len(tokens.ids))

    def cut(self, n_tokens: int) -> int:
        """How many characters hold about `n_tokens` tokens: to the end of a word, unless the word is very long."""
        if n_tokens <= 0:
            return 0
        end = int(self.tokens.ends_L[min(n_tokens, len(self.tokens.ids)) - 1])
        if end == len(self.text) or self.text[end].isspace():
            return end
        space = max(self.text.rfind(" ", 0, end), self.text.rfind("\n", 0, end), 0)
        return space if n_tokens - self.tokens.token_at(space) <= _NEAR else end


@dataclass(frozen=True)
class Woven:
    """A finished text as tokens.

    ids: special tokens in front, then the whole text.
    n_prompt: how many of them come before the answer.
    starts: the first token of each needle, the main one first.
    fillers: the tokens of each stretch of filler between needles, as (start, end); an empty one where there is none.
    """

    ids: list[int]
    n_prompt: int
    starts: tuple[int, ...]
    fillers: tuple[tuple[int, int], ...]

    def without(self, n: int, *, anywhere: bool = False) -> "Woven | None":
        """The text without the last `n` tokens of its last filler; None where that has not more of them.

        anywhere: of the last filler that has.
        """
        for start, end in reversed(self.fillers if anywhere else self.fillers[-1:]):
            if 0 <= n < max(1, end - start):

                def moved(place: int, end: int = end) -> int:
                    return place - n if place >= end else place

                return Woven(
                    ids=self.ids[: end - n] + self.ids[end:],
                    n_prompt=self.n_prompt - n,
                    starts=tuple(map(moved, self.starts)),
                    fillers=tuple((moved(a), moved(b)) for a, b in self.fillers),
                )
        return None


@dataclass(frozen=True, kw_only=True)
class Weave:
    """What is woven: the texts around the filler, and the needles with the depths they go to.

    main, depth: the needle that is asked for, at the sentence boundary nearest to this share of the whole context.
    others: more needles, at the boundary nearest to a share of the filler.
    answer: what follows the prompt, given the context; empty where the model is to write it.
    """

    head: str
    main: str
    depth: float
    others: Sequence[tuple[str, float]]
    tail: str
    answer: Callable[[str], str] = lambda context: ""

    def to(self, filler: Filler, tokenizer: Tokenizer, *, n_tokens: int) -> Woven:
        """The text with as much filler as fits: at most `n_tokens` tokens, and hardly fewer."""
        needles = " ".join((self.main, *(text for text, _ in self.others)))
        fixed = self.head + needles + self.tail + self.answer(needles)
        leading = leading_ids(tokenizer)
        target = n_tokens - len(leading) - len(encode(tokenizer, fixed))
        best: Woven | None = None
        for _ in range(_TRIES):
            woven = self._with_filler(filler, tokenizer, leading, filler.cut(target))
            spare = n_tokens - len(woven.ids)
            if spare >= 0 and (best is None or len(woven.ids) > len(best.ids)):
                best = woven
            if 0 <= spare <= _NEAR:
                break
            target += spare
        if best is None:
            raise ValueError(f"the fixed text does not fit into {n_tokens} tokens: {fixed!r}")
        return best

    def exactly(self, filler: Filler, tokenizer: Tokenizer, *, n_tokens: int) -> Woven:
        """The text with exactly `n_tokens` tokens: a filler, mostly the last, may end in a word. Raises ValueError."""
        leading = leading_ids(tokenizer)
        needles = " ".join((self.main, *(text for text, _ in self.others)))
        fixed = self.head + needles + self.tail + self.answer(needles)
        target = n_tokens - len(leading) - len(encode(tokenizer, fixed)) + _NEAR
        least: Woven | None = None
        for _ in range(2 * _TRIES):
            woven = self._with_filler(filler, tokenizer, leading, filler.cut(target))
            surplus = len(woven.ids) - n_tokens
            if found := woven.without(surplus):
                return found
            if surplus > 0 and (least is None or len(woven.ids) < len(least.ids)):
                least = woven
            target += 1 - surplus if surplus < 0 else -max(1, surplus - _NEAR)
        # Behind a needle near the end a word more may be too much to cut away, and a word less too little.
        if least and (found := least.without(len(least.ids) - n_tokens, anywhere=True)):
            return found
        raise ValueError(f"the fixed text and a sentence of filler do not fit into {n_tokens} tokens")

    def _with_filler(self, filler: Filler, tokenizer: Tokenizer, leading: list[int], n_chars: int) -> Woven:
        pieces, order = self._pieces(filler, tokenizer, n_chars)
        context = "".join(pieces).rstrip()
        places = [0]
        for piece in pieces:
            places.append(places[-1] + len(piece))
        prompt = self.head + context + self.tail
        tokens = encode_text(tokenizer, prompt + self.answer(context))

        def token_at(place: int) -> int:
            return len(leading) + tokens.token_at(len(self.head) + place)

        runs = [list(run) for is_needle, run in groupby(range(len(pieces)), lambda i: i in order) if not is_needle]
        ends = [(places[run[0]], places[run[-1]] + len(pieces[run[-1]].rstrip())) for run in runs] or [(0, 0)]
        return Woven(
            ids=leading + tokens.ids,
            n_prompt=len(leading) + tokens.token_at(len(prompt)),
            starts=tuple(token_at(places[i]) for i in order),
            fillers=tuple((token_at(start), token_at(end)) for start, end in ends),
        )

    def _pieces(self, filler: Filler, tokenizer: Tokenizer, n_chars: int) -> tuple[list[str], list[int]]:
        """Sentences and needles in order, each with the white space behind it; and which pieces the needles are."""
        text = filler.text[:n_chars].rstrip()
        bounds = [*sentence_starts(text), len(text)] if text else [0]
        tokens = [filler.tokens.token_at(bound) for bound in bounds]
        slots: dict[int, list[int]] = {}
        for j, (_, depth) in enumerate(self.others):
            slots.setdefault(_nearest(tokens, depth * tokens[-1]), []).append(j)

        pieces: list[str] = []
        starts, counts, at = [0], {}, 0
        for i, bound in enumerate(bounds):
            for j in slots.get(i, ()):
                counts[j] = len(pieces)
                pieces.append(self.others[j][0] + " ")
                at += len(encode(tokenizer, " " + self.others[j][0]))
                starts.append(at)
            if i + 1 < len(bounds):
                sentence = text[bound : bounds[i + 1]]
                pieces.append(sentence if sentence[-1].isspace() else sentence + " ")
                at += tokens[i + 1] - tokens[i]
                starts.append(at)
        main = _nearest(starts, self.depth * at)
        pieces.insert(main, self.main + " ")
        return pieces, [main, *(counts[j] + (counts[j] >= main) for j in range(len(self.others)))]


def _nearest(ascending: Sequence[int], value: float) -> int:
    """The index of the number nearest to a value; the first of equal ones."""
    right = bisect_left(ascending, value)
    if right == 0 or (right < len(ascending) and ascending[right] - value < value - ascending[right - 1]):
        return min(right, len(ascending) - 1)
    return bisect_left(ascending, ascending[right - 1])
