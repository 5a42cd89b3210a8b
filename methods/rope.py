"""The mathematics of RoPE scaling, in float64: frequencies, wavelengths, critical pairs, ramps, attention factors.

Pairs are counted from 0, the highest frequency. Shape letters: P rotary pairs.
"""

import math
from typing import Literal

import numpy as np

from methods.base import FloatArray, RopeSpec

AttentionPolicy = Literal["none", "su", "yarn"] | float


def default_inv_freq(rope_theta: float, rotary_dim: int) -> FloatArray:
    """The frequencies of plain RoPE, radians a token: rope_theta^(-2i/d). Source: arXiv:2104.09864 section 3.2.2."""
    return rope_theta ** -(np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)


def wavelengths(inv_freq_P: FloatArray) -> FloatArray:
    """Tokens in one full turn of each pair; infinite where a frequency is 0. Source: arXiv:2502.20082 eq. 6."""
    with np.errstate(divide="ignore"):
        return 2 * np.pi / inv_freq_P


def rotations(rope: RopeSpec) -> FloatArray:
    """Full turns of each pair within the trained window."""
    return rope.original_max_position_embeddings * rope.inv_freq_P / (2 * np.pi)


def pair_at_rotations(rope: RopeSpec, n_rotations: float = 1.0) -> float:
    """The pair, as a real number, that turns `n_rotations` times within the trained window.

    Negative where even pair 0 turns less often, above P - 1 where the last pair turns more often.
    Source: arXiv:2309.00071 section 3.2 (r(d) solved for d); arXiv:2502.20082 eq. 7 is n_rotations = 1.
    """
    turns = rope.original_max_position_embeddings / (2 * math.pi * n_rotations)
    return rope.rotary_dim / 2 * math.log(turns) / math.log(rope.rope_theta)


def theoretical_critical_pair(rope: RopeSpec) -> int:
    """The first pair that sees no full turn in training. Source: arXiv:2502.20082 eq. 7, halved (theirs is in dims)."""
    return math.ceil(pair_at_rotations(rope))


def lowest_critical_pair(rope: RopeSpec) -> int:
    """The lowest candidate for the real critical pair, which turns ten times. Source: arXiv:2502.20082 algorithm 1."""
    return math.ceil(pair_at_rotations(rope, 10))


def ntk_tie(ratio: float, critical_pair: float, n_pairs: int, *, start_pair: int = 0) -> FloatArray:
    """Factors of a changed rope_theta, ratio^((i - start) / (critical - start)): 1 up to the start pair.

    They reach `ratio` at the critical pair and go on rising above it. ratio^(i / critical) is rope_theta changed to
    rope_theta * ratio^(P / critical). Source: arXiv:2502.20082 algorithm 1; the start pair is ours.
    """
    steps_P = np.maximum(np.arange(n_pairs, dtype=np.float64) - start_pair, 0)
    return ratio ** (steps_P / (critical_pair - start_pair))


def ramp_range(rope: RopeSpec, *, beta_fast: float, beta_slow: float, truncate: bool) -> tuple[float, float]:
    """The pairs between which a ramp over the pair index runs: those of beta_fast and beta_slow rotations.

    truncate: round outwards to whole pairs.
    Source: transformers 5.23 modeling_rope_utils.py, `find_correction_range`.
    Differs: the ends never cross, as they do there where no pair, or every pair, turns often enough.
    """
    low, high = pair_at_rotations(rope, beta_fast), pair_at_rotations(rope, beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low = max(low, 0)
    return low, max(min(high, rope.rotary_dim - 1), low)


def ramp(values_P: FloatArray, low: float, high: float) -> FloatArray:
    """0 up to `low`, 1 from `high` on, straight between; a step just above `low` where both are equal."""
    return np.clip((values_P - low) / (high - low if high > low else 0.001), 0, 1)


def partly_interpolated(ratio: float, share_P: FloatArray) -> FloatArray:
    """Factors that mix frequencies: `share_P` of the frequency over `ratio`, the rest unchanged.

    1 / (1 - share * (1 - 1 / ratio)); a ratio of 1 gives exactly 1. Source: arXiv:2309.00071 section 3.2.
    """
    return 1 / (1 - share_P * (1 - 1 / ratio))


def attention_factor(policy: AttentionPolicy, *, ratio: float, window: int) -> float:
    """What cos and sin are multiplied by for an extension ratio; 1 where the ratio is 1.

    `su`: sqrt(1 + ln ratio / ln window) (microsoft/LongRoPE@c9e56aa rope/longrope.py); `yarn`: 0.1 ln ratio + 1
    (arXiv:2309.00071 section 3.4); `none`: 1; or the number itself.
    """
    if ratio <= 1 or policy == "none":
        return 1.0
    if policy == "su":
        return math.sqrt(1 + math.log(ratio) / math.log(window))
    return yarn_mscale(ratio) if policy == "yarn" else float(policy)


def yarn_mscale(ratio: float, mscale: float = 1.0) -> float:
    """0.1 mscale ln ratio + 1, and 1 where the ratio is 1. Source: transformers 5.23 modeling_rope_utils.py."""
    return 0.1 * mscale * math.log(ratio) + 1 if ratio > 1 else 1.0


def check_attention(policy: AttentionPolicy | None) -> None:
    """Raises ValueError for a number that no attention factor can be."""
    if isinstance(policy, int | float) and not 0 < policy < math.inf:
        raise ValueError(f"attention = {policy:g}: a number should be positive")


def check_betas(beta_fast: float, beta_slow: float) -> None:
    """Raises ValueError unless 0 < beta_slow < beta_fast < infinity, both in rotations within the window."""
    if not 0 < beta_slow < beta_fast < math.inf:
        raise ValueError(
            f"beta_fast = {beta_fast:g}, beta_slow = {beta_slow:g}: it should be 0 < beta_slow < beta_fast"
        )
