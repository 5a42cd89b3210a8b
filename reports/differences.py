"""A method against the base method, length by length: paired differences, with p-values adjusted across methods."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness import paired, stats
from harness.types import JSON
from reports.cells import CellResult, number
from reports.retention import pairs_of


def difference_rows(
    model: str, manifest: Mapping[str, JSON], cells: Sequence[CellResult], *, base: str
) -> list[dict[str, Any]]:
    """A row a suite, length and method of a model's `cells`, the base left out.

    Holm's adjustment is over all methods of the run: one that has no cell here takes part with p = 1, which only
    makes the others' larger.
    """
    found: dict[tuple[str, int, bool], dict[str, list[CellResult]]] = {}
    for cell in cells:
        place = cell.entry["suite"], cell.seq_len, cell.metric["kind"] == "likelihood"
        found.setdefault(place, {}).setdefault(cell.entry["method"], []).append(cell)
    n_others = len(manifest["methods"]) - 1
    suites = list(manifest["suites"])
    rows = []
    for place in sorted(found, key=lambda place: (suites.index(place[0]), place[2], place[1])):
        rows += _rows(model, place, found[place], base, manifest["report"]["confidence"], n_others)
    return rows


def _rows(
    model: str,
    place: tuple[str, int, bool],
    methods: Mapping[str, Sequence[CellResult]],
    base: str,
    confidence: float,
    n_others: int,
) -> list[dict[str, Any]]:
    theirs = {cell.entry["task"]: cell for cell in methods.get(base, ())}
    suite, seq_len, likelihood = place
    rows = []
    for method, ours in methods.items():
        both = [pairs_of(cell, theirs[cell.entry["task"]]) for cell in ours if cell.entry["task"] in theirs]
        if method == base or not both:
            continue
        change = paired.change(both, confidence=confidence)
        binary = [p for p in both if p.kind == "binary"]
        gained = stats.mcnemar([x for p in binary for x in p.method_N], [x for p in binary for x in p.base_N])
        p_value = min(1.0, 2 * min(change.tails)) if change.value is not None else None
        rows.append(
            {
                "model": model,
                "method": method,
                "group": suite,
                "seq_len": seq_len,
                "scale": "perplexity ratio" if likelihood else "difference",
                "difference": number(change.value),
                "low": number(change.low),
                "high": number(change.high),
                "gained": gained.gained if binary else None,
                "lost": gained.lost if binary else None,
                "p_value": number(p_value),
                "reason": change.reason,
            }
        )
    known: list[dict[str, Any]] = [row for row in rows if row["p_value"] is not None]
    p_values: list[float] = [row["p_value"] for row in known]
    adjusted = stats.holm(p_values + [1.0] * (n_others - len(known)))
    for row in rows:
        row["p_holm"] = None
    for row, p_holm in zip(known, adjusted, strict=False):
        row["p_holm"] = number(p_holm)
    return rows
