"""How much of a run is done, and how long the rest takes at that pace."""

from collections.abc import Sequence

from harness.plan import PlannedCell
from harness.types import Record


class Pace:
    """Counts the samples of `todo`. The estimate goes by tokens, since long samples cost more.

    n_done: samples that have a record, `n_before` of them before this run. n_failed: of this run.
    """

    def __init__(self, todo: Sequence[PlannedCell]) -> None:
        self.n_samples = sum(planned.cell.n_samples for planned in todo)
        self.n_done = self.n_before = self.n_failed = 0
        self._tokens_left = sum(planned.cell.n_samples * planned.cell.seq_len for planned in todo)
        self._tokens_done = 0

    def started(self, planned: PlannedCell, done: int) -> None:
        """A cell begins, or goes on after `done` samples."""
        self.n_done += done
        self.n_before += done
        self._tokens_left -= done * planned.cell.seq_len

    def advanced(self, planned: PlannedCell, record: Record) -> None:
        """A sample has its record."""
        self.n_done += 1
        self.n_failed += record.status != "ok"
        self._tokens_done += planned.cell.seq_len
        self._tokens_left -= planned.cell.seq_len

    def left_s(self, seconds: float) -> float | None:
        """What the rest takes, when what is done took `seconds`; None before the first sample."""
        return seconds * self._tokens_left / self._tokens_done if self._tokens_done else None
