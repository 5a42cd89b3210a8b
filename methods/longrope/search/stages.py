"""The stages of the gradient search, as one generator of questions that is sent their answers."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import RequestError
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.descent import Descent
from methods.longrope.search.evaluator import Ask, Draw, Measured
from methods.longrope.search.operators import Box, mutate
from methods.longrope.search.space import Problem
from methods.longrope.search.starts import closed_forms

if TYPE_CHECKING:
    from methods.longrope.search.fast import FastSearch

Ranked = tuple[Candidate, float]
Asking = Generator[Ask, Sequence[Measured], list[Ranked]]

# Shares of the budget: the race of closed forms, that of descents, the last choice. Other steps have the rest.
_RACE, _COMPARISON, _CHOICE = 0.2, 0.25, 0.2
_N_RUNGS = 3  # of the race, which cost the same
_ONE_OF = 4  # of so many, a rung keeps one
_MOST_BATCHES = 32  # of a rung: beyond, the ranking is good enough
_FEWEST_STARTS, _FEWEST_KEPT, _FEWEST_STEPS = 6, 2, 4
_N_CLOSED_FORMS = 2  # of the race that stand in the last choice, beside YaRN
_N_POLISHED = 2  # mutations that do
_MUTATION = 0.3  # of a factor, as in arXiv:2502.20082
_FEWEST_FINALISTS = 3  # the mean of the iterates, YaRN and the best of the race
_EVALUATIONS_EACH = 2  # what a budget should hold for each finalist; a small one has fewer of them
_LAST = 2  # or fewer are left of those that are no closed forms, for the last round
_LOOK = 0.25  # of what descents are compared for: the documents they are compared on
_STEPS_APART = 12  # of a descent, before descents are compared; a budget for fewer tries fewer of them
_LAST_RATE = 0.1  # the learning rate falls to this share of itself


class GradientSearch:
    """One search. `steps` may be run once.

    ranking: the best so far. spent: forward-equivalents asked for.
    Raises RequestError, saying the least, for a budget that does not hold the fewest questions of every stage.
    """

    def __init__(self, settings: "FastSearch", problem: Problem) -> None:
        if problem.readjusts is not None:
            raise RequestError("algorithm 'fast' readjusts no factors for shorter lengths: 'longrope' does")
        self.ranking: list[Ranked] = []
        self.spent = 0.0
        self._settings, self._problem, self._target = settings, problem, problem.target_length
        self._n_draws = 0
        self._n_batch = settings.documents_a_step or max(1, problem.n_documents // 4)
        self._n_batches = max(1, problem.n_documents // self._n_batch)  # of an evaluation
        short = max(problem.window, round(settings.short_share * self._target))
        self._short = min(short, self._target)
        self._step_cost = problem.unit.gradient_passes * self._cost(self._target)
        least = self._least()
        if problem.budget < least:
            raise RequestError(
                f"budget = {problem.budget:g}: algorithm 'fast' needs {least:.4g} forward-equivalents at least where a "
                f"step takes {self._n_batch} of n_documents = {problem.n_documents}"
            )

    def steps(self) -> Generator[Ask, Sequence[Measured], None]:
        """Every question, to the end; answers are sent."""
        starts = yield from self._race()
        descents = yield from self._compare(starts)
        found: list[Candidate] = []
        if descents:
            found = yield from self._descend(descents[0])
            found += yield from self._polish(descents[0].mean)
        others = [descent.mean for descent in descents[1:]]
        closed = [self._yarn, *starts[:_N_CLOSED_FORMS]]
        yield from self._choose([*found[:1], *closed[:2], *found[1:], *closed[2:], *others], closed)

    def _race(self) -> Generator[Ask, Sequence[Measured], list[Candidate]]:
        """The closed forms, best first: a rung measures ever fewer of them, on ever more documents."""
        spend = _RACE / _N_RUNGS * self._problem.budget
        kept = closed_forms(self._problem, self._settings.attentions)
        self._yarn = kept[0]
        n = min(len(kept), max(int(spend / self._cost(self._short)), _FEWEST_STARTS))
        for rung in range(_N_RUNGS):
            seq_len = self._target if rung else self._short
            n_affordable = int(spend / self._cost(seq_len))
            kept = kept[: max(min(n // _ONE_OF**rung, n_affordable), _FEWEST_KEPT)]
            if not kept:
                break
            n_batches = min(n_affordable // len(kept), _MOST_BATCHES if self._problem.fresh else self._n_batches)
            kept = [candidate for candidate, _ in (yield from self._measured(kept, seq_len, n_batches))]
        return kept

    def _compare(self, starts: list[Candidate]) -> Generator[Ask, Sequence[Measured], list[Descent]]:
        """Descents from starts of different shapes, by their means' losses on the same documents."""
        shapes: dict[tuple[float, ...], Candidate] = {}
        for candidate in starts:
            shapes.setdefault(candidate.rescale_factors, candidate)
        one = _STEPS_APART * self._step_cost + self._n_batches * self._cost(self._target)
        spend = _COMPARISON * self._problem.budget
        n = min(max(int(spend / one), 1), self._settings.n_descents, len(shapes))
        descents = [self._descent(start) for start in list(shapes.values())[:n]]
        if n < 2:
            return descents
        n_batches = self._n_batches
        if self._problem.fresh:
            n_batches = min(max(n_batches, int(_LOOK * spend / n / self._cost(self._target))), _MOST_BATCHES)
        look = n_batches * self._cost(self._target)
        for _ in range(int((spend / n - look) / self._step_cost)):
            draw = self._draw(self._target)
            for descent in descents:
                yield from self._step(descent, draw)
        means = {descent.mean.key: descent for descent in descents}
        ranked = yield from self._measured([d.mean for d in means.values()], self._target, n_batches)
        return [means[candidate.key] for candidate, _ in ranked]

    def _descend(self, descent: Descent) -> Generator[Ask, Sequence[Measured], list[Candidate]]:
        """The other steps, from one place: the mean at their beginning, half-way and end, and the last iterate."""
        problem = self._problem
        choice = min(_CHOICE * problem.budget, self._most_finalists * self._held_out_cost(self._settings.n_held_out))
        kept_back = choice + self._settings.polish * problem.budget
        n_steps = int((problem.budget - kept_back - self.spent) / self._step_cost)
        means = [descent.mean]
        for i in range(n_steps):
            share = 1 - (1 - _LAST_RATE) * i / n_steps
            yield from self._step(descent, self._draw(self._target), share)
            self.ranking = [(descent.mean, descent.loss)]
            if i == n_steps // 2:
                means.append(descent.mean)
        return [descent.mean, descent.candidate, *means]

    def _polish(self, mean: Candidate) -> Generator[Ask, Sequence[Measured], list[Candidate]]:
        """Mutations of the mean by the paper's operator, beside it on the same documents: the best that beat it."""
        problem = self._problem
        look = self._n_batches * self._cost(self._target)
        n = int(self._settings.polish * problem.budget / look) - 1
        if n < 1 or not mean.is_sound:
            return []
        factors_P = np.array(mean.rescale_factors)
        box = Box.flat(problem.n_pairs, 1.0, max(2 * problem.ratio, float(factors_P.max())))
        generator = np.random.Generator(np.random.PCG64([problem.seed, problem.target_length]))
        mutants = [
            replace(mean, rescale_factors=tuple(mutated_P.tolist()), origin="polish")
            for mutated_P in (mutate(factors_P, box, generator, probability=_MUTATION) for _ in range(n))
        ]
        ranked = yield from self._measured([mean, *mutants], self._target, self._n_batches)
        better = [candidate for candidate, loss in ranked if loss < dict(ranked).get(mean, float("inf"))]
        return better[:_N_POLISHED]

    def _step(self, descent: Descent, draw: Draw, share: float = 1.0) -> Generator[Ask, Sequence[Measured], None]:
        (measured,) = yield from self._asked(Ask(candidates=(descent.candidate,), draw=draw, measure="gradient"))
        descent.tell(measured, share)

    def _choose(
        self, finalists: Iterable[Candidate], closed: Iterable[Candidate]
    ) -> Generator[Ask, Sequence[Measured], None]:
        """Rounds on new held-out documents, which cost the same: the better half goes on, by all its documents so far.

        The closed forms go on whatever they have, so that what is returned is never worse than one of them on all.
        """
        kept = self._affordable(finalists)
        harms: dict[str, float] = {}
        if self._settings.short_guard is not None:
            harms = yield from self._harms(kept)
        is_closed = {candidate.key for candidate in closed}
        means, n_seen = dict.fromkeys(kept, 0.0), 0
        sizes = _halvings(sum(candidate.key not in is_closed for candidate in kept))
        for block, size in enumerate(sizes):
            searched = [candidate for candidate in kept if candidate.key not in is_closed]
            means = {candidate: means[candidate] for candidate in kept if candidate not in searched[size:]}
            left = (self._problem.budget - self.spent) / (len(sizes) - block)
            n = int(left / (max(len(means), 1) * self._held_out_cost(1)))
            n = min(n, self._settings.n_held_out - n_seen)
            if n < 1 or not means:
                break
            n_seen += n
            draw = self._problem.draw("held_out", block=block, n_documents=n)
            means = yield from self._averaged(means, draw, n / n_seen)
            self.ranking = sorted(_ranked(means.items()), key=lambda one: harms.get(one[0].key, 0.0))
            kept = [candidate for candidate, _ in self.ranking]

    def _affordable(self, finalists: Iterable[Candidate]) -> list[Candidate]:
        """The first of them, as many as the rest of the budget holds documents for."""
        distinct = list({candidate.key: candidate for candidate in finalists if candidate.is_sound}.values())
        left = self._problem.budget - self.spent
        n = int(left / self._held_out_cost(_EVALUATIONS_EACH * self._problem.n_documents))
        return distinct[: max(n, _FEWEST_FINALISTS)]

    def _harms(self, finalists: list[Candidate]) -> Generator[Ask, Sequence[Measured], dict[str, float]]:
        """By how much each is worse inside the window than allowed, in nats a token; 0 where it is not."""
        ask = self._guarding([self._problem.vanilla(), *finalists])
        own, *measured = yield from self._asked(ask)
        if own.failed:
            return {}
        allowed = own.loss + (self._settings.short_guard or 0.0)
        return {
            candidate.key: float("inf") if m.failed else max(m.loss - allowed, 0.0)
            for candidate, m in zip(finalists, measured, strict=True)
        }

    def _guarding(self, candidates: Sequence[Candidate]) -> Ask:
        draw = Draw(split="held_out", seq_len=self._problem.window, n_documents=self._problem.n_documents)
        return Ask(candidates=tuple(candidates), draw=draw, measure="short_loss")

    def _measured(self, candidates: list[Candidate], seq_len: int, n_batches: int) -> Asking:
        """The candidates by their mean loss on the same documents; one whose loss is not finite is out."""
        means = dict.fromkeys(candidates, 0.0)
        for i in range(n_batches):
            if not means:
                break
            means = yield from self._averaged(means, self._draw(seq_len), 1 / (i + 1))
            if seq_len == self._target:
                self.ranking = _ranked(means.items())
        return _ranked(means.items())

    def _averaged(
        self, means: dict[Candidate, float], draw: Draw, share: float
    ) -> Generator[Ask, Sequence[Measured], dict[Candidate, float]]:
        """The mean losses with these documents in them, which are that share; one whose loss is not finite is out."""
        measured = yield from self._asked(Ask(candidates=tuple(means), draw=draw))
        told = zip(means.items(), measured, strict=True)
        return {candidate: mean + share * (m.loss - mean) for (candidate, mean), m in told if not m.failed}

    def _asked(self, ask: Ask) -> Generator[Ask, Sequence[Measured], Sequence[Measured]]:
        self.spent += self._problem.cost(ask)
        return (yield ask)

    def _draw(self, seq_len: int) -> Draw:
        """The next few documents; of fixed ones, round and round."""
        block = self._n_draws if self._problem.fresh else self._n_draws % self._n_batches
        self._n_draws += 1
        return Draw(block=block, seq_len=seq_len, n_documents=self._n_batch)

    def _descent(self, start: Candidate) -> Descent:
        settings = self._settings
        return Descent(start, learning_rate=settings.learning_rate, moves_attention=settings.attention == "searched")

    @property
    def _most_finalists(self) -> int:
        """Iterates and their means, mutations, closed forms, and the means of the other descents."""
        return 4 + _N_POLISHED + _N_CLOSED_FORMS + 1 + self._settings.n_descents - 1

    def _cost(self, seq_len: int) -> float:
        """Of one candidate on the documents of a step."""
        return self._n_batch * seq_len / self._problem.unit.n_tokens

    def _held_out_cost(self, n_documents: int) -> float:
        return n_documents * self._target / self._problem.unit.n_tokens

    def _least(self) -> float:
        """The budget whose shares hold the fewest questions of every stage."""
        at_target = self._cost(self._target)
        rung = max(_FEWEST_STARTS * self._cost(self._short), _FEWEST_KEPT * at_target)
        choice = _FEWEST_FINALISTS * self._held_out_cost(1)
        if self._settings.short_guard is not None:
            choice += self._guarding([self._problem.yarn()] * (self._most_finalists + 1)).cost(self._problem.unit)
        steps = _FEWEST_STEPS * self._step_cost
        descent = 1 - _RACE - _COMPARISON - _CHOICE - self._settings.polish
        return max(rung * _N_RUNGS / _RACE, choice / _CHOICE, steps / descent)


def _ranked(found: Iterable[Ranked]) -> list[Ranked]:
    return sorted(found, key=lambda one: one[1])


def _halvings(n: int) -> list[int]:
    """How many go into each round, until a few are left."""
    sizes = [n]
    while sizes[-1] > _LAST:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes
