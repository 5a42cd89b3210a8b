"""MrRoPE: RoPE as digits of a number whose radix differs from digit to digit."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from methods.base import AbstractRopeMethod, RopeScaling, RopeSpec
from methods.rope import AttentionPolicy, attention_factor, check_attention, check_betas, ramp_range


@dataclass(frozen=True, kw_only=True)
class MrRoPEPro(AbstractRopeMethod):
    """MrRoPE-Pro: between two pairs l and h each step's own factor grows from pair to pair, to the ratio in all.

    Factors ratio^(t (t + 1) / (n (n + 1))), n = h - l, t = i - l from 0 to n.
    beta_fast, beta_slow: rotations within the window at l and h, rounded outwards.
    Source: arXiv:2601.22181 (epsilon_j = 2 (1 + j - l) / ((1 + n) n), multiplied up); l and h as in
    mattian7/mrRoPE@0e84c05 scaled_rope/LlamaYaRNRadix.py: factor 1 up to pair l, the ratio from pair h on.
    """

    source: ClassVar[str] = "arXiv:2601.22181"

    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention: AttentionPolicy = "yarn"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_betas(self.beta_fast, self.beta_slow)
        check_attention(self.attention)

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        ratio = self.extension_ratio(rope, seq_len)
        low, high = ramp_range(rope, beta_fast=self.beta_fast, beta_slow=self.beta_slow, truncate=True)
        n_steps = max(high - low, 1)
        steps_P = np.clip(np.arange(len(rope.inv_freq_P), dtype=np.float64) - low, 0, n_steps)
        factors_P = ratio ** (steps_P * (steps_P + 1) / (n_steps * (n_steps + 1)))
        window = rope.original_max_position_embeddings
        return rope.rescaled(factors_P, attention_factor(self.attention, ratio=ratio, window=window))
