"""No extension: the model's own RoPE."""

from dataclasses import dataclass
from typing import ClassVar

from methods.base import AbstractRopeMethod, RopeScaling, RopeSpec


@dataclass(frozen=True, kw_only=True)
class Vanilla(AbstractRopeMethod):
    """The model's own RoPE at every length. Source: arXiv:2104.09864."""

    source: ClassVar[str] = "arXiv:2104.09864"
    original_inside_window: ClassVar[bool] = True
    uses_target: ClassVar[bool] = False

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        return rope.rescaled(1.0)
