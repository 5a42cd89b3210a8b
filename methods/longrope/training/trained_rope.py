"""The RoPE of a training, and how a config.json says it.

Shape letters: P rotary pairs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.errors import RequestError
from harness.models.rope_facts import rope_spec_from_config
from harness.types import JSON, Regime
from methods.base import AbstractRopeMethod, RopeScaling, RopeSpec
from methods.longrope.export import export
from methods.rope import default_inv_freq
from methods.yarn import YaRN

# What a base's config.json may say of its RoPE beside the tables that are written, and of how it was packed.
STALE = ("rope_scaling", "rope_theta", "quantization_config")


@dataclass(frozen=True, kw_only=True)
class TrainedRope(AbstractRopeMethod):
    """The two RoPEs of a training: `inside` up to the window, `beyond` for longer requests, whatever their length."""

    uses_target = False

    inside: RopeScaling
    beyond: RopeScaling

    @classmethod
    def of(cls, method: Any, rope: RopeSpec, *, target_length: int, short_rope: Regime) -> "TrainedRope":
        """As a training has them: the method's at the target length, and inside the original one where it is mixed."""
        beyond = method.rope_scaling(rope, seq_len=target_length)
        return cls(inside=rope.rescaled(1.0) if short_rope == "original" else beyond, beyond=beyond)

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens."""
        return self.inside if seq_len <= rope.original_max_position_embeddings else self.beyond

    @property
    def has_two(self) -> bool:
        """Whether the length of a request matters at all."""
        a, b = self.inside, self.beyond
        return a.attention_factor != b.attention_factor or not np.array_equal(a.inv_freq_P, b.inv_freq_P)


def rope_config(
    method: Any, rope: RopeSpec, *, target_length: int, short_rope: Regime, config: Mapping[str, JSON]
) -> tuple[dict[str, JSON], tuple[str, ...]]:
    """What changes in a config.json, and what transformers then does otherwise than Longreach, a sentence each.

    A RoPE that is the same at every length has the plainest type that says it, and reads back as itself; two RoPEs are
    `longrope`. Raises RequestError for one that cannot be expressed: call it before a training.
    """
    trained = TrainedRope.of(method, rope, target_length=target_length, short_rope=short_rope)
    return written_rope(trained, method, rope, target_length, config)


def written_rope(
    trained: TrainedRope, method: Any, rope: RopeSpec, target_length: int, config: Mapping[str, JSON]
) -> tuple[dict[str, JSON], tuple[str, ...]]:
    """`rope_config` of a training's two RoPEs."""
    text = config.get("text_config") or config
    own = text.get("rope_parameters") or {}
    by_layer = {key: value for key, value in own.items() if isinstance(value, Mapping)}
    plain = {**text, "rope_parameters": own.get("full_attention", {}) if by_layer else own}
    made = export(
        trained, rope, engine="transformers", target_length=target_length, config=plain, accept_limits=True
    )  # fmt: skip
    values = made.values
    if not trained.has_two:
        candidates = (*_plain_types(trained.beyond, method, rope, values), values)
        fitting = [one for one in candidates if _reads_back({**plain, **one}, trained.beyond, target_length)]
        if not fitting:
            raise RequestError("the trained RoPE cannot be written into a config.json: no rope_type reads back as it")
        values = fitting[0]
    if by_layer:
        values = {**values, "rope_parameters": {**own, "full_attention": values["rope_parameters"]}}
    return ({"text_config": {**text, **values}} if config.get("text_config") else values), made.limits


def _plain_types(
    scaling: RopeScaling, method: Any, rope: RopeSpec, longrope: Mapping[str, JSON]
) -> Iterable[dict[str, JSON]]:
    """Configurations that may say the same as a `longrope` with two equal lists."""
    factors_P = default_inv_freq(rope.rope_theta, rope.rotary_dim) / scaling.inv_freq_P
    kept = {key: value for key, value in longrope["rope_parameters"].items() if key == "partial_rotary_factor"}
    reach = {"max_position_embeddings": longrope["max_position_embeddings"]}
    last = (rope.rotary_dim - 2) / rope.rotary_dim
    changed = float(scaling.inv_freq_P[-1]) ** (-1 / last) if last else rope.rope_theta
    for rope_theta in (rope.rope_theta, getattr(method, "rope_theta", changed), changed):
        yield {**reach, "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta, **kept}}
    linear = {"rope_type": "linear", "rope_theta": rope.rope_theta, "factor": float(factors_P[-1]), **kept}
    yield {**reach, "rope_parameters": linear}
    if isinstance(method, YaRN):
        yarn = {
            "rope_type": "yarn",
            "rope_theta": rope.rope_theta,
            "factor": method.extension_ratio(rope, longrope["max_position_embeddings"]),
            "original_max_position_embeddings": rope.original_max_position_embeddings,
            "beta_fast": method.beta_fast,
            "beta_slow": method.beta_slow,
            "truncate": method.truncate,
            "attention_factor": scaling.attention_factor,
            **kept,
        }
        yield {**longrope, "rope_parameters": yarn}


def _reads_back(config: Mapping[str, JSON], scaling: RopeScaling, target_length: int) -> bool:
    """Whether a configuration states this RoPE, for a window of the target length."""
    try:
        found = rope_spec_from_config({key: value for key, value in config.items() if key not in STALE})
    except RequestError:
        return False
    return (
        found.original_max_position_embeddings == target_length
        and len(found.inv_freq_P) == len(scaling.inv_freq_P)
        and np.allclose(found.inv_freq_P, scaling.inv_freq_P, rtol=1e-9, atol=0)
        and bool(np.isclose(found.attention_factor, scaling.attention_factor, rtol=1e-9, atol=0))
    )
