"""A method's RoPE in the words of other engines: transformers' `longrope`, and vLLM's overrides.

Both have one list of factors inside the window and one beyond it, so whatever only changes frequencies can be written
that way. What an engine cannot express is listed, and refused unless the caller accepts it.

Shape letters: P rotary pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.errors import RequestError
from harness.types import JSON
from methods.base import AbstractRopeMethod, FloatArray, RopeScaling, RopeSpec
from methods.rope import default_inv_freq

Engine = Literal["transformers", "vllm"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """values: what is given to the engine, as JSON. limits: what it does otherwise than the method, a sentence each."""

    values: dict[str, JSON]
    limits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Regimes:
    """What a method deployed for a target does inside the window and beyond it."""

    rope: RopeSpec
    target_length: int
    inside: RopeScaling
    beyond: RopeScaling
    follows_length: bool

    @property
    def differ(self) -> bool:
        return not self.inside.same_as(self.beyond)

    def factors(self, scaling: RopeScaling) -> list[float]:
        """Plain RoPE's frequencies over the new ones, to 12 digits: what the engines divide by."""
        if not np.all(scaling.inv_freq_P > 0):
            raise RequestError("the method switches frequencies off: no engine's longrope can, its factors are finite")
        plain_P: FloatArray = default_inv_freq(self.rope.rope_theta, self.rope.rotary_dim)
        return [float(f"{factor:.12g}") for factor in plain_P / scaling.inv_freq_P]


def export(
    method: AbstractRopeMethod,
    rope: RopeSpec,
    *,
    engine: Engine,
    target_length: int,
    config: Mapping[str, Any] | None = None,
    accept_limits: bool = False,
) -> Exported:
    """What makes an engine run a model of this RoPE under the method, up to `target_length` tokens.

    config: the checkpoint's config.json: the rotated part of a head is kept from it.
    Raises RequestError where there are limits and they are not accepted.
    """
    if target_length <= rope.original_max_position_embeddings:
        raise RequestError(
            f"target length {target_length}: it should be above the model's window of "
            f"{rope.original_max_position_embeddings} tokens"
        )
    regimes = _regimes(method, rope, target_length)
    made = (_transformers if engine == "transformers" else _vllm)(regimes, _rotated_part(config or {}))
    if made.limits and not accept_limits:
        raise RequestError(
            f"{engine} cannot express the method: {'; '.join(made.limits)}: use --accept-limits for that"
        )
    return made


def vllm_engine(
    scaling: RopeScaling, rope: RopeSpec, *, max_model_len: int, config: Mapping[str, Any]
) -> dict[str, JSON]:
    """Arguments of an `LLM` that answers all its requests, of up to `max_model_len` tokens, under one RoPE.

    Raises RequestError for a RoPE that it cannot be given.
    """
    regimes = _Regimes(rope=rope, target_length=max_model_len, inside=scaling, beyond=scaling, follows_length=False)
    # The override takes the place of the RoPE parameters that vLLM has read, this one among them.
    stated = {key: config[key] for key in ("partial_rotary_factor",) if config.get(key)}
    made = _vllm(regimes, stated | _rotated_part(config))
    if made.limits:
        raise RequestError(f"vllm cannot express the method: {'; '.join(made.limits)}")
    return made.values


def checkpoint_config(model: str) -> dict[str, Any]:
    """The config.json of a catalogue name, a folder, a Hugging Face id or a file; empty where there is none."""
    from harness.models import hub
    from harness.models.files import read_config, read_json
    from harness.models.locate import locate
    from harness.models.request import ModelRequest, rope_override

    path = Path(model).expanduser()
    if path.suffix == ".json" and path.is_file():
        return dict(read_json(path))
    request = ModelRequest(name=model)
    if rope_override(request):  # stated by the catalogue, no files are needed
        return {}
    source = locate(request)
    if source.folder is not None:
        return dict(read_config(source.folder))
    return {} if source.gguf is not None else dict(read_json(hub.read_file(source.repo_id, "config.json", None)))


