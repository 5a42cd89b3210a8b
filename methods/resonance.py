"""Resonance RoPE: another method's wavelengths, rounded to whole tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from harness.types import JSON
from methods.base import AbstractRopeMethod, RopeScaling, RopeSpec
from methods.rope import wavelengths


@dataclass(frozen=True, kw_only=True)
class Resonance(AbstractRopeMethod):
    """Resonance RoPE on top of another method: every wavelength becomes the nearest whole number of tokens.

    It rounds inside the window too; but where the other method uses the original RoPE inside the window whatever the
    target, so does this one, and rounds beyond it only. The attention factor is the other method's.
    on: name of the other method, or a `pkg.module:Class`. on_params: its settings.
    target_length and factor are handed on; a target_length only to a method that takes one and has none of its own.
    Source: arXiv:2403.00071; sheryc/resonance_rope@9e903dc, `resonance_register`.
    """

    source: ClassVar[str] = "arXiv:2403.00071"

    on: str
    on_params: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = self.inner
        # What the other method says of itself holds for the two together.
        object.__setattr__(self, "version", type(self).version + inner.version - 1)
        object.__setattr__(self, "original_inside_window", inner.original_inside_window)
        object.__setattr__(self, "uses_target", inner.uses_target)
        object.__setattr__(self, "switch", getattr(inner, "switch", "request"))

    def __hash__(self) -> int:
        return hash((self.on, tuple(sorted(self.on_params)), self.target_length, self.factor))  # a dict has no hash

    @cached_property
    def inner(self) -> AbstractRopeMethod:
        """The other method. Raises RequestError or ValueError where it cannot be built."""
        from harness.catalogue import build, resolve

        cls = resolve("method", self.on)
        if not issubclass(cls, AbstractRopeMethod):
            raise ValueError(f"on = '{self.on}': it should be a method that changes frequencies only")
        settings = dict(self.on_params)
        if self.factor is not None:
            settings["factor"] = self.factor
        if self.target_length and cls.uses_target and not settings.keys() & {"target_length", "factor"}:
            settings["target_length"] = self.target_length
        inner: AbstractRopeMethod = build(cls, settings, where=f"method 'resonance' on '{self.on}'")
        return inner

    def extension_ratio(self, rope: RopeSpec, seq_len: int) -> float:
        """The other method's ratio for a request of `seq_len` tokens; at least 1."""
        return self.inner.extension_ratio(rope, seq_len)

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        scaling = self.inner.rope_scaling(rope, seq_len=seq_len)
        if self.inner.original_inside_window and seq_len <= rope.original_max_position_embeddings:
            return scaling
        whole_P = np.round(wavelengths(scaling.inv_freq_P))
        return replace(scaling, inv_freq_P=2 * np.pi / whole_P)

    def artifacts(self) -> Mapping[str, str]:
        """name -> sha256 of every file the other method read."""
        return self.inner.artifacts()
