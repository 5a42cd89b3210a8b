"""CoPE: the lowest frequencies tapered to zero."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.errors import RequestError
from methods.base import AbstractRopeMethod, FloatArray, RopeScaling, RopeSpec
from methods.rope import wavelengths


@dataclass(frozen=True, kw_only=True)
class CoPE(AbstractRopeMethod):
    """Clipped RoPE: the last frequencies times a falling half cosine, the very last 0.

    It applies inside the window too, as its authors do.
    clip_pairs: how many pairs, counted from the lowest frequency (the authors: 20 of 64); by default those whose
        wavelength exceeds the window.
    hard: set them all to 0 instead.
    Source: arXiv:2602.05258; hrlics/CoPE@bb728e8 modeling_cope.py; the default count as in ml-explore/mlx-lm#1387.
    """

    source: ClassVar[str] = "arXiv:2602.05258"
    uses_target: ClassVar[bool] = False

    clip_pairs: int | None = None
    hard: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_pairs is not None and self.clip_pairs < 1:
            raise ValueError(f"clip_pairs = {self.clip_pairs}: it should be at least 1")

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        return RopeScaling(inv_freq_P=rope.inv_freq_P * self._kept_P(rope), attention_factor=rope.attention_factor)

    def _kept_P(self, rope: RopeSpec) -> FloatArray:
        n_pairs = len(rope.inv_freq_P)
        n_clipped = self.clip_pairs
        if n_clipped is None:
            n_clipped = int(np.sum(wavelengths(rope.inv_freq_P) > rope.original_max_position_embeddings))
        if n_clipped > n_pairs:
            raise RequestError(f"method 'cope': clip_pairs = {n_clipped}: the model has {n_pairs} rotary pairs")
        kept_P = np.ones(n_pairs)
        kept_P[n_pairs - n_clipped :] = 0 if self.hard else (1 + np.cos(np.linspace(0, np.pi, n_clipped))) / 2
        return kept_P