def _regimes(method: AbstractRopeMethod, rope: RopeSpec, target_length: int) -> _Regimes:
    if method.uses_target and method.target_length is None and method.factor is None:
        method = replace(method, target_length=target_length)
    window = rope.original_max_position_embeddings
    first, inside, next_, beyond = (
        method.rope_scaling(rope, seq_len=seq_len) for seq_len in (1, window, window + 1, target_length)
    )
    follows_length = not (first.same_as(inside) and next_.same_as(beyond))
    return _Regimes(rope=rope, target_length=target_length, inside=inside, beyond=beyond, follows_length=follows_length)


def _transformers(regimes: _Regimes, rotated_part: dict[str, JSON]) -> Exported:
    """A patch for config.json. Source: transformers 5.23 modeling_rope_utils.py, `_compute_longrope_parameters`."""
    inside, beyond = regimes.inside.attention_factor, regimes.beyond.attention_factor
    limits = _limits(regimes)
    if inside != beyond:
        limits.append(
            f"attention factor {inside:g} inside the window and {beyond:g} beyond: {beyond:g} is used for both"
        )
    if regimes.differ:
        limits.append(
            "the factors follow the longest position of each forward pass, over the whole batch: a request that grows "
            "beyond the window keeps keys of the short factors (not under Phi-3's classes, which read it again)"
        )
    rope_parameters = _longrope(regimes) | {"attention_factor": beyond} | rotated_part
    return Exported(values=_patch(regimes, rope_parameters), limits=tuple(limits))


def _vllm(regimes: _Regimes, rotated_part: dict[str, JSON]) -> Exported:
    """Arguments of `LLM`. Source: vllm-project/vllm@17d618b rotary_embedding/phi3_long_rope_scaled_rope.py."""
    limits = _limits(regimes)
    if regimes.differ:
        limits.append(
            f"one list an engine: with max_model_len above {regimes.rope.original_max_position_embeddings} requests "
            "inside the window get the long factors too; start another engine with max_model_len = "
            f"{regimes.rope.original_max_position_embeddings} for them"
        )
    # It reads neither factor nor attention_factor, and counts the lengths of its tables from max_position_embeddings.
    scales = {
        "short_mscale": regimes.inside.attention_factor,
        "long_mscale": regimes.beyond.attention_factor,
    }
    rope_parameters = _longrope(regimes) | scales | rotated_part
    values = {"hf_overrides": _patch(regimes, rope_parameters), "max_model_len": regimes.target_length}
    return Exported(values=values, limits=tuple(limits))


def _longrope(regimes: _Regimes) -> dict[str, JSON]:
    window = regimes.rope.original_max_position_embeddings
    return {
        "rope_type": "longrope",
        "rope_theta": regimes.rope.rope_theta,
        "short_factor": regimes.factors(regimes.inside),
        "long_factor": regimes.factors(regimes.beyond),
        "original_max_position_embeddings": window,
        "factor": regimes.target_length / window,
    }


def _patch(regimes: _Regimes, rope_parameters: Mapping[str, JSON]) -> dict[str, JSON]:
    return {
        "max_position_embeddings": regimes.target_length,
        "original_max_position_embeddings": regimes.rope.original_max_position_embeddings,
        "rope_parameters": dict(rope_parameters),
    }


def _limits(regimes: _Regimes) -> list[str]:
    """What neither engine can express."""
    found = []
    start_tokens = max(regimes.inside.start_tokens, regimes.beyond.start_tokens)
    if start_tokens:
        found.append(f"the first {start_tokens} positions keep the original frequencies: they get the rescaled ones")
    if regimes.follows_length:
        found.append(
            f"the frequencies follow each request's length: those for {regimes.target_length} tokens are used "
            "throughout beyond the window"
        )
    return found


def _rotated_part(config: Mapping[str, Any]) -> dict[str, JSON]:
    """`partial_rotary_factor` where the configuration keeps it among the RoPE parameters that are replaced."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if any(isinstance(value, Mapping) for value in parameters.values()):
        raise RequestError(
            f"the configuration states a RoPE for each of {', '.join(parameters)}: only a model with one RoPE for all "
            "layers can be exported"
        )
    return {key: parameters[key] for key in ("partial_rotary_factor",) if key in parameters}
