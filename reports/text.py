"""Numbers as the report prints them. What is unknown prints as a dash; its reason stands beside it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from harness.types import JSON
from reports.tables import Series

DASH = "\u2013"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent, without the sign."""
    return DASH if value is None else f"{100 * value:.{digits}f}"


def span(low: float | None, high: float | None, digits: int = 1) -> str:
    """An interval of fractions in percent."""
    if low is None and high is None:
        return ""
    ends = (percent(low, digits), "∞" if high is None else percent(high, digits))
    return f"{ends[0]} to {ends[1]}"


def score(value: float | None, likelihood: bool) -> str:
    """A score in percent, or a likelihood as perplexity."""
    if value is None or not likelihood:
        return percent(value)
    return f"{1 / value:.4g}" if value else "∞"


def markdown_table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Rows under a head as Markdown, without a line break at the end."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [head, ["---"] * len(head), *rows])


def length(n: int) -> str:
    """A length in as few characters as fit an axis: 8k for 8192."""
    for unit, size in (("M", 1 << 20), ("k", 1 << 10)):
        if n >= size and n % size == 0:
            return f"{n // size}{unit}"
    return str(n)


def breakable(name: str) -> Markup:
    """A name that may be broken after its underscores and slashes."""
    return Markup(re.sub(r"([_/])", r"\1<wbr>", str(escape(name))))


def effective(value: int | None, series: Series) -> str:
    """An effective length: `<` the shortest tested length where none passes, `≥` where the longest still does."""
    if value is None:
        known = series.points and series.threshold.value is not None
        return f"<{series.points[0].seq_len}" if known else DASH
    return f"≥{value}" if value == series.points[-1].seq_len else str(value)


def retained(row: Mapping[str, Any]) -> str:
    """A retention with its interval, in percent."""
    interval = span(row["low"], row["high"])
    return percent(row["retention"]) + (f" ({interval})" if interval else "")


def points(value: float | None) -> str:
    """A difference of fractions in points, with its sign."""
    return DASH if value is None else f"{100 * value:+.1f}"


def printed(value: float | None) -> str:
    """A number as papers print it."""
    return DASH if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """The same with its sign."""
    return DASH if value is None else f"{value:+.2f}"


def p_value(value: float | None) -> str:
    """A p-value to two digits."""
    return DASH if value is None else "<0.0001" if value < 1e-4 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def memory(size_bytes: int | None) -> str:
    """Bytes in GiB."""
    return DASH if size_bytes is None else f"{size_bytes / 2**30:.2f} GiB"


def flat(value: JSON, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted names and values, sorted."""
    return sorted(_leaves(value, prefix))


def _leaves(value: JSON, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, DASH if value is None else str(value)
