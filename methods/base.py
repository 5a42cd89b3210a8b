"""What a method is: a pure function from a model's RoPE and a length to new frequencies.

Shape letters: P rotary pairs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RopeSpec:
    """The rotary embedding a model was trained with.

    inv_freq_P: radians a token, one for each rotary pair, highest frequency first.
    rotary_dim: rotary dimensions of a head, 2 P (less than the head size under partial rotary).
    original_max_position_embeddings: the trained window, in tokens.
    attention_factor: what the model's own cos and sin are multiplied by (1 for nearly all models). A method's
        factor multiplies it, so a method that changes nothing keeps it.
    """

    inv_freq_P: FloatArray
    rope_theta: float
    rotary_dim: int
    original_max_position_embeddings: int
    attention_factor: float = 1.0

    def extension_ratio(self, seq_len: int) -> float:
        """Length over the trained window, and 1 inside the window."""
        return max(1.0, seq_len / self.original_max_position_embeddings)

    def rescaled(self, rescale_factors_P: FloatArray | float, attention_factor: float = 1.0) -> "RopeScaling":
        """This RoPE with each frequency divided by its factor; factors and attention factor of 1 change no bit."""
        return RopeScaling(
            inv_freq_P=self.inv_freq_P / rescale_factors_P, attention_factor=self.attention_factor * attention_factor
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RopeScaling:
    """What a method does to RoPE for one request.

    inv_freq_P: new frequencies, radians a token; 0 switches a pair's rotation off.
    attention_factor: multiplies cos and sin (the model's own factor is in it), so attention logits grow by its square.
    start_tokens: the first so many positions turn by the model's own frequencies (n-hat of arXiv:2402.13753 eq. 3).
    """

    inv_freq_P: FloatArray
    attention_factor: float
    start_tokens: int = 0

    def rescale_factors_P(self, rope: RopeSpec) -> FloatArray:
        """Original over new frequency, one for each pair; infinite where a frequency is switched off."""
        with np.errstate(divide="ignore", invalid="ignore"):
            factors_P = rope.inv_freq_P / self.inv_freq_P
        return np.where(rope.inv_freq_P == self.inv_freq_P, 1.0, factors_P)  # a pair the model never turns: 0 / 0

    def same_as(self, other: "RopeScaling") -> bool:
        """Whether both turn every position alike, to the last bit."""
        return (
            self.attention_factor == other.attention_factor
            and self.start_tokens == other.start_tokens
            and np.array_equal(self.inv_freq_P, other.inv_freq_P)
        )

    def is_original(self, rope: RopeSpec) -> bool:
        """Whether this is the RoPE the model was trained with."""
        return self.attention_factor == rope.attention_factor and np.array_equal(self.inv_freq_P, rope.inv_freq_P)


@runtime_checkable
class Method(Protocol):
    """Anything that can be put on a model and taken off again.

    `version` is raised when the method's numbers change; `applied` restores the model bit for bit.
    """

    version: ClassVar[int]

    def applied(self, model: Any, *, seq_len: int) -> AbstractContextManager[Any]:
        """The model under this method for requests of `seq_len` tokens (prompt + new), until the block ends."""
        ...


@dataclass(frozen=True, kw_only=True)
class AbstractRopeMethod(ABC):
    """A method that changes frequencies and the attention factor only.

    The extension ratio is `factor` where given; else `target_length` over the window, as a model is deployed
    for one target and meets shorter inputs too; else it follows each request's own length.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = ""
    original_inside_window: ClassVar[bool] = False  # the model's own RoPE there, whatever the target
    uses_target: ClassVar[bool] = True  # whether `target_length` and `factor` mean anything to it

    target_length: int | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        if self.target_length is not None and self.target_length < 1:
            raise ValueError(f"target_length = {self.target_length}: it should be a positive number of tokens")
        if self.factor is not None and not 1 <= self.factor < np.inf:
            raise ValueError(f"factor = {self.factor:g}: it should be at least 1")
        if self.factor is not None and self.target_length is not None:
            raise ValueError("factor and target_length are both given: keep one")
        if not self.uses_target and (self.factor is not None or self.target_length is not None):
            raise ValueError("takes neither factor nor target_length: leave them out")

    def extension_ratio(self, rope: RopeSpec, seq_len: int) -> float:
        """The ratio this method extends by for a request of `seq_len` tokens; at least 1."""
        return self.factor or rope.extension_ratio(self.target_length or seq_len)

    @abstractmethod
    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens, prompt and new tokens together."""

    def artifacts(self) -> Mapping[str, str]:
        """name -> sha256 of every file the method read: part of a result's identity."""
        return {}

    def applied(self, model: Any, *, seq_len: int) -> AbstractContextManager[Any]:
        """The model with this RoPE in place of its own, until the block ends."""
        from harness.models.switching import applied_rope

        return applied_rope(self, model, seq_len=seq_len)
