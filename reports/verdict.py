"""The report's first lines: what was run, how complete it is, who reaches how far, what short context lost."""

from collections import Counter
from collections.abc import Sequence

from reports.cells import whole_groups
from reports.tables import Analysis, Series
from reports.text import effective, percent, span


def verdict(model: str, analysis: Analysis) -> list[dict[str, str]]:
    """`term`, `text` and `tone` (good, bad, open or plain) for one model."""
    return [*_reach(model, analysis), *_kept(model, analysis)]


def _reach(model: str, analysis: Analysis) -> list[dict[str, str]]:
    manifest = analysis.manifest
    window = manifest["models"][model]["original_max_position_embeddings"]
    base = manifest["report"]["base"]
    lines = []
    for suite in whole_groups(manifest):
        ours = {s.method: s for s in analysis.series if s.model == model and s.group == suite}
        if ours:
            lines.append({"term": f"Reach in {suite}", **_furthest(ours, base, window)})
    return lines


def _furthest(series: dict[str, Series], base: str, window: int) -> dict[str, str]:
    lengths = {method: s.effective_length or 0 for method, s in series.items()}
    furthest = max(lengths.values())
    own = f"{base}: {effective(series[base].effective_length, series[base])}" if base in series else f"no {base}"
    if not furthest:
        points = {method: s.point_rule or 0 for method, s in series.items()}
        best = max(points, key=lambda method: points[method])
        hint = f"; by the score alone {best} to {points[best]}" if points[best] else ""
        return {"text": f"no method reaches a tested length for certain{hint}", "tone": "open"}
    names = [method for method, length in lengths.items() if length == furthest]
    shown = effective(furthest, series[names[0]])
    times = f", {furthest / window:.3g} times the window" if furthest > window else ", inside the window"
    tone = "good" if furthest > max(window, lengths.get(base, 0)) else "plain"
    return {
        "text": f"{_list(names)} to {shown}{times}; {own}"
        if base not in names
        else f"{_list(names)} to {shown}{times}",
        "tone": tone,
    }


def _kept(model: str, analysis: Analysis) -> list[dict[str, str]]:
    rows = [row for row in analysis.retention if row["model"] == model and row["group"] == "all"]
    if not rows:
        return []
    counts = Counter(row["verdict"] for row in rows)
    parts = [f"{counts[name]} {name}" for name in ("retained", "undecided", "lost") if counts[name]]
    known = [row for row in rows if row["retention"] is not None]
    text = f"{', '.join(parts)} of {len(rows)} {'method' if len(rows) == 1 else 'methods'}"
    if known:
        worst = min(known, key=lambda row: row["retention"])
        interval = span(worst["low"], worst["high"])
        text += f"; least: {worst['method']}, {percent(worst['retention'])} %" + (f" ({interval})" if interval else "")
    tone = "bad" if counts["lost"] else "open" if counts["undecided"] else "good"
    return [{"term": "Short context", "text": text, "tone": tone}]


def _list(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
