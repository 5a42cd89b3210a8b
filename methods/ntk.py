"""NTK-aware scaling: one larger rope_theta, so low frequencies are stretched and high ones kept."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from methods.base import AbstractRopeMethod, RopeScaling, RopeSpec
from methods.rope import ntk_tie, pair_at_rotations


def _tied_at_last_pair(rope: RopeSpec, ratio: float) -> RopeScaling:
    n_pairs = len(rope.inv_freq_P)
    return rope.rescaled(ntk_tie(ratio, max(n_pairs - 1, 1), n_pairs))


@dataclass(frozen=True, kw_only=True)
class NTK(AbstractRopeMethod):
    """NTK-aware scaling.

    tie: where the factors reach the extension ratio. `last_pair`: rope_theta * ratio^(d / (d - 2)), factors
        ratio^(2i / (d - 2)). `critical_dimension`: rope_theta^(log_{L / 2 pi}(L' / 2 pi)), the pair, as a real number,
        that turns once within the window; the factors go on rising above it.
    Source: arXiv:2309.00071 section 3.1; arXiv:2502.20082 section 2.3 (after arXiv:2310.05209).
    """

    source: ClassVar[str] = "arXiv:2309.00071"

    tie: Literal["last_pair", "critical_dimension"] = "last_pair"

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        ratio = self.extension_ratio(rope, seq_len)
        if self.tie == "last_pair":
            return _tied_at_last_pair(rope, ratio)
        return rope.rescaled(ntk_tie(ratio, pair_at_rotations(rope), len(rope.inv_freq_P)))


@dataclass(frozen=True, kw_only=True)
class DynamicNTK(AbstractRopeMethod):
    """NTK-aware scaling by each request's own length: the original RoPE inside the window.

    dynamic_factor: the `factor` of transformers' `dynamic`; the ratio is 1 + dynamic_factor * (n / L - 1).
    Source: transformers 5.23 modeling_rope_utils.py, `_compute_dynamic_ntk_parameters`.
    """

    source: ClassVar[str] = "arXiv:2309.00071"
    original_inside_window: ClassVar[bool] = True
    uses_target: ClassVar[bool] = False

    dynamic_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.dynamic_factor < math.inf:
            raise ValueError(f"dynamic_factor = {self.dynamic_factor:g}: it should be at least 1")

    def extension_ratio(self, rope: RopeSpec, seq_len: int) -> float:
        """The ratio that a request of `seq_len` tokens is extended by; at least 1."""
        return 1 + self.dynamic_factor * (rope.extension_ratio(seq_len) - 1)

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        return _tied_at_last_pair(rope, self.extension_ratio(rope, seq_len))
