"""Tables and figures to one self-contained HTML file.

`reports.tables.analyse` computes, `reports.figures` draws, `reports.model_view` puts a model's parts together, this
module adds what belongs to no model, and `templates/` holds the markup. Equal records give equal bytes; nothing is
fetched.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.types import JSON, RunData
from reports import tables, text
from reports.beside import beside
from reports.definitions import definitions
from reports.exports import Table
from reports.flat import failures_table, provenance_tables, rows_table
from reports.model_view import model_view
from reports.pages import page
from reports.samples import MOST_SAMPLES
from reports.tables import Analysis
from reports.views import completeness, trouble

_MOST_FAILURES = 200


def render(run: RunData) -> str:
    """The report of a run as text."""
    return render_analysis(tables.analyse(run))


def render_analysis(analysis: Analysis) -> str:
    """The same, of what `reports.tables.analyse` computed."""
    return page("report.html.j2", **report_view(analysis))


def report_view(analysis: Analysis) -> dict[str, Any]:
    """Everything the template names."""
    manifest = analysis.manifest
    settings, environment = _settings(manifest), _environments(manifest)
    failures = trouble(analysis)
    shown = failures[:_MOST_FAILURES]
    published = manifest["report"].get("published")
    return {
        "title": manifest["title"],
        "manifest": manifest,
        "alpha": 1 - manifest["report"]["confidence"],
        "definitions": definitions(manifest["report"]),
        "complete": completeness(analysis),
        "lengths": sorted({cell.seq_len for cell in analysis.cells}),
        "slugs": _slugs(list(manifest["methods"])),
        "models": [model_view(model, analysis) for model in manifest["models"]],
        "most_samples": MOST_SAMPLES,
        "published": _beside(analysis, published) if published else None,
        "trouble": {"rows": shown, "n": len(failures), "table": failures_table(shown)},
        "provenance": provenance_tables(analysis, settings, environment),
    }


def _slugs(methods: Sequence[str]) -> dict[str, str]:
    """A name for ids: the method's own letters and digits, with its number where that is not its whole name."""
    found = {}
    for i, method in enumerate(methods):
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", method)[:40]
        found[method] = slug if slug == method else f"{slug}-{i}"
    return found


def _beside(analysis: Analysis, name: str) -> dict[str, Any]:
    found = beside(analysis, name)
    columns = ["row", "method", "model", "column", "theirs", "ours", "low", "high", "difference"]
    for part in found["tables"]:
        table = part["table"]
        part["export"] = rows_table(part["rows"], columns, name=f"published-{table.id}", caption=table.caption)
    return found


def all_tables(view: Mapping[str, Any]) -> list[Table]:
    """The tables that belong to no model."""
    beside_tables = [part["export"] for part in view["published"]["tables"]] if view["published"] else []
    return [
        *beside_tables,
        *([view["trouble"]["table"]] if view["trouble"]["rows"] else []),
        *view["provenance"].values(),
    ]


def _environments(manifest: Mapping[str, JSON]) -> list[tuple[str, str]]:
    """Where the run was made; of a method with an environment of its own, its Python and the same packages there."""
    ours = manifest["environment"]
    rows = text.flat(ours)
    for label, method in manifest["methods"].items():
        if theirs := method.get("environment"):
            packages = {name: version for name, version in theirs["packages"].items() if name in ours["packages"]}
            rows += text.flat({"python": theirs["python"], "packages": packages}, f"method {label}: own environment")
    return rows


def _settings(manifest: Mapping[str, JSON]) -> list[tuple[str, str]]:
    """What was asked for, as name and value."""
    cells = manifest["cells"]

    def every(name: str) -> str:
        return ", ".join(dict.fromkeys(str(cell[name]) for cell in cells))

    return [
        ("preset", str(manifest["preset"])),
        ("plan (sha256)", str(manifest["plan"])),
        ("longreach", str(manifest["longreach"])),
        *((name, every(name)) for name in ("seed", "dtype", "attention")),
        *((f"report.{name}", str(value)) for name, value in manifest["report"].items()),
    ]
