"""Questions among numbered documents.

Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/qa.py.
Differs: the number of documents is fitted document by document, by their own lengths in tokens, and the last gap may be
filled from any article; a question whose needed documents do not fit is passed over. Where the ten documents of a
HotpotQA question do not fit together, those that support the answer come first.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tasks.ruler.fitting import LOWEST, Fitted
from tasks.ruler.prompts import Prompt
from tasks.ruler.qa_data import QaData, Question
from tasks.ruler.sample import Sample, Shuffle
from tasks.ruler.spec import DOCUMENT, QA_PREFIX, QA_TEMPLATE
from tasks.tokens import encode

_ENOUGH = 0.01  # of the length: no further document is looked for
_MOST_TRIES = 8
_FEWEST_TOKENS = 10  # of a document: how many are drawn rests on it
_MOST_CHARS = 10  # a token: more text than that holds no room for repeats, and is not counted
_LOOKED_AT = 200  # documents tried for the last gap
_JOINT = 2  # tokens that may come or go where documents meet


class Distractors(NamedTuple):
    """Places of documents that do not answer the question, in the order in which they are taken."""

    more: list[int]
    others: list[int]


def draw_distractors(
    rng: random.Random, question: Question, n_documents: int, *, n_more: int | None, n_others: int
) -> Distractors:
    """Draws in the authors' order: of the same article (all of it, in order, for None), then of all the rest."""
    more = list(question.more) if n_more is None else rng.sample(question.more, n_more)
    used = {*question.own, *question.more}
    rest = [i for i in range(n_documents) if i not in used]
    return Distractors(more, rng.sample(rest, min(n_others, len(rest))) if n_others else [])


def question_sample(question: Question, documents: Sequence[str], *, gold: str | None = None) -> Sample:
    """The prompt of documents in their final order. `gold`: the one whose place is told in the metadata."""
    numbered = [DOCUMENT.format(i=i, document=document) for i, document in enumerate(documents, start=1)]
    content = QA_TEMPLATE.format(context="\n\n".join(numbered), query=question.query)
    metadata: dict[str, object] = {"n_documents": len(documents)}
    if gold is not None:
        metadata["depth_fraction"] = round((documents.index(gold) + 0.5) / len(documents), 4)
    return Sample(content=content, answer_prefix=QA_PREFIX, answers=question.answers, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class QaBuilder:
    """Samples of a QA task at one length; tokens of a document are counted once."""

    data: QaData
    prompt: Prompt
    shuffle: Shuffle
    seq_len: int
    n_new_tokens: int
    _costs: dict[int, int] = field(default_factory=dict)
    _headings: dict[int, int] = field(default_factory=dict)

    @property
    def budget(self) -> int:
        """The most tokens of a prompt."""
        return self.seq_len - self.n_new_tokens

    def questions(self) -> Iterator[Question]:
        """Those whose needed documents fit, in the order of the data."""
        return (question for question in self.data.questions if self.smallest(question) <= self.budget)

    def smallest(self, question: Question) -> int:
        """Tokens of the prompt with the needed documents alone."""
        return len(self._alone(question)[1]) + _JOINT

    def fit(self, rng: random.Random, question: Question) -> Fitted:
        """The prompt of as many documents as fit; two tries do, but for rare samples."""
        draws = rng.getrandbits(64)
        room = self.budget - len(self.prompt.ids(question_sample(question, [])))
        best, tried = self._alone(question), None
        for n_tries in range(1, _MOST_TRIES + 1):
            draw = random.Random(draws)
            chosen = self._choose(draw, question, room)
            if chosen == tried:
                break
            tried = list(chosen)
            self.shuffle(draw, chosen)
            sample = self._sample(question, chosen)
            ids = self.prompt.ids(sample)
            spare = self.budget - len(ids)
            if spare >= 0 and len(ids) >= len(best[1]):
                best = sample, ids
            missing = self.budget - len(best[1])
            if missing <= _ENOUGH * self.seq_len or (n_tries > 1 and missing <= (1 - LOWEST) * self.seq_len):
                break
            # Estimates err alike for each document: what they spared is given to further ones.
            room += math.floor(0.95 * spare) if spare > 0 else spare - _JOINT
        return best

    def _alone(self, question: Question) -> Fitted:
        sample = self._sample(question, question.needed)
        return sample, self.prompt.ids(sample)

    def _sample(self, question: Question, chosen: Sequence[int]) -> Sample:
        gold = self.data.documents[question.own[0]] if len(question.own) == 1 else None
        return question_sample(question, [self.data.documents[i] for i in chosen], gold=gold)

    def _choose(self, rng: random.Random, question: Question, room: int) -> list[int]:
        documents = range(len(self.data.documents))
        if self._too_few(room):
            return list(_repeated(documents, self._taken(_endless(documents), room)))
        own = question.own if self._cost(question.own) <= room else question.needed
        whole_article = self._cost((*own, *question.more)) <= room
        drawn = draw_distractors(
            rng,
            question,
            len(documents),
            n_more=None if whole_article else len(question.more),
            n_others=room // _FEWEST_TOKENS + _LOOKED_AT,
        )
        rest = [i for i in question.own if i not in own]
        return self._filled([*own], [*rest, *drawn.more, *drawn.others], room)

    def _filled(self, chosen: list[int], candidates: list[int], room: int) -> list[int]:
        """Candidates are taken in order; one too long for the rest of the room is passed over.

        So an article that does not fit leaves no gap: short documents of others fill it.
        """
        room -= self._cost(chosen)
        looked_at = 0
        for candidate in candidates:
            cost = self._cost_of(candidate, len(chosen) + 1)
            if cost <= room:
                chosen.append(candidate)
                room -= cost
            else:
                looked_at += 1
            if looked_at and (room <= _ENOUGH * self.seq_len or looked_at > _LOOKED_AT):
                break
        return chosen

    def _too_few(self, room: int) -> bool:
        """All documents together leave room: they are repeated."""
        if self.data.n_chars > _MOST_CHARS * room:
            return False
        return self._cost(range(len(self.data.documents))) <= room

    def _taken(self, documents: Iterable[int], room: int) -> int:
        """How many of the documents fit."""
        for n, document in enumerate(documents):
            room -= self._cost_of(document, n + 1)
            if room < 0:
                return n
        raise AssertionError("the documents are endless")

    # Tokens

    def _cost(self, documents: Iterable[int]) -> int:
        return sum(self._cost_of(document, n) for n, document in enumerate(documents, start=1))

    def _cost_of(self, document: int, number: int) -> int:
        """Tokens of a document as the `number`-th, with its heading."""
        if document not in self._costs:
            self._costs[document] = len(encode(self.prompt.tokenizer, self.data.documents[document]))
        digits = len(str(number))
        if digits not in self._headings:
            self._headings[digits] = len(encode(self.prompt.tokenizer, f"\n\nDocument {'1' * digits}:\n"))
        return self._costs[document] + self._headings[digits]


def _endless(documents: range) -> Iterator[int]:
    while True:
        yield from documents


def _repeated(documents: range, n: int) -> Iterator[int]:
    for i in range(n):
        yield documents[i % len(documents)]
