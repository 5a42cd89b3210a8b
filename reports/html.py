"""Tables and figures to one self-contained HTML file.

`write_report(run, path)`: `reports.tables.analyse` computes, `reports.figures` draws, this module turns numbers into
text, and `templates/report.html.j2` holds the markup. Equal records give equal bytes; nothing is fetched.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from harness.types import JSON, RunData
from reports import figures, tables
from reports.definitions import definitions
from reports.depths import DepthGrid, depth_grids
from reports.text import breakable, duration, effective, flat, memory, percent, retained, score, span
from reports.views import completeness, headline, needed_samples, trouble

# Control characters, bidirectional overrides, lone surrogates: nothing a model wrote may reorder or break the page.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def write_report(run: RunData, path: Path) -> None:
    """The report of a run as one HTML file."""
    path.write_bytes(render(run).encode())


def render(run: RunData) -> str:
    """The report of a run as text."""
    analysis = tables.analyse(run)
    manifest = analysis.manifest
    page = _template().render(
        manifest=manifest,
        definitions=definitions(manifest["report"]),
        complete=completeness(analysis),
        models=[_model(model, analysis) for model in manifest["models"]],
        trouble=trouble(analysis),
        settings=_settings(manifest),
        environment=flat(manifest["environment"]),
    )
    return _UNSAFE.sub("\ufffd", page)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "span": span,
        "score": score,
        "effective": effective,
        "retained": retained,
        "duration": duration,
        "memory": memory,
        "zip": zip,
        "breakable": breakable,
        "json": lambda value: json.dumps(value, ensure_ascii=False, sort_keys=True),
    }
    return environment.get_template("report.html.j2")


def _model(model: str, analysis: tables.Analysis) -> dict[str, Any]:
    """What the report says of one model."""
    facts = analysis.manifest["models"][model]
    series = [s for s in analysis.series if s.model == model]
    slug = f"m{list(analysis.manifest['models']).index(model)}"
    styles = figures.looks(list(analysis.manifest["methods"]), analysis.manifest["report"]["base"])
    window = facts["original_max_position_embeddings"]
    groups = []
    for i, name in enumerate(dict.fromkeys(s.group for s in series)):
        ours = [s for s in series if s.group == name]
        figure = figures.by_length(ours, styles, window=window, name=f"{slug}-group{i}")
        groups.append(
            {
                "name": name,
                "series": ours,
                "likelihood": ours[0].kind == "likelihood",
                "lengths": sorted({point.seq_len for s in ours for point in s.points}),
                "threshold": ours[0].threshold,
                "needed": needed_samples(ours, analysis.cells, analysis.manifest["report"]["confidence"]),
                "figure": figure,
            }
        )
    return {
        "name": model,
        "slug": slug,
        "facts": facts,
        "headline": headline(model, analysis),
        "groups": groups,
        "retention": [row for row in analysis.retention if row["model"] == model],
        "heatmaps": _heatmaps(model, slug, analysis),
        "factors": _factors(model, slug, analysis.manifest, styles),
    }


def _heatmaps(model: str, slug: str, analysis: tables.Analysis) -> dict[str, Any]:
    grids = depth_grids(analysis.cells, confidence=analysis.manifest["report"]["confidence"])
    ours = [grid for grid in grids if grid.model == model]
    tasks: dict[str, list[tuple[DepthGrid, str]]] = {}
    for i, grid in enumerate(ours):
        tasks.setdefault(grid.group, []).append((grid, figures.heatmap(grid, name=f"{slug}-depths{i}")))
    return {"tasks": tasks, "scale": figures.colour_scale(name=f"{slug}-scale") if tasks else ""}


def _factors(
    model: str, slug: str, manifest: Mapping[str, JSON], styles: Mapping[str, figures.Look]
) -> list[dict[str, Any]]:
    facts = manifest["models"][model]
    ours = [row for row in manifest["factors"] if row["model"] == model]
    found = []
    for seq_len in sorted({row["seq_len"] for row in ours}):
        rows = [row for row in ours if row["seq_len"] == seq_len]
        ratio = max(1.0, seq_len / facts["original_max_position_embeddings"])
        figure = figures.rescale_factors(
            rows,
            styles,
            theoretical_critical_pair=facts["theoretical_critical_pair"],
            extension_ratio=ratio,
            name=f"{slug}-factors{seq_len}",
        )
        found.append({"seq_len": seq_len, "rows": rows, "ratio": ratio, "figure": figure})
    return found


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
