"""The scalings that a checkpoint may ship with, by the `rope_type` of its configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.types import JSON
from methods.base import AbstractRopeMethod, RopeScaling, RopeSpec
from methods.llama3 import Llama3
from methods.longrope.factors_file import LONGROPE
from methods.position_interpolation import PositionInterpolation
from methods.rope import attention_factor
from methods.vanilla import Vanilla
from methods.yarn import YaRN

Facts = Mapping[str, JSON]


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A scaling, as the method that computes it from the configuration's values.

    needs, takes: the values it cannot do without, and those it has defaults for.
    reads_original: its formula reads the window before it was scaled.
    """

    method: Callable[[Facts], AbstractRopeMethod]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    reads_original: bool = False


def _llama3(facts: Facts) -> AbstractRopeMethod:
    return Llama3(
        factor=facts["factor"], low_freq_factor=facts["low_freq_factor"], high_freq_factor=facts["high_freq_factor"]
    )


def _yarn(facts: Facts) -> AbstractRopeMethod:
    stated = facts.get("attention_factor")
    scales = facts.get("mscale"), facts.get("mscale_all_dim")
    both = stated is None and all(scales)  # transformers reads them together or not at all
    return YaRN(
        factor=facts["factor"],
        beta_fast=facts.get("beta_fast") or 32.0,
        beta_slow=facts.get("beta_slow") or 1.0,
        truncate=facts.get("truncate", True),
        attention="yarn" if stated is None else stated,
        mscale=scales[0] if both else None,
        mscale_all_dim=scales[1] if both else None,
    )


@dataclass(frozen=True, kw_only=True)
class _OneList(AbstractRopeMethod):
    """`longrope` with the same factors inside the window and beyond it: one RoPE at every length."""

    uses_target = False

    factors: tuple[float, ...]
    attention_factor: float

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        if len(self.factors) != len(rope.inv_freq_P):
            raise ValueError(f"it has {len(self.factors)} factors: it should be {len(rope.inv_freq_P)}, one a pair")
        return rope.rescaled(np.array(self.factors), self.attention_factor)


def changes_with_length(facts: Facts) -> bool:
    """Whether a scaling gives requests of different lengths different frequencies."""
    if facts["rope_type"] in LONGROPE:
        return bool(facts.get("long_factor") != facts.get("short_factor"))
    return bool(facts["rope_type"] == "dynamic")


def _longrope(facts: Facts) -> AbstractRopeMethod:
    """Source: transformers 5.23 modeling_rope_utils.py, `_compute_longrope_parameters`."""
    if not facts.get("long_factor"):
        raise ValueError("its factors can only stand in the model's own configuration")
    window, stated = facts.get("original_max_position_embeddings"), facts.get("attention_factor")
    if not window:
        raise ValueError("the configuration does not say original_max_position_embeddings")
    ratio = facts.get("factor") or facts["max_position_embeddings"] / window
    su = attention_factor("su", ratio=ratio, window=window)
    return _OneList(factors=tuple(facts["long_factor"]), attention_factor=su if stated is None else stated)


SHIPPED: dict[str, Shipped] = {
    "default": Shipped(method=lambda facts: Vanilla()),
    "linear": Shipped(method=lambda facts: PositionInterpolation(factor=facts["factor"]), needs=("factor",)),
    "llama3": Shipped(method=_llama3, needs=("factor", "low_freq_factor", "high_freq_factor"), reads_original=True),
    "yarn": Shipped(
        method=_yarn,
        needs=("factor",),
        takes=("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
        reads_original=True,
    ),
    **dict.fromkeys(LONGROPE, Shipped(method=_longrope, reads_original=True)),
}
