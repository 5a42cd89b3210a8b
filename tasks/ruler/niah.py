"""Needles in noise, in essays, or among needles.

Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/niah.py.
"""

import random
import uuid
from dataclasses import dataclass

from tasks.haystack import NOISE
from tasks.ruler.essays import EssaySentences
from tasks.ruler.sample import Sample, Shuffle
from tasks.ruler.spec import NEEDLE, NIAH_PREFIX, NIAH_TEMPLATE, NiahTask
from tasks.ruler.words import KeyWords

_DEPTHS = [round(100 * i / 39) for i in range(40)]  # percent


@dataclass(frozen=True, kw_only=True)
class NiahBuilder:
    """Samples of a needle task. Units: lines of noise, distracting needles, or words of essays."""

    task: NiahTask
    shuffle: Shuffle
    words: KeyWords
    essays: EssaySentences | None = None  # of the haystack `essay`

    @property
    def smallest(self) -> int:
        """A line for each needle to stand before; a word of an essay."""
        return 1 if self.task.haystack == "essay" else self.task.n_keys * self.task.n_values

    def build(self, rng: random.Random, size: int, *, n_drawn: int) -> Sample:
        """Draws in the authors' order: keys and values, the haystack, the places, the keys asked for."""
        task = self.task
        values: dict[str, list[str]] = {}
        keys, needles = [], []
        for _ in range(task.n_keys):
            key = self._draw(rng, task.key)
            keys.append(key)
            values[key] = [self._draw(rng, task.value) for _ in range(task.n_values)]
            needles += [self._needle(key, value) for value in values[key]]
        self.shuffle(rng, needles)
        context = self._context(rng, size, n_drawn, needles)
        queries = [keys[i] for i in rng.sample(range(task.n_keys), task.n_queries)]
        answers = tuple(value for key in queries for value in values[key])
        asked = context.rfind(self._needle(queries[0], answers[0]))
        content, prefix = self._question(context, queries)
        return Sample(
            content=content,
            answer_prefix=prefix,
            answers=answers,
            metadata={"depth_fraction": round(asked / len(context), 4), "keys": queries},
        )

    def _draw(self, rng: random.Random, kind: str) -> str:
        if kind == "words":
            return self.words.draw(rng)
        if kind == "numbers":
            return str(rng.randint(10**6, 10**7 - 1))
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(type_needle_v=self.task.value, key=key, value=value)

    def _context(self, rng: random.Random, size: int, n_drawn: int, needles: list[str]) -> str:
        if self.essays is not None:
            return _between_sentences(rng, self.essays.first(size), needles)
        if self.task.haystack == "noise":
            lines = [NOISE] * size
        else:
            draw, task = self._draw, self.task
            lines = [self._needle(draw(rng, task.key), draw(rng, task.value)) for _ in range(n_drawn)][:size]
        places = sorted(rng.sample(range(size), len(needles)), reverse=True)
        for place, needle in zip(places, needles, strict=True):
            lines.insert(place, needle)
        return "\n".join(lines)

    def _question(self, context: str, queries: list[str]) -> tuple[str, str]:
        template, prefix, noun = NIAH_TEMPLATE, NIAH_PREFIX, str(self.task.value)
        if self.task.n_answers == 1:
            template, prefix, noun = _singular(template), _singular(prefix), noun[:-1]
        query = queries[0] if len(queries) == 1 else ", ".join(queries[:-1]) + ", and " + queries[-1]
        content = template.format(type_needle_v=noun, context=context, query=query)
        return content, prefix.format(type_needle_v=noun, query=query)


def _singular(template: str) -> str:
    return template.replace("Some", "A").replace("are all", "is").replace("are", "is").replace("answers", "answer")


def _between_sentences(rng: random.Random, sentences: list[str], needles: list[str]) -> str:
    """Needles between sentences, at depths drawn without replacement from forty."""
    depths = rng.sample(_DEPTHS, len(needles))
    places = sorted(int(len(sentences) * (depth / 100)) for depth in depths)
    pieces = []
    for start, end, needle in zip([0, *places], places, needles, strict=False):
        pieces += [" ".join(sentences[start:end]), needle]
    pieces.append(" ".join(sentences[places[-1] :]))
    return " ".join(pieces)
