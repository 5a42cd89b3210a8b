"""Interpolation by parts: low frequencies divided by the ratio, high ones kept, a ramp between."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from methods.base import AbstractRopeMethod, RopeScaling, RopeSpec
from methods.rope import (
    AttentionPolicy,
    attention_factor,
    check_attention,
    check_betas,
    partly_interpolated,
    ramp,
    ramp_range,
    rotations,
    yarn_mscale,
)


@dataclass(frozen=True, kw_only=True)
class NTKByParts(AbstractRopeMethod):
    """NTK-by-parts: a ramp over the rotations that a pair makes within the window, no attention factor.

    beta_fast, beta_slow: pairs with more rotations are kept, those with fewer interpolated (the paper's beta, alpha).
    Source: arXiv:2309.00071 section 3.2.
    """

    source: ClassVar[str] = "arXiv:2309.00071"

    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_betas(self.beta_fast, self.beta_slow)

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        interpolated_P = 1 - ramp(rotations(rope), self.beta_slow, self.beta_fast)
        return rope.rescaled(partly_interpolated(self.extension_ratio(rope, seq_len), interpolated_P))


@dataclass(frozen=True, kw_only=True)
class YaRN(AbstractRopeMethod):
    """YaRN as its authors and transformers run it: a ramp over the pair index, and an attention factor.

    beta_fast, beta_slow: rotations within the window at the ramp's ends.
    truncate: the ramp's ends are rounded outwards to whole pairs (gpt-oss: false).
    attention: `yarn` is 0.1 ln ratio + 1.
    mscale, mscale_all_dim: DeepSeek's pair, both or neither: the attention factor is
        (0.1 mscale ln ratio + 1) / (0.1 mscale_all_dim ln ratio + 1). DeepSeek's models scale their softmax besides.
    Source: arXiv:2309.00071 section 3.4; transformers 5.23 modeling_rope_utils.py, `_compute_yarn_parameters`.
    """

    source: ClassVar[str] = "arXiv:2309.00071"

    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention: AttentionPolicy = "yarn"
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_betas(self.beta_fast, self.beta_slow)
        check_attention(self.attention)
        for name, value in (("mscale", self.mscale), ("mscale_all_dim", self.mscale_all_dim)):
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name} = {value:g}: it should be positive")
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise ValueError("mscale and mscale_all_dim: give both or neither")
        if self.mscale is not None and self.attention != "yarn":
            raise ValueError(f"attention = {self.attention!r} and mscale are both given: keep one")

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        ratio = self.extension_ratio(rope, seq_len)
        low, high = ramp_range(rope, beta_fast=self.beta_fast, beta_slow=self.beta_slow, truncate=self.truncate)
        interpolated_P = ramp(np.arange(len(rope.inv_freq_P), dtype=np.float64), low, high)
        return rope.rescaled(partly_interpolated(ratio, interpolated_P), self._attention_factor(rope, ratio))

    def _attention_factor(self, rope: RopeSpec, ratio: float) -> float:
        if self.mscale is not None and self.mscale_all_dim is not None:
            return yarn_mscale(ratio, self.mscale) / yarn_mscale(ratio, self.mscale_all_dim)
        return attention_factor(self.attention, ratio=ratio, window=rope.original_max_position_embeddings)
