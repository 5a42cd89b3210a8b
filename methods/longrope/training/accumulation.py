"""A batch's gradient and loss, added up over its segments and over all processes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from methods.longrope.training import processes
from methods.longrope.training.batches import Batches
from methods.longrope.training.mix import PlannedMix
from methods.longrope.training.regimes import Regimes
from methods.longrope.training.segments import TrainingSegment
from methods.longrope.training.sequence_parallel import Team
from methods.longrope.training.step import SegmentLoss, tensors

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """Means over the weighted tokens of a batch: all of them, its short segments', its long ones'."""

    mean: float
    short: float | None
    long: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Accumulation:
    """Reads batches, a segment at a time, each under its regime."""

    accelerator: "Accelerator"
    team: Team
    module: SegmentLoss
    regimes: Regimes
    mix: PlannedMix
    batches: Batches

    def backward(self, index: int) -> BatchLoss:
        """Adds a batch's gradient to that of the module; over processes it is not summed yet, but under FSDP2."""
        device = self.accelerator.device
        segments = self._segments(index)
        # Rows: short, long. Columns: the sum of weighted losses, the sum of weights.
        sums = torch.zeros(2, 2, dtype=torch.float64, device=device)
        for segment, counts in segments:
            if counts and self.team.index == 0:
                sums[_row(segment), 1] += float(segment.loss_weights_L.sum())
        sums[:, 1] = processes.total(self.accelerator, sums[:, 1].contiguous())
        n_weighted = max(float(sums[:, 1].sum()), 1e-12)
        # FSDP2 gives the mean over processes, where the sum is due.
        scale = (self.accelerator.num_processes if processes.is_sharded() else 1) / n_weighted
        for segment, counts in segments:
            given = tensors(segment, device, weight=float(counts), part=self.team.part(segment.n_tokens))
            with self.regimes.pinned(self.regimes.of(segment)):
                loss = self.module(**given)
                (loss * scale).backward()
            sums[_row(segment), 0] += loss.detach()
        sums[:, 0] = processes.total(self.accelerator, sums[:, 0].contiguous())
        (short, n_short), (long, n_long) = sums.tolist()
        return BatchLoss(
            mean=(short + long) / n_weighted,
            short=short / n_short if n_short else None,
            long=long / n_long if n_long else None,
        )

    def _segments(self, index: int) -> list[tuple[TrainingSegment, bool]]:
        """This process's segments, and whether they count: one that has none left reads the batch's first in vain.

        Processes that hold parts of one model have to take equally many turns.
        """
        numbers = self.batches.share(index, self.team.team, self.team.n_teams)
        first = self.batches[index].start
        return [(self.mix[first if number is None else number], number is not None) for number in numbers]


def _row(segment: TrainingSegment) -> int:
    return 0 if segment.regime == "original" else 1
