"""The scalings that a checkpoint may ship with, by the `rope_type` of its configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.types import JSON
from methods.base import AbstractRopeMethod
from methods.llama3 import Llama3
from methods.position_interpolation import PositionInterpolation
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
}
