"""Position interpolation: every frequency divided by the extension ratio."""

from dataclasses import dataclass
from typing import ClassVar

from methods.base import AbstractRopeMethod, RopeScaling, RopeSpec


@dataclass(frozen=True, kw_only=True)
class PositionInterpolation(AbstractRopeMethod):
    """Linear position interpolation; transformers' `linear`. Source: arXiv:2306.15595 eq. 4."""

    source: ClassVar[str] = "arXiv:2306.15595"

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        return rope.rescaled(self.extension_ratio(rope, seq_len))
