"""Which methods a page shows in full when there are more than a reader can take in."""

from collections.abc import Sequence

from reports.tables import Analysis, Series

MOST_METHODS = 12


def shown_methods(model: str, analysis: Analysis) -> list[str]:
    """The base and the best others by mean score over suites and lengths, in the plan's order.

    An unanswered sample counts as 0, and so does a length without a score.
    """
    base = analysis.manifest["report"]["base"]
    suites = set(analysis.manifest["suites"])
    series: dict[str, list[Series]] = {}
    for found in analysis.series:
        if found.model == model and found.group in suites:
            series.setdefault(found.method, []).append(found)
    others = [method for method in series if method != base]
    best = sorted(others, key=lambda method: -_mean(series[method]))[: MOST_METHODS - 1]
    return [
        method for method in analysis.manifest["methods"] if method in best or (method == base and method in series)
    ]


def _mean(series: Sequence[Series]) -> float:
    scores = [point.estimate.counted or 0.0 for s in series for point in s.points]
    return round(sum(scores) / len(scores), 9) if scores else 0.0
