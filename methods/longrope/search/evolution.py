"""Evolution, generation by generation: what LongRoPE's and LongRoPE2's searches share.

A generation is measured on one draw of documents, so that its candidates can be compared. With fresh documents the
parents are measured again beside their children, and that is paid for; with fixed ones nothing is measured twice.
The last question ranks the best few and every closed form the search started from, on held-out documents.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from harness.errors import RequestError
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Ask, Draw, Measured
from methods.longrope.search.space import Problem

Ranked = tuple[Candidate, float]
_Phase = Literal["search", "final", "done"]

_SLACK = 1 + 1e-12  # of the budget: sums of costs are rounded


class Breeder(Protocol):
    """What a published algorithm fills in."""

    def seeds(self, generator: np.random.Generator) -> Sequence[Candidate]:
        """The closed forms that the population begins with."""
        ...

    def references(self) -> Sequence[Candidate]:
        """Closed forms that are only ranked at the end."""
        ...

    def mutate(self, parent: Candidate, generator: np.random.Generator) -> Candidate:
        """A child of one parent; it may be the parent itself."""
        ...

    def cross(self, first: Candidate, second: Candidate, generator: np.random.Generator) -> Iterator[Candidate]:
        """Children of two parents, one after another."""
        ...


@dataclass(frozen=True, kw_only=True)
class AbstractEvolution(ABC):
    """Settings of an evolution; the defaults are the papers'.

    population: of the first generation. iterations: generations after it.
    n_parents: the best of a generation, kept and bred from. n_mutations, n_crossovers: children of a generation.
    n_final: how many of the best are ranked on held-out documents, beside the closed forms.
    held_out_documents: how many; by default as many as an evaluation has.
    tries: how often a child is drawn anew, on average, before a generation stays smaller.
    A budget that does not hold all generations ends the search after the last whole one that it holds.
    Source: arXiv:2402.13753 section 3.3, arXiv:2502.20082 appendix B; tries: microsoft/LongRoPE@c9e56aa.
    """

    name: ClassVar[str]

    population: int = 64
    iterations: int = 40
    n_parents: int = 32
    n_mutations: int = 16
    n_crossovers: int = 16
    mutation_probability: float = 0.3
    crossover_probability: float = 0.15
    n_final: int = 8
    held_out_documents: int | None = None
    tries: int = 20

    def __post_init__(self) -> None:
        for name in ("population", "n_parents", "n_final", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: it should be at least 1")
        for name in ("iterations", "n_mutations", "n_crossovers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: it should be at least 0")
        for name in ("mutation_probability", "crossover_probability"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name):g}: it should be above 0 and at most 1")
        if self.held_out_documents is not None and self.held_out_documents < 1:
            raise ValueError(f"held_out_documents = {self.held_out_documents}: it should be at least 1")

    @abstractmethod
    def breeder(self, problem: Problem) -> Breeder:
        """The algorithm for one problem. Raises RequestError where a setting does not fit it."""

    def start(self, problem: Problem) -> "Evolution":
        """A search. Raises RequestError where the budget does not hold its first generation and last ranking."""
        return Evolution(self, problem)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search takes where nothing fails, in forward-equivalents: each generation, and the last ranking."""

    generations: tuple[float, ...]
    final: float
    budget: float

    @property
    def whole(self) -> float:
        """All of the algorithm, whatever the budget."""
        return sum(self.generations) + self.final

    @property
    def n_generations(self) -> int:
        """How many generations the budget holds, the first one included."""
        return sum(spent + self.final <= self.budget * _SLACK for spent in accumulate(self.generations))

    def __str__(self) -> str:
        said = f"the whole search takes {self.whole:g} forward-equivalents"
        if self.n_generations == len(self.generations):
            return f"{said}; the budget of {self.budget:g} holds it"
        held = f"{self.n_generations} of {len(self.generations)} generations"
        return f"{said}; the budget of {self.budget:g} ends it after {held}"


