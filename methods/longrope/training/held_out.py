"""Segments that no training reads, and a model's loss on them, under each RoPE they can be read under."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.errors import RequestError
from harness.types import Regime
from methods.base import RopeScaling
from methods.longrope.training.bins import PlannedBin
from methods.longrope.training.mix import PlannedMix
from methods.longrope.training.record import HeldOutLoss

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

_LOSS_CHUNK = 2048  # tokens whose logits are held at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """The last `n_segments` of each bin, behind those of the mix."""

    bins: tuple[PlannedBin, ...]
    n_segments: int

    @classmethod
    def of(cls, mix: PlannedMix, n_segments: int) -> "HeldOut":
        """Raises RequestError where a bin has no document left that is not trained on."""
        bins = tuple(replace(bin, n_segments=bin.n_segments + n_segments) for bin in mix.bins) if n_segments else ()
        for bin in bins:
            if bin.count().epochs > 1 or _is_short(bin):
                raise RequestError(
                    f"bin '{bin.bin.name}': held_out_segments = {n_segments}: no documents are left behind the "
                    f"{bin.n_segments - n_segments} segments of the mix: add texts, lower total_tokens, "
                    "or set held_out_segments = 0"
                )
        return cls(bins=bins, n_segments=n_segments)

    def losses(self, model: "LoadedModel", rescaled: RopeScaling) -> tuple[HeldOutLoss, ...]:
        """Each bin's loss: short segments under both RoPEs, the others under the rescaled one."""
        return tuple(self._losses(model, rescaled))

    def _losses(self, model: "LoadedModel", rescaled: RopeScaling) -> Iterator[HeldOutLoss]:
        import torch

        from methods.longrope.training.regimes import Regimes
        from methods.longrope.training.step import SegmentLoss, tensors

        regimes = Regimes(model, rescaled, short_rope="original")
        module = SegmentLoss(model.hf, loss_chunk=_LOSS_CHUNK)
        names: tuple[Regime, ...] = ("original", "rescaled")
        for bin in self.bins:
            segments = [bin.segment(i) for i in range(bin.n_segments - self.n_segments, bin.n_segments)]
            n_weighted = sum(float(segment.loss_weights_L.sum()) for segment in segments)
            for regime in names if bin.bin.kind == "short" else names[1:]:
                with torch.no_grad(), regimes.pinned(regime):
                    summed = sum(float(module(**tensors(segment, model.device))) for segment in segments)
                yield HeldOutLoss(
                    bin=bin.bin.name,
                    regime=regime,
                    n_segments=len(segments),
                    n_tokens=sum(segment.n_tokens for segment in segments),
                    loss=summed / max(n_weighted, 1e-12),
                )


def _is_short(bin: PlannedBin) -> bool:
    try:
        bin.check()
    except RequestError:
        return True
    return False
