"""A searcher and an evaluator that need no model: the loop does not care what it asks or who answers."""

import hashlib
import math
import os
import signal

import numpy as np

from methods.base import RopeSpec
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Ask, Gradient, Measured, Unit
from methods.longrope.search.loop import ReportSettings, search
from methods.longrope.search.outcome import SearchFacts
from methods.longrope.search.space import Problem
from methods.longrope.search.state import SearchFolder

ROPE = RopeSpec(
    inv_freq_P=1e4 ** -(np.arange(8) / 8), rope_theta=1e4, rotary_dim=16, original_max_position_embeddings=64
)
UNIT = Unit(n_tokens=2 * 256)


def problem(budget: float = 40.0, seed: int = 0) -> Problem:
    return Problem(rope=ROPE, target_length=256, unit=UNIT, n_documents=2, seed=seed, budget=budget)


class Climber:
    """Random steps from the best; the last question ranks the best few and YaRN on held-out documents."""

    def __init__(self, problem: Problem, *, n: int = 4) -> None:
        self.problem, self.n = problem, n
        self.generator = np.random.Generator(np.random.PCG64(problem.seed))
        self.best: list[tuple[Candidate, float]] = []
        self.spent, self.block, self.phase = 0.0, 0, "search"
        self.pending: Ask | None = None

    def ask(self) -> Ask | None:
        if self.pending is None and self.phase != "done":
            self.pending = self._next()
        return self.pending

    def _next(self) -> Ask:
        if self.spent + self.n * 3 + 5 > self.problem.budget:
            self.phase = "final"
            known = tuple(candidate for candidate, _ in self.best[:3])
            return Ask(candidates=(*known, self.problem.yarn()), draw=self.problem.draw("held_out"))
        start = self.best[0][0] if self.best else self.problem.yarn()
        steps = np.exp(self.generator.normal(0, 0.1, (self.n, 8)))
        made = [tuple((np.array(start.rescale_factors) * step).tolist()) for step in steps]
        candidates = tuple(Candidate(rescale_factors=factors, origin="step") for factors in made)
        self.block += 1
        measure = "gradient" if self.block % 3 == 0 else "loss"
        return Ask(candidates=(*candidates, start), draw=self.problem.draw(block=self.block // 2), measure=measure)

    def tell(self, measured) -> None:
        ask, self.pending = self.pending, None
        self.spent += self.problem.cost(ask)
        found = [
            (candidate, found.loss)
            for candidate, found in zip(ask.candidates, measured, strict=True)
            if not found.failed
        ]
        if self.phase == "final":
            self.best, self.phase = [], "done"
        self.best = sorted([*self.best, *found], key=lambda pair: pair[1])[:8]

    def ranking(self):
        return self.best

    def state(self):
        return {
            "generator": self.generator.bit_generator.state,
            "best": [[candidate.as_json(), loss] for candidate, loss in self.best],
            "spent": self.spent,
            "block": self.block,
            "phase": self.phase,
        }

    def restore(self, state) -> None:
        self.generator.bit_generator.state = state["generator"]
        self.best = [(Candidate.from_json(candidate), loss) for candidate, loss in state["best"]]
        self.spent, self.block, self.phase = state["spent"], state["block"], state["phase"]


class Bowl:
    """A loss that is least at 1.5 for every factor, with noise that belongs to the documents.

    Counts what it was asked; may stop after some measurements, by an error or by killing its process.
    """

    def __init__(self, *, stop_after: int | None = None, kill: bool = False, nan_every: int = 0) -> None:
        self.measured: list[tuple[str, object, str]] = []
        self.stop_after, self.kill, self.nan_every = stop_after, kill, nan_every

    def measure(self, ask: Ask):
        return [self._one(candidate, ask) for candidate in ask.candidates]

    def _one(self, candidate: Candidate, ask: Ask) -> Measured:
        if self.stop_after is not None and len(self.measured) >= self.stop_after:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        self.measured.append((candidate.key, ask.draw, ask.measure))
        logs = np.log(np.array(candidate.rescale_factors) / 1.5)
        if self.nan_every and int(candidate.key[:8], 16) % self.nan_every == 0 and candidate.origin == "step":
            return Measured(loss=math.nan)
        noise = [float(_noise(ask.draw, index)) for index in range(ask.draw.n_documents)]
        losses = tuple(float((logs**2).mean()) + noise for noise in noise)
        gradient = Gradient(log_rescale_factors_P=logs / 3, log_attention_factor=0.1)
        return Measured(
            loss=sum(losses) / len(losses), losses=losses, gradient=gradient if ask.measure == "gradient" else None
        )


def _noise(draw, index: int) -> float:
    digest = hashlib.sha256(repr((draw, index)).encode()).digest()
    return 0.3 + int.from_bytes(digest[:4], "big") / 2**35


def facts(of: Problem, **changes) -> SearchFacts:
    table = {
        "title": "A fake",
        "preset": "fake",
        "key": f"key of {of.seed}",
        "model": "bowl",
        "model_identity": {"weights": "0" * 64},
        "dtype": "float32",
        "attention": "auto",
        "rope": of.rope,
        "target_length": of.target_length,
        "algorithm": "climber",
        "settings": {},
        "objective": {},
        "artifacts": {},
        "n_documents": of.n_documents,
        "budget": of.budget,
        "seed": of.seed,
    }
    return SearchFacts(**{**table, **changes})


class Silent:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.seen: list = []

    def says(self, what: str) -> None:
        self.said.append(what)

    def follows(self, status) -> None:
        self.seen.append(status)


def run(
    folder,
    evaluator,
    *,
    of: Problem | None = None,
    searcher=None,
    progress=None,
    save_every_s=0.0,
    group_size=1,
    **changes,
):
    """The loop over a folder, as the command calls it."""
    of = of or problem()
    where = SearchFolder(folder)
    with where.opened():
        return search(
            searcher or Climber(of),
            evaluator,
            facts=facts(of, **changes),
            unit=of.unit,
            references={"position_interpolation": of.pi(), "yarn": of.yarn()},
            report=ReportSettings(test_documents=3, curve_points=4),
            splits={"noise": "samples"},
            folder=where,
            progress=progress or Silent(),
            environment=lambda: {"python": "3"},
            save_every_s=save_every_s,
            group_size=group_size,
        )
