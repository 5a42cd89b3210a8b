"""Rescale factors from a file: our JSON, or the `config.json` of a model with `longrope` scaling.

Ours is one table: `rescale_factors` (or `long_factor`), one for each rotary pair, highest frequency first; and, where
known, `short_factor`, `attention_factor`, `start_tokens`, `short_start_tokens`, `rotary_dim` (or `head_dim`, where the
whole head turns), `rope_theta`, `original_max_position_embeddings`, `target_length`, `source`. A `schema_version` says
how to read it, a `weights_sha256` ties it to one set of weights. Other keys are notes.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from harness.errors import RequestError, unknown
from harness.types import content_hash
from methods.base import RopeSpec

LONGROPE = ("longrope", "su")  # the rope types of a configuration that mean it; `su` is its first name

# What a key is read as, the older names of published lists included.
_NAMES = {
    "rescale_factors": "rescale_factors",
    "long_factor": "rescale_factors",
    "short_factor": "short_factor",
    "attention_factor": "attention_factor",
    "start_tokens": "start_tokens",
    "short_start_tokens": "short_start_tokens",
    "rotary_dim": "rotary_dim",
    "head_dim": "rotary_dim",
    "rope_theta": "rope_theta",
    "original_max_position_embeddings": "original_max_position_embeddings",
    "L_train": "original_max_position_embeddings",
    "L_train_config": "original_max_position_embeddings",
    "target_length": "target_length",
    "L_target": "target_length",
    "factor": "ratio",
    "source": "source",
    "schema_version": "schema_version",
    "weights_sha256": "weights_sha256",
}
SCHEMA_VERSION = 1  # of what a search writes and this module reads; a list without one is read the same way


@dataclass(frozen=True, kw_only=True)
class RescaleFactors:
    """The contents of a factors file; None where the file does not say.

    rescale_factors: one for each rotary pair, for lengths beyond the window. short_factor: the same, inside it.
    start_tokens: of a request beyond the window the first so many positions keep the original frequencies.
    short_start_tokens: the same, of a request inside it.
    ratio: the extension ratio, where the file states it apart from the lengths.
    weights_sha256: the only weights they may be put on; as `harness.models.request.identity` gives it.
    """

    name: str
    sha256: str
    rescale_factors: tuple[float, ...]
    short_factor: tuple[float, ...] | None = None
    attention_factor: float | None = None
    start_tokens: int = 0
    short_start_tokens: int = 0
    rotary_dim: int | None = None
    rope_theta: float | None = None
    original_max_position_embeddings: int | None = None
    target_length: int | None = None
    ratio: float | None = None
    weights_sha256: str | None = None

    def extension_ratio(self, rope: RopeSpec) -> float | None:
        """The ratio the factors were made for; None where the file does not say."""
        if self.ratio is not None:
            return self.ratio
        return None if self.target_length is None else rope.extension_ratio(self.target_length)

    def check(self, rope: RopeSpec) -> None:
        """Raises RequestError unless the factors fit the model's RoPE."""
        for name in ("rotary_dim", "rope_theta", "original_max_position_embeddings"):
            stated, model = getattr(self, name), getattr(rope, name)
            if stated is not None and stated != model:
                raise RequestError(
                    f"factors '{self.name}' are for {name} = {stated:g}, the model has {model:g}: they should be equal"
                )
        if len(self.rescale_factors) != len(rope.inv_freq_P):
            raise RequestError(
                f"factors '{self.name}': there are {len(self.rescale_factors)}, the model has "
                f"{len(rope.inv_freq_P)} rotary pairs: it should be one factor a pair"
            )

    def check_weights(self, sha256: str) -> None:
        """Raises RequestError where the file is tied to other weights than these."""
        if self.weights_sha256 not in (None, sha256):
            raise RequestError(
                f"factors '{self.name}' are for weights_sha256 = {self.weights_sha256}, the model's are {sha256}: they "
                "should be equal; without that key the factors fit every model of the same RoPE"
            )


def packaged_factors() -> tuple[str, ...]:
    """Names of the published lists that come with the package."""
    folder = files("methods.longrope") / "factors"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")))


def read_factors(name: str) -> RescaleFactors:
    """The factors of a packaged list, by its name, or of a file, by its path. Raises RequestError."""
    data = _read(name)
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"factors '{name}': {error}; it should be a JSON file") from error
    if not isinstance(table, dict):
        raise RequestError(f"factors '{name}' hold no table: it should be {{\"rescale_factors\": [...], ...}}")
    is_config = "rope_parameters" in table or "rope_scaling" in table
    where = f"factors '{name}'"
    values = _from_config(table, where) if is_config else _from_ours(table, where)
    return RescaleFactors(name=name, sha256=content_hash(data), **_checked(values, where))


def _read(name: str) -> bytes:
    try:
        if name in packaged_factors():
            return (files("methods.longrope") / "factors" / f"{name}.json").read_bytes()
        return Path(name).read_bytes()
    except FileNotFoundError as error:
        if Path(name).name == name and not name.endswith(".json"):
            raise unknown("factors", name, packaged_factors()) from error
        raise RequestError(
            f"factors '{name}': there is no such file; it should be a path or one of {', '.join(packaged_factors())}"
        ) from error
    except (OSError, ValueError) as error:
        raise RequestError(f"factors '{name}': {error}; it should be a readable JSON file") from error


