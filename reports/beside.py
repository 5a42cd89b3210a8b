"""Our numbers beside a paper's: the difference, and why the two may or may not be compared."""

from collections.abc import Iterator, Mapping
from typing import Any

from harness.types import JSON
from reports import published
from reports.published import Published, PublishedTable
from reports.tables import Analysis, Point, Series

_RULER_TASKS = 13


def beside(analysis: Analysis, name: str) -> dict[str, Any]:
    """For each table of a paper that this run has a number for: rows of theirs, ours and the difference, in percent.

    Perplexities stand as they are. `why` says what stands between the two.
    """
    paper = published.load(name)
    tables = []
    for table in paper.tables.values():
        rows = [row for model in analysis.manifest["models"] for row in _rows(model, table, paper, analysis)]
        if rows:
            tables.append({"table": table, "rows": rows, "why": reasons(analysis.manifest, table)})
    return {"name": name, "paper": paper, "tables": tables, "nothing": "" if tables else _nothing(paper)}


def reasons(manifest: Mapping[str, JSON], table: PublishedTable) -> list[str]:
    """What differs between this run and a published table, one sentence each."""
    found, models = [], list(manifest["models"])
    if table.model and table.model not in models:
        found.append(f"Model: theirs is {table.model}, this run's {', '.join(models)}: levels cannot be compared.")
    elif table.model:
        found.append(f"Model: {table.model} on both sides by name; what was trained further is in the notes.")
    suites = _suites(manifest, table)
    names = sorted({manifest["suites"][suite]["name"] for suite in suites})
    if names and table.suite not in names:
        found.append(f"Variant: theirs is {table.suite}, this run's {', '.join(names)}.")
    counts = sorted({cell["n_samples"] for cell in manifest["cells"] if cell["suite"] in suites})
    if table.n_samples and counts and counts != [table.n_samples]:
        shown = " and ".join(map(str, counts))
        found.append(f"Samples: theirs about {table.n_samples} a task and length, this run's {shown}.")
    n_tasks = [len(manifest["metrics"][suite]) for suite in suites]
    if table.suite.startswith("ruler") and table.by_length and any(n != _RULER_TASKS for n in n_tasks):
        found.append(f"Tasks: theirs is the mean of {_RULER_TASKS}, this run's of {n_tasks[0]}.")
    return found


def _rows(model: str, table: PublishedTable, paper: Published, analysis: Analysis) -> Iterator[dict[str, Any]]:
    for row in table.rows:
        method = str(paper.methods.get(table.method or row, ""))
        label = next((found for found, m in analysis.manifest["methods"].items() if m["name"] == method), "")
        for column in table.columns:
            seq_len = int(row) if table.method else column if isinstance(column, int) else None
            found = _ours(analysis, model, label, table, seq_len, "" if isinstance(column, int) else column)
            if found:
                yield {"model": model, "row": row, "method": label, "column": column} | _numbers(
                    *found, table.number(row, column)
                )


def _numbers(series: Series, point: Point, theirs: float | None) -> dict[str, Any]:
    e, likelihood = point.estimate, series.kind == "likelihood"
    ours = None if e.value is None else 1 / e.value if likelihood and e.value else 100 * e.value
    difference = None if ours is None or theirs is None else ours - theirs
    ends = {"low": e.low, "high": e.high, "likelihood": likelihood, "n_ok": point.n_ok}
    return {"theirs": theirs, "ours": ours, "difference": difference} | ends


def _ours(
    analysis: Analysis, model: str, label: str, table: PublishedTable, seq_len: int | None, task: str
) -> tuple[Series, Point] | None:
    """The run's number for a place of a published table: at its length, or at the longest where it names none."""
    for suite in _suites(analysis.manifest, table):
        tasks = set(analysis.manifest["metrics"][suite])
        if task in table.averages and tasks != set(table.averages[task]):
            continue
        whole = not task or task in table.averages or tasks == {task}
        group = suite if whole else f"{suite}/{task}"
        for s in analysis.series:
            if (s.model, s.method, s.group) == (model, label, group):
                points = [p for p in s.points if seq_len is None or p.seq_len == seq_len]
                if points and (table.kind == "perplexity") == (s.kind == "likelihood"):
                    return s, points[-1]
    return None


def _suites(manifest: Mapping[str, JSON], table: PublishedTable) -> list[str]:
    """The run's suites of a table's family: `ruler-fixed` stands beside `ruler-nvidia`, and the difference is said."""
    family = table.suite.partition("-")[0]
    return [
        label for label, suite in manifest["suites"].items() if family and suite["name"].partition("-")[0] == family
    ]


def _nothing(paper: Published) -> str:
    suites = sorted({table.suite for table in paper.tables.values() if table.suite})
    return f"This run has no number that stands in a table of this paper: those are of {', '.join(suites)}."
