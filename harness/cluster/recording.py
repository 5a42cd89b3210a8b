"""Records of many cells at once, each on disk before it counts: waiting for the disk is shared among threads."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from harness.plan import PlannedCell
from harness.runner import Progress
from harness.store import CellWriter, Store
from harness.types import JSON, Record

_THREADS = 32  # a disk takes many requests to flush at once in hardly more time than one


@dataclass(kw_only=True)
class _Open:
    """A cell whose records are being written."""

    planned: PlannedCell
    context: AbstractContextManager[CellWriter]
    writer: CellWriter
    done: frozenset[str]
    environment: Mapping[str, JSON] = field(default_factory=dict)
    engine: Mapping[str, JSON] = field(default_factory=dict)
    pending: list[Record] = field(default_factory=list)
    finishing: bool = False

    def write(self) -> None:
        """What is pending, in order, and the finished mark last."""
        for record in self.pending:
            self.writer.append(record)
        if self.finishing:
            self.writer.finish({"environment": self.environment, "engine": self.engine})
            self.context.__exit__(None, None, None)


class Recorder:
    """Writes a store through its own writers, and tells a progress what is on disk."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store, self._progress = store, progress
        self._open: dict[str, _Open] = {}
        self._changed: dict[str, _Open] = {}
        self._threads = ThreadPoolExecutor(_THREADS)

    def opened(self, planned: PlannedCell, key: str) -> frozenset[str]:
        """Open a cell if it is not. Returns the samples that were recorded before this run."""
        cell = self._open.get(key)
        if cell is None:
            done = frozenset(record.example_id for record in self._store.records(key))
            context = self._store.appending(key)
            cell = _Open(planned=planned, context=context, writer=context.__enter__(), done=done)
            self._open[key] = cell
            self._progress.started(planned, len(done))
        return cell.done

    def answered_by(self, key: str, environment: Mapping[str, JSON], engine: Mapping[str, JSON]) -> None:
        """Where, and how, a cell's last record was made."""
        if key in self._open:
            self._open[key].environment, self._open[key].engine = environment, engine

    def add(self, record: Record) -> None:
        """A record, for the next `flush`."""
        cell = self._changed[record.cell_key] = self._open[record.cell_key]
        cell.pending.append(record)

    def finish(self, key: str) -> bool:
        """Mark a cell as finished, at the next `flush`. False where it is closed already."""
        cell = self._open.pop(key, None)
        if cell is not None:
            cell.finishing = True
            self._changed[key] = cell
        return cell is not None

    def flush(self) -> None:
        """Write what was added; it is on disk when this returns."""
        changed, self._changed = list(self._changed.values()), {}
        if len(changed) == 1:
            changed[0].write()
        else:
            list(self._threads.map(_Open.write, changed))
        for cell in changed:
            for record in cell.pending:
                self._progress.advanced(cell.planned, record)
            cell.pending.clear()

    def close(self) -> None:
        """Write what was added, and leave the cells as they are."""
        try:
            self.flush()
        finally:
            for cell in self._open.values():
                cell.context.__exit__(None, None, None)
            self._threads.shutdown()
