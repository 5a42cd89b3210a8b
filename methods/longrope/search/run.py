"""A planned search from its model to its files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import environment
from harness.startup import importing
from harness.store import write_atomically
from methods.longrope.search.config import SearchPlan
from methods.longrope.search.loop import search
from methods.longrope.search.outcome import SearchOutcome
from methods.longrope.search.progress import SearchProgress
from methods.longrope.search.state import SearchFolder

FACTORS, PAGE = "factors.json", "search.html"


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """A finished search and its files. was_finished: nothing had to be measured."""

    outcome: SearchOutcome
    factors: Path
    page: Path
    was_finished: bool


def run_search(plan: SearchPlan, out: Path, *, device: str) -> Made:
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
        outcome = _measured(plan, folder, device)
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


def _measured(plan: SearchPlan, folder: SearchFolder, device: str) -> SearchOutcome:
    with importing():
        from harness.models import loading
        from methods.longrope.search.documents import Documents
        from methods.longrope.search.objective import NeedleEvaluator

    found_device = loading.check_device(device)
    loading.check_machine(plan.model, found_device)
    facts, settings = plan.facts, {"target_length": plan.facts.target_length, "seed": plan.facts.seed}
    tokenizer: Any = loading.load_tokenizer(plan.model)
    Documents(plan.objective, tokenizer, **settings)  # whatever is too short is said before the weights are read
    with (
        folder.opened(),
        SearchProgress(facts.budget, Console(stderr=True)).shown() as progress,
    ):
        progress.says(f"loading {facts.model}")
        model = loading.load(plan.model, device=device)
        evaluator = judge = NeedleEvaluator(model, plan.objective, **settings)
        if plan.objective.kind != "needle":  # the report shows needles whatever the search minimises
            judge = NeedleEvaluator(model, replace(plan.objective, kind="needle"), **settings)
        return search(
            plan.start(evaluator.unit),
            evaluator,
            judge=judge,
            facts=facts,
            unit=evaluator.unit,
            references=plan.references(),
            report=plan.report,
            splits=evaluator.documents.splits,
            folder=folder,
            progress=progress,
            environment=lambda: {**environment.gather(), **environment.device_facts(str(found_device))},
        )


def _write(made: Made, plan: SearchPlan) -> None:
    from methods.longrope.search.page import render
    from methods.longrope.search.result import write_factors

    write_factors(made.outcome, made.factors, readjusts=plan.readjusts)
    write_atomically(made.page, render(made.outcome))