def _from_ours(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _NAMES:
            near = difflib.get_close_matches(key, _NAMES, n=1, cutoff=0.85)
            if near:  # a note may have any other name; a misspelt key would change numbers unseen
                raise RequestError(f"{where} have no key '{key}': did you mean '{near[0]}'?")
        elif key == "head_dim" and "rotary_dim" in table:
            continue
        elif _NAMES[key] in values:
            raise RequestError(f"{where}: '{key}' says {_NAMES[key]} a second time: keep one")
        else:
            values[_NAMES[key]] = value
    return values


def _from_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What transformers reads for `longrope`. Source: transformers 5.23 `_compute_longrope_parameters`."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None
    if kind not in LONGROPE:
        raise RequestError(f"{where}: the configuration's rope type is {kind!r}: it should be 'longrope'")
    short_mscale, long_mscale = rope.get("short_mscale"), rope.get("long_mscale")  # Phi-3.5-MoE's attention factors
    if short_mscale != long_mscale:
        raise RequestError(
            f"{where}: short_mscale = {short_mscale!r}, long_mscale = {long_mscale!r}: they should be equal"
        )
    return {
        "rescale_factors": rope.get("long_factor"),
        "short_factor": rope.get("short_factor"),
        "attention_factor": rope.get("attention_factor") if long_mscale is None else long_mscale,
        "rotary_dim": _rotary_dim(config, rope, where),
        "rope_theta": _either(rope, config, "rope_theta"),
        "original_max_position_embeddings": _either(config, rope, "original_max_position_embeddings"),
        "target_length": config.get("max_position_embeddings"),
        "ratio": rope.get("factor"),
    }


def _either(first: Mapping[str, Any], second: Mapping[str, Any], key: str) -> Any:
    return second.get(key) if first.get(key) is None else first[key]


def _rotary_dim(config: Mapping[str, Any], rope: Mapping[str, Any], where: str) -> int | None:
    head_dim = _whole(config, "head_dim", where)
    hidden_size, n_heads = _whole(config, "hidden_size", where), _whole(config, "num_attention_heads", where)
    if head_dim is None and hidden_size and n_heads:
        head_dim = hidden_size // n_heads
    partial = _either(rope, config, "partial_rotary_factor")
    if head_dim is None or partial is None:
        return head_dim
    return int(head_dim * _positive(partial, f"{where}: partial_rotary_factor"))


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    factors = _list(values, "rescale_factors", where)
    if factors is None:
        raise RequestError(f"{where} hold neither 'rescale_factors' nor 'long_factor': it should be one of them")
    short = _list(values, "short_factor", where)
    if short is not None and len(short) != len(factors):
        raise RequestError(
            f"{where}: short_factor has {len(short)} values, rescale_factors {len(factors)}: it should be as many"
        )
    ratio = _number(values, "ratio", where)
    if ratio is not None and ratio < 1:
        raise RequestError(f"{where}: factor = {ratio:g}: it should be at least 1")
    if values.get("schema_version") not in (None, SCHEMA_VERSION):
        raise RequestError(
            f"{where}: schema_version = {values['schema_version']!r}: it should be {SCHEMA_VERSION}, what is read here"
        )
    tied_to = values.get("weights_sha256")
    if tied_to is not None and not isinstance(tied_to, str):
        raise RequestError(f"{where}: weights_sha256 = {tied_to!r}: it should be a text")
    return {
        "rescale_factors": factors,
        "short_factor": short,
        "ratio": ratio,
        "attention_factor": _number(values, "attention_factor", where),
        "rope_theta": _number(values, "rope_theta", where),
        "rotary_dim": _whole(values, "rotary_dim", where),
        "original_max_position_embeddings": _whole(values, "original_max_position_embeddings", where),
        "target_length": _whole(values, "target_length", where),
        **{key: _start_tokens(values, key, where) for key in ("start_tokens", "short_start_tokens")},
        "weights_sha256": tied_to,
    }


def _list(table: Mapping[str, Any], key: str, where: str) -> tuple[float, ...] | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, list):
        raise RequestError(f"{where}: {key} = {value!r}: it should be a list of numbers")
    return tuple(_positive(item, f"{where}: {key}[{i}]") for i, item in enumerate(value))


def _number(table: Mapping[str, Any], key: str, where: str) -> float | None:
    value = table.get(key)
    return None if value is None else _positive(value, f"{where}: {key}")


def _whole(table: Mapping[str, Any], key: str, where: str) -> int | None:
    number = _number(table, key, where)
    if number is not None and number != int(number):
        raise RequestError(f"{where}: {key} = {number:g}: it should be a whole number")
    return None if number is None else int(number)


def _start_tokens(table: Mapping[str, Any], key: str, where: str) -> int:
    return 0 if table.get(key) == 0 else _whole(table, key, where) or 0


def _positive(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"{where} = {value!r}: it should be a number")
    number = float("inf") if abs(value) > 1e300 else float(value)  # a whole number in JSON may exceed any float
    if not 0 < number < float("inf"):
        raise RequestError(f"{where} = {number:.6g}: it should be finite and positive")
    return number