class Evolution:
    """A search in progress (see `evaluator.Searcher`).

    plan: what it takes where nothing fails. generation: the one being measured, from 0. spent: in forward-equivalents.
    """

    def __init__(self, settings: AbstractEvolution, problem: Problem) -> None:
        self.settings = settings
        self.problem = problem
        self.generation = 0
        self.spent = 0.0
        self._breeder = settings.breeder(problem)
        self._generator = np.random.Generator(np.random.PCG64(problem.seed))
        self._phase: _Phase = "search"
        self._parents: list[Ranked] = []  # best first, on the documents of the generation they were last measured in
        self._final: list[Ranked] = []
        seeds = _spread(_distinct(self._breeder.seeds(self._generator)), settings.population)
        self._starts = _distinct([*seeds, *self._breeder.references()])
        self.plan = self._planned()
        self._seen: dict[str, None] = {}  # keys of everything ever proposed, in order
        self._pending = self._first_generation(seeds)

    def ask(self) -> Ask | None:
        """The candidates of this generation, or those of the last ranking; None when it is over."""
        if self._phase == "done":
            return None
        return Ask(candidates=tuple(self._pending), draw=self._draw(self._phase))

    def tell(self, measured: Sequence[Measured]) -> None:
        """The answers; a candidate whose loss is not finite is out."""
        asked = self.ask()
        if asked is None or len(measured) != len(asked.candidates):
            raise ValueError(f"{len(measured)} answers to {len(asked.candidates) if asked else 0} questions")
        self.spent += self.problem.cost(asked)
        found = [(c, m.loss) for c, m in zip(asked.candidates, measured, strict=True) if not m.failed]
        if self._phase == "final":
            self._final, self._phase = _ranked(found), "done"
            return
        known = [] if self.problem.fresh else self._parents
        self._parents = _ranked([*known, *found])[: self.settings.n_parents]
        self._go_on()

    def ranking(self) -> Sequence[Ranked]:
        """Best first: the parents by their latest documents; after the last ranking those it ranked, held out."""
        return list(self._final if self._phase == "done" else self._parents)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {
            "algorithm": self.settings.name,
            "phase": self._phase,
            "generation": self.generation,
            "spent": self.spent,
            "generator": self._generator.bit_generator.state,
            "starts": [candidate.as_json() for candidate in self._starts],
            "pending": [candidate.as_json() for candidate in self._pending],
            "parents": [[candidate.as_json(), loss] for candidate, loss in self._parents],
            "final": [[candidate.as_json(), loss] for candidate, loss in self._final],
            "seen": list(self._seen),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken. Raises RequestError for the state of another algorithm."""
        if state.get("algorithm") != self.settings.name:
            raise RequestError(
                f"the state is of the algorithm '{state.get('algorithm')}': it should be of '{self.settings.name}'"
            )
        self._phase, self.generation, self.spent = state["phase"], state["generation"], state["spent"]
        self._generator.bit_generator.state = state["generator"]
        self._starts = [Candidate.from_json(table) for table in state["starts"]]
        self._pending = [Candidate.from_json(table) for table in state["pending"]]
        self._parents = [(Candidate.from_json(table), loss) for table, loss in state["parents"]]
        self._final = [(Candidate.from_json(table), loss) for table, loss in state["final"]]
        self._seen = dict.fromkeys(state["seen"])

    def _draw(self, phase: _Phase) -> Draw:
        if phase == "final":
            return self.problem.draw("held_out", n_documents=self.settings.held_out_documents)
        return self.problem.draw("search", block=self.generation if self.problem.fresh else 0)

    def _planned(self) -> Plan:
        settings, problem = self.settings, self.problem
        n_children = settings.n_mutations + settings.n_crossovers
        counts = [settings.population]
        for _ in range(settings.iterations if n_children else 0):
            n_kept = min(settings.n_parents, counts[-1]) if problem.fresh else 0
            counts.append(n_kept + n_children)
        one = problem.cost(Ask(candidates=tuple(self._starts[:1]), draw=self._draw("search")))
        held_out = problem.cost(Ask(candidates=tuple(self._starts[:1]), draw=self._draw("final")))
        plan = Plan(
            generations=tuple(count * one for count in counts),
            final=(settings.n_final + len(self._starts)) * held_out,
            budget=problem.budget,
        )
        if not plan.n_generations:
            raise RequestError(
                f"budget = {problem.budget:g}: it should be at least {counts[0] * one + plan.final:g} "
                f"forward-equivalents, {counts[0] * one:g} for the first generation and {plan.final:g} for the last "
                "ranking; or make the population smaller"
            )
        return plan

    def _first_generation(self, seeds: Sequence[Candidate]) -> list[Candidate]:
        """The seeds, then mutations of whatever is in the population so far."""
        population = list(seeds)
        self._see(population)
        for _ in range(self.settings.population * self.settings.tries):
            if len(population) == self.settings.population:
                break
            child = self._breeder.mutate(self._pick(population), self._generator)
            if child.key not in self._seen:
                population.append(child)
                self._see([child])
        return population

    def _go_on(self) -> None:
        """To the next generation, or to the last ranking where nothing new, or nothing affordable, is left."""
        parents = [candidate for candidate, _ in self._parents]
        if self.generation < self.settings.iterations and parents:
            children = self._children(parents)
            pending = [*parents, *children] if self.problem.fresh else children
            cost = self.problem.cost(Ask(candidates=tuple(pending), draw=self._draw("search")))
            if children and self.spent + cost + self.plan.final <= self.problem.budget * _SLACK:
                self.generation += 1
                self._pending = pending
                return
        self._phase = "final"
        self._pending = _distinct([*parents[: self.settings.n_final], *self._starts])

    def _children(self, parents: Sequence[Candidate]) -> list[Candidate]:
        mutants = self._bred(self.settings.n_mutations, lambda: self._mutated(parents))
        return [*mutants, *self._bred(self.settings.n_crossovers, lambda: self._crossed(parents))]

    def _bred(self, wanted: int, litter: Callable[[], Iterable[Candidate]]) -> list[Candidate]:
        """Candidates that were never asked, the first of each litter; fewer where too many litters hold none."""
        children: list[Candidate] = []
        for _ in range(wanted * self.settings.tries):
            if len(children) == wanted:
                break
            new = next((child for child in litter() if child.key not in self._seen), None)
            if new is not None:
                children.append(new)
                self._see([new])
        return children

    def _mutated(self, parents: Sequence[Candidate]) -> Iterator[Candidate]:
        yield self._breeder.mutate(self._pick(parents), self._generator)

    def _crossed(self, parents: Sequence[Candidate]) -> Iterator[Candidate]:
        """Crossings of two parents; else, as in the released code, a mutation of the first."""
        first, second = self._pick(parents), self._pick(parents)
        yield from self._breeder.cross(first, second, self._generator)
        yield self._breeder.mutate(first, self._generator)

    def _pick(self, among: Sequence[Candidate]) -> Candidate:
        return among[int(self._generator.integers(0, len(among)))]

    def _see(self, candidates: Iterable[Candidate]) -> None:
        self._seen |= dict.fromkeys(candidate.key for candidate in candidates)


def _distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The first of each RoPE."""
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        found.setdefault(candidate.key, candidate)
    return list(found.values())


def _spread(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """At most so many of them, evenly from the first to the last."""
    if len(candidates) <= most:
        return list(candidates)
    return [candidates[i] for i in np.linspace(0, len(candidates) - 1, most).round().astype(int).tolist()]


def _ranked(found: Sequence[Ranked]) -> list[Ranked]:
    return sorted(found, key=lambda one: one[1])
