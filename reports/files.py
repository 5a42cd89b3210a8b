"""A report's figures and tables as files: SVG and PDF, CSV, JSON and LaTeX."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.types import RunData
from reports import heatmaps, model_view, tables
from reports.exports import Table, clean
from reports.html import all_tables, report_view
from reports.published_page import published_figures, published_tables
from reports.svg import Drawing


def write_figures(run: RunData, folder: Path) -> list[Path]:
    """Every figure and table of a run's report, and its maps as figures; the same bytes for the same records."""
    view = report_view(tables.analyse(run))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for model in view["models"]:
        written += write_drawings([*model_view.drawings(model), *_maps(model)], folder)
        written += write_tables(model_view.tables(model), folder)
    return written + write_tables(all_tables(view), folder)


def write_published(name: str, folder: Path) -> list[Path]:
    """The figures and tables of a paper's own numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    return [*write_drawings(published_figures(name), folder), *write_tables(published_tables(name), folder)]


def write_drawings(drawings: Iterable[Drawing], folder: Path) -> list[Path]:
    """Each as NAME.svg and NAME.pdf."""
    written = []
    for drawing in drawings:
        svg, pdf = folder / f"{drawing.name}.svg", folder / f"{drawing.name}.pdf"
        svg.write_text(clean(drawing.standalone_svg()), encoding="utf-8")
        pdf.write_bytes(drawing.pdf())
        written += [svg, pdf]
    return written


def write_tables(found: Iterable[Table], folder: Path) -> list[Path]:
    """Each as NAME.csv, NAME.json and NAME.tex."""
    written = []
    for table in found:
        for name, text in table.files().items():
            (folder / name).write_bytes(text.encode())
            written.append(folder / name)
    return written


def _maps(model: Mapping[str, Any]) -> list[Drawing]:
    """The page's coloured tables, which are figures in a paper: depths by length, and tasks by length."""
    found = []
    for task in model["heatmaps"]:
        for i, grid in enumerate(task["grids"]):
            found.append(heatmaps.heatmap(grid, name=f"{task['slug']}-{i}"))
    for suite in model["tasks"]:
        for i, method in enumerate(dict.fromkeys(series.method for series in suite["series"])):
            ours = [series for series in suite["series"] if series.method == method]
            points = [{point.seq_len: point.estimate.value for point in series.points} for series in ours]
            found.append(
                heatmaps.score_map(
                    [[row.get(n) for n in suite["lengths"]] for row in points],
                    rows=[series.group[len(suite["name"]) + 1 :] for series in ours],
                    columns=[str(n) for n in suite["lengths"]],
                    labels=("Length, tokens", "Task"),
                    title=method,
                    name=f"{suite['slug']}-{i}",
                    label=f"Scores of {method} by task of {suite['name']} and length",
                )
            )
    return found
