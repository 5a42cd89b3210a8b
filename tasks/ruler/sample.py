"""A sample before it is tokens: the user's text, the prefix of the answer, the references."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from harness.types import JSON

_AUTHORS_SEED = 42


class Shot(NamedTuple):
    """A solved question before the one that is asked, a turn of its own."""

    content: str
    answer: str  # follows the answer prefix


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question as text. `content` is what the user says; the answer goes on from `answer_prefix`."""

    content: str
    answer_prefix: str
    answers: tuple[str, ...]
    shot: Shot | None = None
    metadata: Mapping[str, JSON] = field(default_factory=dict)

    def text(self, turn: Callable[[str], str]) -> str:
        """The whole prompt; `turn` puts a user's text into the model's chat template, header of the answer included."""
        prompt = turn(self.content) + self.answer_prefix
        if self.shot is None:
            return prompt
        return f"{turn(self.shot.content)}{self.answer_prefix} {self.shot.answer}\n{prompt}"


class Builder(Protocol):
    """Builds samples of one task at one length. A sample is a pure function of the draws and the size.

    size: how many units (lines of a haystack, words of an essay or a list) the context has, at least `smallest`.
    n_drawn: how many units are drawn, at least `size`; a generator in the same state with the same `n_drawn` gives
    the same units whatever the size, so that a sample can be made longer or shorter.
    """

    @property
    def smallest(self) -> int:
        """The fewest units a sample has."""
        ...

    def build(self, rng: random.Random, size: int, *, n_drawn: int) -> Sample:
        """The sample of a generator's next draws."""
        ...


Shuffle = Callable[[random.Random, list[Any]], None]  # of a list, in place


def authors_shuffle(rng: random.Random, items: list[Any]) -> None:
    """The authors' shuffle: seeded anew each time, so lists of one length are always permuted alike."""
    random.Random(_AUTHORS_SEED).shuffle(items)


def drawn_shuffle(rng: random.Random, items: list[Any]) -> None:
    """A shuffle drawn from the sample's own generator."""
    rng.shuffle(items)
