"""What stretching cost: a method against the base method on the same samples inside the original window."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness import stats
from harness.types import JSON
from reports.cells import CellResult, number

_Place = tuple[str, str, int]  # suite, task, length


def retention_rows(manifest: Mapping[str, JSON], cells: Sequence[CellResult]) -> list[dict[str, Any]]:
    """A row a model, method (the base left out) and group: each suite, then `all`."""
    rows = []
    for model, facts in manifest["models"].items():
        inside = [
            cell
            for cell in cells
            if cell.entry["model"] == model and cell.seq_len <= facts["original_max_position_embeddings"]
        ]
        base = {_place(cell): cell for cell in inside if cell.entry["method"] == manifest["report"]["base"]}
        for method in manifest["methods"]:
            if method != manifest["report"]["base"]:
                ours = [cell for cell in inside if cell.entry["method"] == method and _place(cell) in base]
                rows += _rows(model, method, manifest, ours, base)
    return rows


def _rows(
    model: str,
    method: str,
    manifest: Mapping[str, JSON],
    ours: Sequence[CellResult],
    base: Mapping[_Place, CellResult],
) -> list[dict[str, Any]]:
    report = manifest["report"]
    suites: dict[str, list[CellResult]] = {}
    for cell in ours:
        suites.setdefault(cell.entry["suite"], []).append(cell)
    pairs = {suite: [_pairs(cell, base[_place(cell)]) for cell in cells] for suite, cells in suites.items()}
    rows = []
    for group, members in [*((suite, [suite]) for suite in suites), ("all", list(suites))]:
        found = stats.retention(
            [pairs[suite] for suite in members], margin=report["margin"], confidence=report["confidence"]
        )
        reason = found.reason
        if not members:
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
                "reason": reason,
                "cells": [cell.entry["key"] for suite in members for cell in suites[suite]],
            }
        )
    return rows


def _place(cell: CellResult) -> _Place:
    return cell.entry["suite"], cell.entry["task"], cell.seq_len


def _pairs(ours: CellResult, base: CellResult) -> stats.Pairs:
    """The samples both answered, by example id."""
    both = [example_id for example_id in ours.answered if example_id in base.answered]
    method_N, weights_N = ours.values(ours.answered[i] for i in both)
    base_N, _ = base.values(base.answered[i] for i in both)
    regimes = {cell.answered[i].regime for cell in (ours, base) for i in both}
    return stats.Pairs(
        name=ours.entry["key"],
        kind=ours.metric["kind"],
        method_N=method_N,
        base_N=base_N,
        weights_N=weights_N,
        n_expected=max(ours.n_expected, base.n_expected),
        chance=ours.metric["chance"],
        same_computation=regimes == {"original"},
    )


def _mcnemar(pairs: Sequence[stats.Pairs]) -> dict[str, Any] | None:
    """Discordant samples and the exact p-value over the binary cells; None where there is none."""
    binary = [p for p in pairs if p.kind == "binary"]
    if not binary:
        return None
    gained = stats.mcnemar([x for p in binary for x in p.method_N], [x for p in binary for x in p.base_N])
    return {"gained": gained.gained, "lost": gained.lost, "p_value": number(gained.p_value)}
