"""A planned search from its model to its files."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from harness import environment
from harness.startup import importing
from harness.store import write_atomically
from harness.types import JSON
from methods.longrope.search.config import SearchPlan
from methods.longrope.search.evaluator import Evaluator, Unit
from methods.longrope.search.loop import search
from methods.longrope.search.outcome import SearchOutcome
from methods.longrope.search.pooled import PooledEvaluator, Workers
from methods.longrope.search.progress import SearchProgress
from methods.longrope.search.state import SearchFolder

FACTORS, PAGE = "factors.json", "search.html"


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where candidates are measured: in this process, or by workers of the Ray cluster at an address.

    device: `auto`, `cpu`, `cuda`, and in this process `cuda:1`. address: see `harness.cluster`.
    """

    device: str
    executor: Literal["local", "ray"] = "local"
    address: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """A finished search and its files. was_finished: nothing had to be measured."""

    outcome: SearchOutcome
    factors: Path
    page: Path
    was_finished: bool


def run_search(plan: SearchPlan, out: Path, where: Where) -> Made:
    """Search in a folder, going on where it was stopped, and write the factors and the page.

    Raises RequestError for whatever is wrong; what was measured is kept.
    """
    folder = SearchFolder(out)
    state = folder.read(plan.facts)
    outcome = state and state.outcome(plan.facts)
    made = Made(outcome=outcome, factors=out / FACTORS, page=out / PAGE, was_finished=True) if outcome else None
    if made and made.factors.exists() and made.page.exists():
        return made
    if made is None:
        outcome = _measured(plan, folder, where)
        made = Made(outcome=outcome, factors=out / FACTORS, page=out / PAGE, was_finished=False)
    with folder.opened():
        _write(made, plan)
    return made


def result_line(outcome: SearchOutcome) -> str:
    """The result as one line."""
    best, yarn = outcome.best, outcome.references["yarn"]
    pair = "" if best.candidate.critical_pair is None else f", critical pair {best.candidate.critical_pair}"
    return (
        f"loss {best.held_out_loss:.4g} held out (YaRN {yarn.held_out_loss:.4g}), {best.test_loss:.4g} on test "
        f"documents (YaRN {yarn.test_loss:.4g}); attention factor {best.candidate.attention_factor:.4f}{pair}; "
        f"{outcome.spent:.4g} forward-equivalents of {outcome.facts.budget:.4g} spent, {outcome.unpaid:.4g} more for "
        f"the report; {outcome.seconds:.0f} s"
    )


def _measured(plan: SearchPlan, folder: SearchFolder, where: Where) -> SearchOutcome:
    with importing():
        from harness.models import loading
        from methods.longrope.search.documents import Documents

    facts = plan.facts
    measuring = (_on_cluster if where.executor == "ray" else _here)(plan, where)
    with measuring as begin:
        tokenizer: Any = loading.load_tokenizer(plan.model)
        # Whatever is too short is said before the weights are read.
        documents = Documents(plan.objective, tokenizer, target_length=facts.target_length, seed=facts.seed)
        with folder.opened(), SearchProgress(facts.budget, Console(stderr=True)).shown() as progress:
            progress.says(f"loading {facts.model}")
            means = begin(progress)
            return search(
                plan.start(means.unit),
                means.evaluator,
                judge=means.judge,
                facts=facts,
                unit=means.unit,
                references=plan.references(),
                report=plan.report,
                splits=documents.splits,
                folder=folder,
                progress=progress,
                environment=means.environment,
                group_size=means.group_size,
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Means:
    """What a search measures by; see `loop.search`."""

    evaluator: Evaluator
    judge: Evaluator
    unit: Unit
    environment: Callable[[], Mapping[str, JSON]]
    group_size: int = 1


_Begin = Callable[[SearchProgress], _Means]


@contextmanager
def _here(plan: SearchPlan, where: Where) -> Iterator[_Begin]:
    """In this process."""
    from harness.models import loading
    from methods.longrope.search.objective import evaluators

    device = loading.check_device(where.device)
    loading.check_machine(plan.model, device)

    def begin(progress: SearchProgress) -> _Means:
        model = loading.load(plan.model, device=where.device)
        evaluator, judge = evaluators(
            model, plan.objective, target_length=plan.facts.target_length, seed=plan.facts.seed
        )
        return _Means(
            evaluator=evaluator,
            judge=judge,
            unit=evaluator.unit,
            environment=lambda: {**environment.gather(), **environment.device_facts(str(device))},
        )

    yield begin


@contextmanager
def _on_cluster(plan: SearchPlan, where: Where) -> Iterator[_Begin]:
    """By workers of a Ray cluster, each of which computes as this process would."""
    import torch

    from harness.cluster.search import joined
    from harness.cluster.worker import versions
    from methods.longrope.search.measuring import Setup

    with (
        joined(where.address, Setup.of(plan), device=where.device, n_threads=torch.get_num_threads()) as cluster,
        ExitStack() as until_the_end,
    ):

        def begin(progress: SearchProgress) -> _Means:
            workers = Workers(cluster, versions=versions(), says=progress.says, works=progress.works)
            until_the_end.callback(workers.close)
            return _Means(
                evaluator=PooledEvaluator(workers=workers),
                judge=PooledEvaluator(workers=workers, judges=True),
                unit=plan.objective.unit(plan.facts.target_length, on_gpu=cluster.on_gpu),
                environment=lambda: workers.environment or environment.gather(),  # nobody had anything left to measure
                group_size=sys.maxsize,
            )

        yield begin


def _write(made: Made, plan: SearchPlan) -> None:
    from methods.longrope.search.page import render
    from methods.longrope.search.result import write_factors

    write_factors(made.outcome, made.factors, readjusts=plan.readjusts)
    write_atomically(made.page, render(made.outcome))
