"""What a search tries: one RoPE for the target length."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from harness.types import content_hash
from methods.base import RopeScaling, RopeSpec


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Rescale factors, one for each rotary pair, and what goes with them.

    attention_factor: multiplies cos and sin, beside the model's own.
    critical_pair: where the searched part begins; None where all pairs are searched.
    start_tokens: the first so many positions keep the original frequencies (n-hat of arXiv:2402.13753 eq. 3).
    origin: where it comes from, such as `yarn` or `mutation`; no part of its identity.
    """

    rescale_factors: tuple[float, ...]
    attention_factor: float = 1.0
    critical_pair: int | None = None
    start_tokens: int = 0
    origin: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """The same for candidates that are the same RoPE, whatever critical pair they were made with."""
        return content_hash([self.rescale_factors, self.attention_factor, self.start_tokens])

    @property
    def is_sound(self) -> bool:
        """Whether every number is finite and positive."""
        return all(0 < value < math.inf for value in (*self.rescale_factors, self.attention_factor))

    def scaling(self, rope: RopeSpec) -> RopeScaling:
        """The RoPE it stands for."""
        found = rope.rescaled(np.array(self.rescale_factors), self.attention_factor)
        return RopeScaling(
            inv_freq_P=found.inv_freq_P, attention_factor=found.attention_factor, start_tokens=self.start_tokens
        )

    def as_json(self) -> dict[str, Any]:
        """Its numbers, as `from_json` takes them; floats survive to the last bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "Candidate":
        """The candidate that `as_json` gave."""
        return cls(**{**table, "rescale_factors": tuple(table["rescale_factors"])})
