"""A comparison as text, Markdown, JUnit XML, JSON and HTML. Nothing is computed here."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.types import JSON
from reports.cells import number
from reports.clean import line, markdown, printable
from reports.comparable import NOT_ALLOWED
from reports.compare import RULES, Comparison, Row, Verdict
from reports.pages import page
from reports.text import DASH

VERDICTS: tuple[Verdict, ...] = ("regressed", "inconclusive", "improved", "untouched")
_MOST_ROWS = 40  # of a text or a comment; the rest stands in the JSON and HTML
_MOST_NOTES = 20
_GITHUB_LIMIT = 60_000  # characters; a comment holds 65,536


def render_text(comparison: Comparison) -> str:
    """What a terminal shows: the outcome, what differs, then every row that is not untouched."""
    lines = [f"{comparison.outcome}: {line(headline(comparison))}", *_sides(comparison)]
    lines += [f"  differs: {line(_difference(d))}" for d in comparison.mismatches]
    lines += [f"  note: {line(note)}" for note in _capped(comparison.notes, _MOST_NOTES)]
    rows = _told(comparison)
    if rows:
        lines += ["", f"{'verdict':13}{'change':>10}  {'interval':22}  what"]
    for row in rows[:_MOST_ROWS]:
        lines.append(f"{row.verdict:13}{changed(row):>10}  {interval(row):22}  {line(row.name)}{_sum_mark(row)}")
        lines.append(f"{'':13}{'':10}  {line(explained(row))}")
    if len(rows) > _MOST_ROWS:
        lines.append(f"and {len(rows) - _MOST_ROWS} more")
    return "\n".join(lines) + "\n"


def render_markdown(comparison: Comparison) -> str:
    """A pull request comment."""
    lines = [f"### Longreach: {comparison.outcome}", "", f"{markdown(headline(comparison))}", ""]
    lines += [f"- {markdown(text.strip())}" for text in _sides(comparison)]
    lines += [f"- differs: {markdown(_difference(d))}" for d in comparison.mismatches]
    rows = _told(comparison)
    if rows:
        lines += ["", "| Verdict | Change | Interval | What | |", "|---|---:|---|---|---|"]
    for row in rows[:_MOST_ROWS]:
        cells = [row.verdict, changed(row), interval(row), row.name + _sum_mark(row), explained(row)]
        lines.append("| " + " | ".join(markdown(cell) for cell in cells) + " |")
    if len(rows) > _MOST_ROWS:
        lines += ["", f"and {len(rows) - _MOST_ROWS} more"]
    if comparison.notes:
        lines += ["", "<details><summary>What else differs</summary>", ""]
        lines += [f"- {markdown(note)}" for note in _capped(comparison.notes, _MOST_NOTES)]
        lines += ["", "</details>"]
    kept = "\n".join(lines)
    return (kept if len(kept) <= _GITHUB_LIMIT else kept[:_GITHUB_LIMIT].rpartition("\n")[0]) + "\n"


def render_junit(comparison: Comparison) -> str:
    """JUnit XML, a test case a cell and a sum: regressed fails, what keeps the gate from passing is an error."""
    root = ElementTree.Element("testsuites", name="longreach compare")
    groups: dict[str, list[Row]] = {}
    for row in (*comparison.cells, *comparison.sums):
        groups.setdefault(f"{row.model}/{row.method}/{row.suite}", []).append(row)
    for name, rows in groups.items():
        suite = ElementTree.SubElement(root, "testsuite", name=printable(name))
        cases = [_case(suite, name, row) for row in rows]
        for kind in ("failure", "error", "skipped"):
            suite.set(
                "failures" if kind == "failure" else "errors" if kind == "error" else kind, str(cases.count(kind))
            )
        suite.set("tests", str(len(rows)))
    if comparison.outcome == "not comparable":
        suite = ElementTree.SubElement(root, "testsuite", name="comparable", tests="1", errors="1")
        case = ElementTree.SubElement(suite, "testcase", classname="longreach", name="comparable")
        found = ElementTree.SubElement(case, "error", message=printable(headline(comparison)))
        found.text = printable("\n".join(map(_difference, comparison.mismatches)), 10_000)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, group: str, row: Row) -> str:
    """Adds a test case; which kind of trouble it has, if any."""
    name = f"{row.task}/{row.seq_len}" if row.task is not None else "all cells"
    case = ElementTree.SubElement(suite, "testcase", classname=printable(group), name=printable(name))
    text = f"{changed(row)} ({interval(row)}): {explained(row)}"
    kind = ""
    if row.verdict == "regressed":
        kind = "failure"
    elif row.verdict == "inconclusive":
        kind = "error" if row.blocks else "skipped"
    if kind:
        ElementTree.SubElement(case, kind, message=printable(f"{row.verdict}: {text}"))
    return kind


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "outcome": comparison.outcome,
        "exit_code": comparison.exit_code,
        "margin": comparison.margin,
        "rules": RULES,
        "base": _run(comparison.base),
        "new": _run(comparison.new),
        "counts": dict(comparison.counts),
        "mismatches": [vars(difference) for difference in comparison.mismatches],
        "notes": list(comparison.notes),
        "sums": [_json_row(row) for row in comparison.sums],
        "cells": [_json_row(row) for row in comparison.cells],
        "only_in_new": list(comparison.only_in_new),
    }


def render_html(comparison: Comparison) -> str:
    """One HTML file."""
    return page(
        "compare.html.j2",
        title=f"{comparison.outcome}: {line(comparison.new['title'], 80)}",
        c=comparison,
        headline=headline(comparison),
        rules=RULES,
        runs=[("Base", _run(comparison.base)), ("New", _run(comparison.new))],
        tables=[("sums", "Sums", comparison.sums), ("cells", "Cells", sorted(comparison.cells, key=_weight))],
        counts=[(verdict, comparison.counts.get(verdict, 0)) for verdict in VERDICTS],
        changed=changed,
        interval=interval,
        explained=explained,
        scores=scores,
    )


def headline(comparison: Comparison) -> str:
    """The outcome in a sentence."""
    if comparison.outcome == "not comparable":
        if not comparison.mismatches:
            return "the runs have no answered cell in common"
        kinds = dict.fromkeys(difference.kind for difference in comparison.mismatches)
        differ = "the runs differ in " + ", ".join(kinds)
        if set(kinds) & set(NOT_ALLOWED):
            return differ + "; numbers of two backends are not comparable: run both under one"
        return differ + "; --allow-mismatch KIND compares them all the same"
    counts = ", ".join(f"{comparison.counts[v]} {v}" for v in VERDICTS if comparison.counts[v])
    return f"{counts} of {len(comparison.cells)} cells; margin {100 * comparison.margin:g} %"


def changed(row: Row) -> str:
    """The change: in points, or a likelihood's in percent."""
    return DASH if row.change.value is None else _signed(row.change.value) + (" %" if row.scale == "ratio" else "")


