"""Numbers that papers print, and what follows from them: averages, retention, effective lengths.

`published/*.toml` holds a file a paper. Scores are in percent and perplexities as printed, never rounded again; a text
such as `>1e4` is a bound the paper prints in place of a number, an empty text a number that is not known.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.catalogue import build
from harness.errors import RequestError, unknown
from harness.stats import effective_length
from harness.types import JSON
from reports.definitions import RULER_THRESHOLD

FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One table of a paper: a row a method, a column a length or a task.

    place: where the paper has it. model, suite: our names for what it was measured on, empty where we have none.
    kind: `score` (percent) or `perplexity`. method: the method of a table whose rows are lengths.
    averages: column -> the columns it is the mean of. means: the table that prints the means of the rows.
    original: the row of the unmodified model. beside: the table that holds the rows to read this one against.
    effective: row -> the effective length the source itself states.
    """

    id: str
    place: str
    caption: str
    columns: tuple[int | str, ...]
    rows: Mapping[str, JSON]
    model: str = ""
    suite: str = ""
    kind: str = "score"
    method: str = ""
    n_samples: int | None = None
    averages: Mapping[str, JSON] = field(default_factory=dict)
    means: str = ""
    original: str = ""
    beside: str = ""
    effective: Mapping[str, JSON] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        for name, values in self.rows.items():
            if len(values) != len(self.columns):
                raise ValueError(f"table '{self.id}', row '{name}': {len(values)} of {len(self.columns)} values")

    @property
    def by_length(self) -> bool:
        """Whether the columns are lengths."""
        return all(isinstance(column, int) for column in self.columns)

    def number(self, row: str, column: int | str) -> float | None:
        """A printed number; None for a bound or an unknown one."""
        value = self.rows[row][self.columns.index(column)] if row in self.rows and column in self.columns else None
        return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True, kw_only=True)
class Published:
    """A paper's tables. methods: the paper's name for a method -> ours. threshold: RULER's, in percent."""

    title: str
    source: str
    table: tuple[Any, ...]
    methods: Mapping[str, JSON] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    threshold: float = 100 * RULER_THRESHOLD

    @property
    def tables(self) -> dict[str, PublishedTable]:
        """By id, in the paper's order."""
        built = [build(PublishedTable, table, where=f"published table '{table.get('id')}'") for table in self.table]
        return {table.id: table for table in built}


def number_beside(tables: Mapping[str, PublishedTable], table: str, row: str, column: int | str) -> float | None:
    """A printed number of a table or, where it has no such row, of the one it stands beside."""
    found = tables[table]
    return (found if row in found.rows else tables[found.beside]).number(row, column)


def names() -> list[str]:
    """The papers whose numbers are here."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(name: str) -> Path:
    """The file of a paper. Raises RequestError for an unknown one."""
    if name not in names():
        raise unknown("published table set", name, names())
    return FOLDER / f"{name}.toml"


def load(name: str) -> Published:
    """A paper's numbers. Raises RequestError."""
    path = find(name)
    try:
        found: Published = build(Published, tomllib.loads(path.read_text(encoding="utf-8")), where=str(path))
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{path}: {error}") from error
    return found


def mean_of(table: PublishedTable, row: str, columns: Sequence[int | str]) -> float | None:
    """The mean of some printed numbers of a row; None where one is no number."""
    values = [table.number(row, column) for column in columns]
    return None if None in values else math.fsum(v for v in values if v is not None) / len(values)


def retention(table: PublishedTable, row: str) -> float | None:
    """Mean score of a row over that of the original model, from the task scores, not from the printed averages."""
    tasks = next(iter(table.averages.values()), ())
    if not table.original or not tasks:
        return None
    ours, original = mean_of(table, row, tasks), mean_of(table, table.original, tasks)
    return ours / original if ours is not None and original else None


def rounded_retention(table: PublishedTable, row: str) -> float | None:
    """The same ratio from the averages as printed: what a reader of the table gets."""
    column = next(iter(table.averages), "")
    ours, original = table.number(row, column), table.number(table.original, column)
    return ours / original if ours is not None and original else None


def slips(paper: Published) -> list[dict[str, Any]]:
    """Printed averages that are not the mean of the printed scores they stand for."""
    found = []
    for table in paper.tables.values():
        for row in table.rows:
            for column, parts in table.averages.items():
                found.append(_slip(table, row, column, table.number(row, column), mean_of(table, row, parts)))
            if table.means:
                other, length = paper.tables[table.means], int(row)
                printed = other.number(table.method, length)
                found.append(_slip(table, row, f"mean in {other.place}", printed, mean_of(table, row, table.columns)))
    return [slip for slip in found if slip["printed"] is not None and abs(slip["difference"]) > slip["allowed"]]


def _slip(table: PublishedTable, row: str, column: str, printed: float | None, mean: float | None) -> dict[str, Any]:
    difference = math.nan if printed is None or mean is None else printed - mean
    decimals = 1 if printed is not None and round(printed, 1) == printed else 2
    place = {"table": table.id, "place": table.place, "row": row, "column": column}
    # Half a unit of the last digit where it is rounded, a whole one where it is cut.
    return place | {"printed": printed, "mean": mean, "difference": difference, "allowed": 1.0001 * 10**-decimals}


def effective_lengths(paper: Published, table: PublishedTable) -> list[dict[str, Any]]:
    """A row a method: the effective length by RULER's rule, and by how much the threshold is passed or missed."""
    found = []
    for row in table.rows:
        scores = {int(length): table.number(row, length) for length in table.columns}
        known = {length: score for length, score in scores.items() if score is not None}
        if len(known) < len(scores):
            continue
        reached = effective_length([(length, score > paper.threshold) for length, score in known.items()])
        longer = [length for length in known if reached is None or length > reached]
        found.append(
            {
                "table": table.id,
                "row": row,
                "effective_length": reached,
                "passes_by": None if reached is None else round(known[reached] - paper.threshold, 6),
                "misses_by": round(paper.threshold - known[min(longer)], 6) if longer else None,
                "stated": table.effective.get(row),
            }
        )
    return found


def summary(name: str) -> dict[str, JSON]:
    """What a paper's own numbers say: retention, effective lengths and slips. Fractions, except printed percents."""
    paper = load(name)
    kept = [
        {
            "table": table.id,
            "row": row,
            "retention": round(value, 6),
            "from_rounded_averages": round(rounded_retention(table, row) or math.nan, 6),
        }
        for table in paper.tables.values()
        for row in table.rows
        if row != table.original and (value := retention(table, row)) is not None
    ]
    ruler = [table for table in paper.tables.values() if table.suite.startswith("ruler") and table.by_length]
    return {
        "title": paper.title,
        "source": paper.source,
        "threshold": paper.threshold,
        "retention": kept,
        "effective_length": [row for table in ruler for row in effective_lengths(paper, table)],
        "slips": [
            {**slip, "mean": round(slip["mean"], 4), "difference": round(slip["difference"], 4)}
            for slip in slips(paper)
        ],
    }
