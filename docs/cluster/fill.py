"""Writes the numbers of docs/cluster.md from the measurements in this folder, and what follows from them.

    python benchmarks/scheduling.py --json docs/cluster/scheduling.json    # on quiet cores: about 3 minutes
    python benchmarks/cluster.py --json docs/cluster/overhead.json         # about 15 minutes
    python docs/cluster/fill.py                                            # the page's numbers follow; --check: exits 1

A number stands before a comment with its name and format: `761<!--cells_per_s:,.0f-->`. The table between
`<!-- table overhead -->` and `<!-- end -->` is written whole; it is empty where nothing was measured.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "cluster.md"
MARKED = re.compile(r"(?P<value>[\d.,]*\d)<!--(?P<name>\w+)(?P<format>:[^>]*?)?-->")
TABLE = re.compile(r"(<!-- table overhead -->\n).*?(<!-- end -->)", re.DOTALL)

# The leaderboard that the page counts, and what its samples are said to take.
GRID = {"methods": 20, "tasks": 13, "lengths": 6, "samples": 500}
GPUS, LONG_S, SHORT_S = 100, 5, 0.2


def facts(scheduling: Mapping[str, Any]) -> dict[str, Any]:
    """Every number of the page, by its name."""
    rate = scheduling["cells"] / scheduling["seconds"]
    grid = GRID["methods"] * GRID["tasks"] * GRID["lengths"] * GRID["samples"]
    found = {
        **GRID, "gpus": GPUS, "long_s": LONG_S, "short_s": SHORT_S, "grid": grid,
        "cells": scheduling["cells"], "cores": scheduling["cores"], "cells_per_s": rate,
        "first_mb": scheduling["resident_bytes"][0] / 1e6, "last_mb": scheduling["resident_bytes"][-1] / 1e6,
        "gpu_hours": grid * LONG_S / 3600, "days_on_one": grid * LONG_S / 86400,
        "hours_on_many": grid * LONG_S / 3600 / GPUS,
    }  # fmt: skip
    for name, seconds in (("long", LONG_S), ("short", SHORT_S)):
        found[f"{name}_rate"] = GPUS / seconds
        found[f"{name}_percent"] = 100 * GPUS / seconds / rate
        found[f"{name}_gpus"] = rate * seconds
    return found


def overhead(measured: Mapping[str, Any] | None) -> str:
    """The table of benchmarks/cluster.py, with what it is of."""
    if measured is None:
        return ""
    n = measured["rows"][0]["n_records"]
    different = sum(measured["records_different_from_local_1_thread"].values())
    lines = [
        f"`{measured['preset']}`, {n} samples, {measured['cores']} cores; {different} records differ:",
        "",
        "| run | seconds | until the first record | answers | report and end | beyond the local run |",
        "|---|---|---|---|---|---|",
    ]
    for row in measured["rows"]:
        more = measured["overhead"].get(row["mode"])
        parts = " | ".join(f"{row[name]:.0f}" for name in ("seconds", "start_s", "answers_s", "end_s"))
        lines.append(f"| {row['mode']} | {parts} | {'' if more is None else f'{100 * more:+.1f} %'} |")
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """The page with every marked number as measured."""
    known = facts(json.loads((HERE / "scheduling.json").read_text(encoding="utf-8")))
    path = HERE / "overhead.json"
    table = overhead(json.loads(path.read_text(encoding="utf-8")) if path.exists() else None)
    text = TABLE.sub(lambda match: match[1] + table + match[2], text)
    return MARKED.sub(
        lambda m: f"{known[m['name']]:{(m['format'] or ':')[1:]}}<!--{m['name']}{m['format'] or ''}-->", text
    )


def main() -> int:
    """Fill the page, or say whether it differs."""
    text = PAGE.read_text(encoding="utf-8")
    new = filled(text)
    if "--check" in sys.argv:
        return int(new != text)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
