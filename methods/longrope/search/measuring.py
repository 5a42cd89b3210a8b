"""A process that measures for a search: it keeps one model and its documents. Knows no Ray."""

import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.answering import device_lost
from harness.cluster.worker import Facts, versions
from harness.errors import RequestError
from harness.models import request as models
from harness.models.request import ModelRequest
from harness.startup import importing
from methods.longrope.search.config import SearchPlan
from methods.longrope.search.documents import Objective
from methods.longrope.search.evaluator import Evaluator
from methods.longrope.search.pooled import Answer, Task


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a process must know to measure. model_identity, artifacts: as in `SearchFacts`."""

    model: ModelRequest
    objective: Objective
    target_length: int
    seed: int
    model_identity: Mapping[str, str]
    artifacts: Mapping[str, str]

    @classmethod
    def of(cls, plan: SearchPlan) -> "Setup":
        """That of a search."""
        facts = plan.facts
        return cls(
            model=plan.model,
            objective=plan.objective,
            target_length=facts.target_length,
            seed=facts.seed,
            model_identity=facts.model_identity,
            artifacts=facts.artifacts,
        )


class Measurer:
    """Answers tasks one after another. n_threads: that a processor sums with, since sums depend on it."""

    def __init__(self, setup: Setup, *, device: str, n_threads: int) -> None:
        with importing():
            import torch

            import methods.longrope.search.objective  # noqa: F401

        torch.set_num_threads(n_threads)
        self._setup, self._device = setup, device
        self._evaluators: tuple[Evaluator, Evaluator] | None = None
        self._leaving = ""
        signal.signal(signal.SIGTERM, self._asked_to_stop)

    def facts(self) -> Facts:
        """Who this is."""
        return Facts.here(versions(), self._device)

    def step(self, task: Task | None) -> Answer:
        """Measure one candidate; for None, load the model. Raises RequestError, which says where."""
        if self._leaving:
            return Answer(leaving=self._leaving)
        try:
            evaluator, judge = self._loaded()
            if task is None:
                return Answer(leaving=self._leaving)
            (measured,) = (judge if task.judges else evaluator).measure(task.ask)
        except RequestError as error:
            raise RequestError(f"worker on {socket.gethostname()}: {error}") from error
        except Exception as error:
            if not device_lost(error):
                raise
            self._leaving = f"the GPU was lost: {error}"
            return Answer(leaving=self._leaving, blame=True)
        return Answer(measured=measured, leaving=self._leaving)

    def _asked_to_stop(self, *_: object) -> None:
        self._leaving = "it was asked to stop (SIGTERM)"

    def _loaded(self) -> tuple[Evaluator, Evaluator]:
        if self._evaluators is None:
            from harness.models.loading import load
            from methods.longrope.search.objective import evaluators

            setup = self._setup
            models.check(setup.model)
            _compare(models.fingerprint(setup.model), setup.model_identity, f"model '{setup.model.label}'")
            model: Any = load(setup.model, device=self._device)
            made = evaluators(model, setup.objective, target_length=setup.target_length, seed=setup.seed)
            _compare(made[0].documents.artifacts(), setup.artifacts, "objective")
            self._evaluators = made
        return self._evaluators


def _compare(here: Mapping[str, str], planned: Mapping[str, str], what: str) -> None:
    for name, found in here.items():
        if planned.get(name) != found:
            raise RequestError(
                f"{what}: its {name} is another one there (sha256 {found[:12]}) than where the search was planned "
                f"(sha256 {str(planned.get(name))[:12]}): give every node the same files"
            )
