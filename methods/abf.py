"""Adjusted base frequency: another rope_theta, at every length."""

from dataclasses import dataclass
from typing import ClassVar

from methods.base import AbstractRopeMethod, RopeScaling, RopeSpec
from methods.rope import ntk_tie


@dataclass(frozen=True, kw_only=True)
class ABF(AbstractRopeMethod):
    """Another rope_theta, whatever the length: factors (new rope_theta / the model's)^(2i / d).

    It applies inside the window too, since models are trained further with it. Source: arXiv:2309.16039 (RoPE ABF).
    """

    source: ClassVar[str] = "arXiv:2309.16039"
    uses_target: ClassVar[bool] = False

    rope_theta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 < self.rope_theta < float("inf"):
            raise ValueError(f"rope_theta = {self.rope_theta:g}: it should be above 1")

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        n_pairs = len(rope.inv_freq_P)
        return rope.rescaled(ntk_tie(self.rope_theta / rope.rope_theta, n_pairs, n_pairs))
