"""The scaling that Llama 3.1 was trained with."""

from dataclasses import dataclass
from typing import ClassVar

from methods.base import AbstractRopeMethod, RopeScaling, RopeSpec
from methods.rope import partly_interpolated, ramp, rotations


@dataclass(frozen=True, kw_only=True)
class Llama3(AbstractRopeMethod):
    """Llama 3.1's scaling: interpolation by parts between two numbers of rotations, no attention factor.

    low_freq_factor, high_freq_factor: pairs with fewer rotations within the window than the first are interpolated,
        those with more than the second kept.
    Source: transformers 5.23 modeling_rope_utils.py, `_compute_llama3_parameters`.
    """

    source: ClassVar[str] = "arXiv:2407.21783"

    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.low_freq_factor < self.high_freq_factor < float("inf"):
            raise ValueError(
                f"low_freq_factor = {self.low_freq_factor:g}, high_freq_factor = {self.high_freq_factor:g}: "
                "it should be 0 < low_freq_factor < high_freq_factor"
            )

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        interpolated_P = 1 - ramp(rotations(rope), self.low_freq_factor, self.high_freq_factor)
        return rope.rescaled(partly_interpolated(self.extension_ratio(rope, seq_len), interpolated_P))
