"""What stretching cost: a method against the base method on the same samples inside the original window.

A task that the base method does no better than by blind guessing has nothing to retain: it is left out and named.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from harness import stats
from harness.types import JSON
from reports.cells import CellResult, by_method, number, paired

_Place = tuple[str, str, int]  # suite, task, length
_Task = tuple[str, str]


def retention_rows(manifest: Mapping[str, JSON], cells: Sequence[CellResult]) -> list[dict[str, Any]]:
    """A row a model, method (the base left out) and group: each suite, then `all`."""
    rows = []
    for model, facts in manifest["models"].items():
        inside = [
            cell
            for cell in cells
            if cell.entry["model"] == model and cell.seq_len <= facts["original_max_position_embeddings"]
        ]
        methods = by_method(inside)
        base_cells = methods.get((model, manifest["report"]["base"]), ())
        base = {_place(cell): cell for cell in base_cells}
        at_chance = _at_chance(base_cells, manifest["report"]["confidence"])
        for method in manifest["methods"]:
            if method != manifest["report"]["base"]:
                ours = [cell for cell in methods.get((model, method), ()) if _place(cell) in base]
                rows += _rows(model, method, manifest, ours, base, at_chance)
    return rows


def _at_chance(base: Sequence[CellResult], confidence: float) -> set[_Task]:
    """The tasks on which the base method's interval, over all lengths, does not lie above chance."""
    tasks: dict[_Task, list[CellResult]] = {}
    for cell in base:
        if cell.metric["kind"] != "likelihood":
            tasks.setdefault(_place(cell)[:2], []).append(cell)
    lows = {
        task: stats.mean([cell.sample for cell in cells], confidence=confidence).low for task, cells in tasks.items()
    }
    # An unknown low end is judged where the missing answers are reported.
    return {task for task, low in lows.items() if low is not None and low <= tasks[task][0].metric["chance"]}


def _rows(
    model: str,
    method: str,
    manifest: Mapping[str, JSON],
    ours: Sequence[CellResult],
    base: Mapping[_Place, CellResult],
    at_chance: set[_Task],
) -> list[dict[str, Any]]:
    report = manifest["report"]
    suites: dict[str, list[CellResult]] = {}
    left_out: dict[str, None] = {}
    for cell in ours:
        suite, task = _place(cell)[:2]
        kept = suites.setdefault(suite, [])
        if (suite, task) in at_chance:
            left_out[f"{suite}/{task}"] = None
        else:
            kept.append(cell)
    pairs = {suite: [pairs_of(cell, base[_place(cell)]) for cell in cells] for suite, cells in suites.items()}
    rows = []
    for group, named in [*((suite, [suite]) for suite in suites), ("all", list(suites))]:
        members = [suite for suite in named if suites[suite]]
        found = stats.retention(
            [pairs[suite] for suite in members], margin=report["margin"], confidence=report["confidence"]
        )
        reason = found.reason
        if not members and named:
            reason = f"{report['base']} is not above chance on any task"
        elif not members:
            reason = f"no cell of this method and of {report['base']} at or below the original window"
        rows.append(
            {
                "model": model,
                "method": method,
                "group": group,
                "retention": number(found.value),
                "low": number(found.low),
                "high": number(found.high),
                "margin": report["margin"],
                "verdict": found.verdict,
                "chance_corrected": number(found.chance_corrected),
                "mcnemar": _mcnemar([p for suite in members for p in pairs[suite]]),
                "left_out": [name for name in left_out if group in ("all", name.partition("/")[0])],
                "reason": reason,
                "cells": [cell.entry["key"] for suite in members for cell in suites[suite]],
            }
        )
    return rows


def _place(cell: CellResult) -> _Place:
    return cell.entry["suite"], cell.entry["task"], cell.seq_len


def pairs_of(ours: CellResult, base: CellResult) -> stats.Pairs:
    """The samples both answered, by example id."""
    both = [example_id for example_id in ours.answered if example_id in base.answered]
    method, reference = ([cell.answered[i] for i in both] for cell in (ours, base))
    trained = [cell.entry.get("artifacts", {}).get("checkpoint_weights") for cell in (ours, base)]
    same_weights = trained[0] == trained[1]
    return paired(
        ours,
        method,
        reference,
        n_expected=max(ours.n_expected, base.n_expected),
        same_computation=same_weights and {r.regime for r in (*method, *reference)} == {"original"},
    )


def _mcnemar(pairs: Sequence[stats.Pairs]) -> dict[str, Any] | None:
    """Discordant samples and the exact p-value over the binary cells; None where there is none."""
    binary = [p for p in pairs if p.kind == "binary"]
    if not binary:
        return None
    gained = stats.mcnemar([x for p in binary for x in p.method_N], [x for p in binary for x in p.base_N])
    return {"gained": gained.gained, "lost": gained.lost, "p_value": number(gained.p_value)}
