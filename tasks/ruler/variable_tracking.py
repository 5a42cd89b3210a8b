"""Chains of variable assignments in noise.

Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/variable_tracking.py.
"""

import random
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import NamedTuple

from tasks.haystack import NOISE
from tasks.ruler.sample import Sample
from tasks.ruler.spec import CHAIN_PREFIX, CHAIN_TEMPLATE, ChainTask

SHOT_TOKENS = 500  # the solved example has at most so many tokens, its answer aside
_VALUES = range(10000, 99999)


class ShotPlan(NamedTuple):
    """The noise of the solved example, and the lines its assignments stand before.

    Without places they are drawn for each sample; the authors draw them once.
    """

    n_lines: int
    places: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class ChainBuilder:
    """Samples of variable tracking. Units: lines of noise. `shot`: None leaves the solved example out."""

    task: ChainTask
    shot: ShotPlan | None

    @property
    def smallest(self) -> int:
        """A line for each assignment to stand before."""
        return self.task.n_answers

    def build(self, rng: random.Random, size: int, *, n_drawn: int) -> Sample:
        """Draws in the authors' order: names and value, places, then the names and value of the example."""
        names = _draw_names(rng, self.task.n_answers, length=5)
        value = str(rng.randrange(_VALUES.start, _VALUES.stop))
        places = draw_places(rng, self.task.n_answers, size)
        content, prefix = _question(names, value, places, size)
        if self.shot is not None:
            content = self._shot(rng, self.shot) + "\n" + content
        return Sample(content=content, answer_prefix=prefix, answers=tuple(names))

    def _shot(self, rng: random.Random, plan: ShotPlan) -> str:
        places = plan.places if plan.places is not None else draw_places(rng, self.task.n_answers, plan.n_lines)
        names = [_draw_name(rng, 3) for _ in range(self.task.n_answers)]
        value = str(rng.randrange(_VALUES.start, _VALUES.stop))
        return shot_question(names, value, places, plan.n_lines) + " " + " ".join(names) + "\n"


def shot_question(names: list[str], value: str, places: tuple[int, ...], n_lines: int) -> str:
    """The solved example up to its answer."""
    return "".join(_question(names, value, places, n_lines))


def draw_places(rng: random.Random, n: int, n_lines: int) -> tuple[int, ...]:
    """The lines that the assignments stand before, in order."""
    return tuple(sorted(rng.sample(range(n_lines), n)))


def _draw_name(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(ascii_uppercase, k=length))


def _draw_names(rng: random.Random, n: int, *, length: int) -> list[str]:
    names: list[str] = []
    while len(names) < n:
        name = _draw_name(rng, length)
        if name not in names:
            names.append(name)
    return names


def _question(names: list[str], value: str, places: tuple[int, ...], n_lines: int) -> tuple[str, str]:
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {name} = VAR {before} " for before, name in pairwise(names)]
    lines = [NOISE] * n_lines
    for shift, (place, assignment) in enumerate(zip(places, chain, strict=True)):
        lines.insert(place + shift, assignment)
    content = CHAIN_TEMPLATE.format(context="\n".join(lines), query=value)
    return content, CHAIN_PREFIX.format(num_v=len(names), query=value)
