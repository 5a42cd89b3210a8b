"""Where in the context the needle was: scores by depth and length, for the heatmaps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness import stats
from harness.types import Record
from reports.cells import CellResult

_MOST_DEPTHS = 12  # more distinct depths than this are put into tenths


@dataclass(frozen=True, kw_only=True)
class DepthCell:
    """The samples of one depth at one length; the score is None where none was answered."""

    score: float | None
    interval: stats.Interval | None
    n_ok: int
    n_recorded: int


@dataclass(frozen=True, kw_only=True)
class DepthGrid:
    """A method's scores on one task: `cells` has a row a depth and a column a length."""

    model: str
    method: str
    group: str
    depths: tuple[str, ...]  # in percent of the context, as shown
    lengths: tuple[int, ...]
    cells: tuple[tuple[DepthCell, ...], ...]


def depth_grids(cells: Sequence[CellResult], *, confidence: float) -> list[DepthGrid]:
    """A grid for each model, task and method whose records say at which depth the needle was."""
    tasks: dict[tuple[str, str, str], dict[str, list[CellResult]]] = {}
    for cell in cells:
        if cell.metric["kind"] != "likelihood" and any(_depth(r) is not None for r in cell.records):
            place = cell.entry["model"], cell.entry["suite"], cell.entry["task"]
            tasks.setdefault(place, {}).setdefault(cell.entry["method"], []).append(cell)
    grids = []
    for (model, suite, task), methods in tasks.items():
        every = [cell for ours in methods.values() for cell in ours]
        labels = _labels({d for cell in every for r in cell.records if (d := _depth(r)) is not None})
        lengths = tuple(sorted({cell.seq_len for cell in every}))
        for method, ours in methods.items():
            found = {cell.seq_len: cell for cell in ours}
            rows = [[_cell(found.get(n), labels, label, confidence) for n in lengths] for label in _ordered(labels)]
            grids.append(
                DepthGrid(
                    model=model,
                    method=method,
                    group=f"{suite}/{task}",
                    depths=tuple(_ordered(labels)),
                    lengths=lengths,
                    cells=tuple(map(tuple, rows)),
                )
            )
    return grids


def _depth(record: Record) -> float | None:
    depth = record.metadata.get("depth_fraction")
    return round(float(depth), 4) if isinstance(depth, int | float) else None


def _labels(depths: set[float]) -> dict[float, str]:
    """Each depth's row."""
    if len(depths) <= _MOST_DEPTHS:
        return {depth: f"{100 * depth:.3g}" for depth in sorted(depths)}
    return {depth: f"{(tenth := min(9, int(10 * depth))) * 10}-{tenth * 10 + 10}" for depth in sorted(depths)}


def _ordered(labels: Mapping[float, str]) -> list[str]:
    return list(dict.fromkeys(labels.values()))


def _cell(cell: CellResult | None, labels: Mapping[float, str], label: str, confidence: float) -> DepthCell:
    records = cell.records if cell else ()
    ours = [r for r in records if (d := _depth(r)) is not None and labels[d] == label]
    scores = [r.score for r in ours if r.status == "ok" and r.score is not None]
    if not scores:
        return DepthCell(score=None, interval=None, n_ok=0, n_recorded=len(ours))
    interval = stats.wilson(sum(scores), len(scores), confidence=confidence)
    return DepthCell(score=sum(scores) / len(scores), interval=interval, n_ok=len(scores), n_recorded=len(ours))
