"""What a person sees while a run goes on: a live bar in a terminal, a line a cell anywhere else."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from harness.pace import Pace
from harness.plan import PlannedCell
from harness.types import Record


def time_left(seconds: float) -> str:
    """Seconds in words, such as `1 min 15 s left`."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min left"
    return f"{whole // 60} min {whole % 60} s left" if whole >= 60 else f"{whole} s left"


class AbstractBar:
    """A bar in a terminal; anywhere else nothing but what `_line` prints."""

    def __init__(self, console: Console, *columns: ProgressColumn, total: float, **fields: Any) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            *columns,
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=total, left="", **fields)

    @contextmanager
    def shown(self) -> Iterator[Self]:
        """The live display, until the block ends."""
        with self._bar:
            yield self

    def says(self, what: str) -> None:
        """What is done beside the work that is counted."""
        self._bar.update(self._task, description=what)
        self._line(what)

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, soft_wrap=True)


class RunProgress(AbstractBar):
    """Follows a run over `todo`."""

    def __init__(self, todo: Sequence[PlannedCell], console: Console) -> None:
        self._pace = Pace(todo)
        super().__init__(console, BarColumn(bar_width=24), MofNCompleteColumn(), total=self._pace.n_samples)
        self._cells_left = len(todo)
        self._began: float | None = None

    def started(self, planned: PlannedCell, done: int) -> None:
        """A cell begins, or goes on after `done` samples."""
        self._began = self._began or time.monotonic()
        self._bar.update(self._task, description=planned.path, advance=done)
        self._pace.started(planned, done)
        again = f", {done} of {planned.cell.n_samples} samples already there" if done else ""
        self._line(f"{self._cells_left} cells left, {self._estimate()}: {planned.path}{again}")
        self._cells_left -= 1

    def advanced(self, planned: PlannedCell, record: Record) -> None:
        """A sample has its record."""
        self._pace.advanced(planned, record)
        self._bar.update(self._task, advance=1, left=self._estimate())

    def _estimate(self) -> str:
        failed = f", {self._pace.n_failed} failed" if self._pace.n_failed else ""
        left_s = None if self._began is None else self._pace.left_s(time.monotonic() - self._began)
        return ("no estimate yet" if left_s is None else f"about {time_left(left_s)}") + failed
