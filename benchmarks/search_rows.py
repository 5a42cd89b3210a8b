"""How a scaled search is described, and numbers as Markdown."""

import argparse
from typing import Any

from reports.text import DASH

PAPER = {"population": 64, "iterations": 40, "children": 32}


def scaled(args: argparse.Namespace) -> dict[str, int]:
    """The paper's evolution at another population: half parents, a quarter each mutants, crossovers, finalists."""
    population = args.population
    return {
        "population": population,
        "iterations": args.iterations,
        "n_parents": max(population // 2, 1),
        "n_mutations": max(population // 4, 1),
        "n_crossovers": max(population // 4, 1),
        "n_final": max(population // 4, 1),
    }


def how_scaled(factors: dict[str, Any]) -> str:
    """How an evolution departs from the paper's size; empty for the fast search."""
    settings = factors["search"]["settings"]
    if "population" not in settings:
        return ""
    whole = settings["population"] + settings["iterations"] * (settings["n_mutations"] + settings["n_crossovers"])
    paper = PAPER["population"] + PAPER["iterations"] * PAPER["children"]
    measured = factors["search"]["n_measured"]
    return (
        f"population {settings['population']} of {PAPER['population']}, {measured} measurements; "
        f"all generations would be {whole}, the paper's are {paper}"
    )


def number(value: float | None) -> str:
    """Three digits; a dash for what is not known."""
    return DASH if value is None else f"{value:.3g}"


def with_error(value: float | None, error: float | None) -> str:
    """A mean with its standard error."""
    return number(value) + (f" ± {error:.2g}" if error is not None else "")


def over(value: float | None, reference: float | None) -> str:
    """A ratio of losses."""
    return number(value / reference if value is not None and reference else None)