def interval(row: Row) -> str:
    """The ends of the change's interval."""
    if row.change.low is None or row.change.high is None:
        return DASH
    return f"{_signed(row.change.low)} to {_signed(row.change.high)}"


def scores(row: Row) -> tuple[str, str]:
    """Base's and new's score in percent, or perplexity."""
    if row.scale == "ratio":
        return tuple(DASH if not s else f"{1 / s:.4g}" for s in (row.base_score, row.new_score))  # type: ignore[return-value]
    return tuple(DASH if s is None else f"{100 * s:.1f}" for s in (row.base_score, row.new_score))  # type: ignore[return-value]


def explained(row: Row) -> str:
    """Why the verdict is what it is, and what would decide."""
    return "; ".join(_explanations(row))


def _explanations(row: Row) -> Iterator[str]:
    if not row.n_pairs and row.reason:
        yield row.reason
        return
    before, after = scores(row)
    yield f"{'perplexity' if row.scale == 'ratio' else 'score'} {before} to {after}"
    yield f"{row.lost} lost and {row.gained} gained of {row.n_pairs} pairs"
    if row.p_value is not None:
        yield f"p = {row.p_value:.2g}"
    if row.reason:
        yield row.reason
    if any(row.n_failed):
        yield f"{row.n_failed[0]} failed in base, {row.n_failed[1]} in new"
    if row.n_missing:
        yield f"{row.n_missing} missing"
    if row.verdict == "inconclusive" and not row.reason:
        if row.samples_needed:
            yield f"about {row.samples_needed} samples{' a cell' if row.n_cells > 1 else ''} would decide"
        elif not row.n_missing:
            yield "no number of samples decides a change that is just the margin"


def _told(comparison: Comparison) -> list[Row]:
    """Every sum, then what is not untouched, what matters most first."""
    cells = [row for row in comparison.cells if row.verdict != "untouched"]
    sums = [row for row in comparison.sums if row.n_cells > 1 or row.verdict == "untouched"]
    return [*sorted(cells, key=_weight), *sums]


def _weight(row: Row) -> tuple[int, bool, float]:
    return VERDICTS.index(row.verdict), not row.blocks, row.change.value or 0.0


def _sum_mark(row: Row) -> str:
    return f" ({row.n_cells} cells)" if row.task is None else ""


def _signed(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _difference(difference: Any) -> str:
    return f"{difference.what} is {difference.base} in base, {difference.new} in new"


def _sides(comparison: Comparison) -> list[str]:
    named = (("base", comparison.base), ("new", comparison.new))
    lines = [f"  {name}: {line(run['title'])} ({line(run['plan'])[:12]})" for name, run in named]
    if comparison.only_in_new:
        lines.append(f"  not judged: {len(comparison.only_in_new)} cells that only new has")
    return lines


def _capped(texts: Sequence[str], most: int) -> list[str]:
    return list(texts) if len(texts) <= most else [*texts[:most], f"and {len(texts) - most} more"]


def _run(manifest: Mapping[str, JSON]) -> dict[str, JSON]:
    revision = manifest.get("environment", {}).get("git_revision")
    return {name: manifest.get(name) for name in ("title", "preset", "plan", "longreach")} | {"git_revision": revision}


def _json_row(row: Row) -> dict[str, Any]:
    change = row.change
    fields = {name: getattr(row, name) for name in ("model", "method", "suite", "task", "seq_len", "scale", "verdict")}
    fields |= {"base_score": number(row.base_score), "new_score": number(row.new_score)}
    fields |= {"change": number(change.value), "low": number(change.low), "high": number(change.high)}
    fields |= {"p_value": number(row.p_value), "mcnemar_p_value": number(row.mcnemar), "reason": row.reason}
    fields |= {name: getattr(row, name) for name in ("n_cells", "n_pairs", "n_same", "gained", "lost", "n_missing")}
    fields |= {"n_failed_base": row.n_failed[0], "n_failed_new": row.n_failed[1]}
    return fields | {"samples_needed": row.samples_needed, "blocks": row.blocks}
