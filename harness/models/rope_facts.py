"""The RoPE a model was trained with, read from its configuration. Loads neither weights nor torch, where it can."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError, did_you_mean
from harness.models.files import read_config, read_json
from harness.models.shipped_rope import SHIPPED, Facts, changes_with_length
from harness.types import JSON
from methods.base import RopeSpec
from methods.rope import default_inv_freq

if TYPE_CHECKING:
    from harness.models.request import ModelRequest

_STATEMENT = ("rope_theta", "rotary_dim", "original_max_position_embeddings")
_WITH_ORIGINAL = tuple(name for name, shipped in SHIPPED.items() if shipped.reads_original)
# Model types that rotate whole heads unless their configuration says otherwise; others are asked of transformers.
_WHOLE_HEAD = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2")
_EXAMPLES = {
    "rope_theta": "rope_theta = 10000.0",
    "rotary_dim": "rotary_dim = 128",
    "max_position_embeddings": "original_max_position_embeddings = 4096",
}


def rope_spec(request: "ModelRequest") -> RopeSpec:
    """The RoPE of a requested model. Raises RequestError where its files do not say, or do not determine it.

    `[model.rope]` overrides the files. A whole statement (rope_theta, rotary_dim and
    original_max_position_embeddings) or a rope_type replaces the scaling that the files state.
    """
    from harness.models import hub
    from harness.models.locate import locate
    from harness.models.request import rope_override

    override = rope_override(request)
    where = f"model '{request.label}'"
    if _is_statement(override):
        return _spec(override, override, where)
    source = locate(request)
    if source.gguf is not None:
        return _spec(_merged(_gguf_facts(source.gguf, override, where), override), override, where)
    if source.folder is not None:
        config = read_config(source.folder)
    else:
        config = read_json(hub.read_file(source.repo_id, "config.json", source.revision))
    return _from_config(config, override, where)


def rope_spec_from_config(config: Facts, override: Facts | None = None) -> RopeSpec:
    """The RoPE that a config.json states. Raises RequestError where it does not determine it."""
    from harness.models.request import check_rope_keys

    check_rope_keys(override or {})
    return _from_config(config, override or {}, "the configuration")


def rope_spec_of(name: str) -> RopeSpec:
    """The RoPE of a catalogue name, a folder, a Hugging Face id, or a config.json. Raises RequestError."""
    from harness.models.request import ModelRequest

    path = Path(name).expanduser()
    if path.suffix == ".json" and path.is_file():
        return _from_config(read_json(path), {}, str(path))
    return rope_spec(ModelRequest(name=name))


def _from_config(config: Facts, override: Facts, where: str) -> RopeSpec:
    facts = _merged(_config_facts(config, where), override)
    if any(facts.get(name) is None for name in ("rope_theta", "rotary_dim", "max_position_embeddings")):
        facts = _config_facts(_with_class_defaults(config, where), where)
        facts = _merged({**facts, "partial_rotary_factor": facts["partial_rotary_factor"] or 1.0}, override)
    return _spec(facts, override, where)


def _config_facts(config: Facts, where: str) -> dict[str, JSON]:
    """The RoPE of a configuration's full-attention layers as one flat table."""
    text = config.get("text_config") or {}
    config = {**config, **text}
    parameters = _parameters(config, where)
    facts = {key: value for key, value in parameters.items() if value is not None}
    facts["rope_type"] = facts.pop("type", None) if "rope_type" not in facts else facts["rope_type"]
    facts["rope_type"] = facts["rope_type"] or "default"
    facts.setdefault("rope_theta", config.get("rope_theta", config.get("rotary_emb_base")))
    facts["max_position_embeddings"] = config.get("max_position_embeddings")
    if facts["rope_type"] == "default":
        facts.pop("original_max_position_embeddings", None)
    elif facts["rope_type"] in _WITH_ORIGINAL and config.get("original_max_position_embeddings"):
        facts["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    facts["head_dim"] = _head_dim(config)
    partial = config.get("partial_rotary_factor", config.get("rotary_pct"))
    if partial is None and config.get("model_type") in _WHOLE_HEAD:
        partial = 1.0
    facts.setdefault("partial_rotary_factor", partial)
    return facts


def _parameters(config: Facts, where: str) -> Facts:
    """`rope_parameters`, or the older `rope_scaling`; of several layer types the full attention's."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = {key: value for key, value in parameters.items() if isinstance(value, Mapping)}
    if not nested:
        return parameters
    if "full_attention" not in nested:
        raise RequestError(
            f"{where}: its RoPE is stated for the layer types {', '.join(nested)}, none of them full_attention: "
            "state rope_theta, rotary_dim and original_max_position_embeddings under [model.rope]"
        )
    return nested["full_attention"]


def _head_dim(config: Facts) -> int | None:
    # DeepSeek's latent attention rotates a part of the head of its own size.
    stated = config.get("qk_rope_head_dim") or config.get("head_dim")
    if stated:
        return int(stated)
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return hidden // heads if hidden and heads else None


def _with_class_defaults(config: Facts, where: str) -> Facts:
    """The configuration with what transformers' own class fills in."""
    model_type = str(config.get("model_type"))
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if model_type not in CONFIG_MAPPING_NAMES:
        return config
    stated = {key: value for key, value in config.items() if key not in ("model_type", "transformers_version")}
    try:
        full: Any = AutoConfig.for_model(model_type, **stated).get_text_config(decoder=True).to_dict()
    except Exception as error:  # a third party's constructor: any error means that the values do not fit it
        raise RequestError(f"{where}: transformers does not accept it as a {model_type}: {error}") from error
    return full


def _gguf_facts(path: Path, override: Facts, where: str) -> dict[str, JSON]:
    """What a GGUF file states of its RoPE, and transformers reads."""
    from harness.models.files import check_gguf

    check_gguf(path)
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        fields = {key: reader.get_field(key) for key in reader.fields if ".rope." in key or "context_length" in key}
        values = {key.partition(".")[2]: field.contents() for key, field in fields.items() if field is not None}
    except Exception as error:  # the reader has no error of its own: a cut file fails wherever it was cut
        raise RequestError(f"{path} is broken or cut ({error}): copy or download it again") from error
    scaled = [key for key in values if key.startswith("rope.scaling") and values[key] != "none"]
    scaled += [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_")]
    if scaled and "rope_type" not in override:
        raise RequestError(
            f"{where}: {path.name} scales its RoPE ({scaled[0]}), which transformers does not read from a GGUF: "
            'state it under [model.rope], such as rope_type = "llama3" with its factors'
        )
    facts = {
        "rope_theta": values.get("rope.freq_base"),
        "rotary_dim": values.get("rope.dimension_count"),
        "max_position_embeddings": values.get("context_length"),
    }
    kinds = {"rope_theta": float, "rotary_dim": int, "max_position_embeddings": int}
    return {key: None if value is None else kinds[key](value) for key, value in facts.items()}


def _is_statement(override: Facts) -> bool:
    return all(name in override for name in _STATEMENT)


def _merged(facts: Facts, override: Facts) -> dict[str, JSON]:
    """The files' facts under the override, without their scaling where the override states one."""
    facts = dict(facts)
    if "rope_type" in override:
        plain = ("rope_theta", "head_dim", "partial_rotary_factor", "rotary_dim", "max_position_embeddings")
        before = facts.get("rope_type")
        window = facts.get("original_max_position_embeddings")
        facts = {key: facts.get(key) for key in plain}
        if window is not None:
            facts["original_max_position_embeddings"] = window
        elif before == "linear":  # whether its max_position_embeddings counts the factor is nowhere said
            facts["max_position_embeddings"] = None
    facts = {**facts, **override}
    if facts.get("rotary_dim") is None and facts.get("head_dim") and facts.get("partial_rotary_factor"):
        facts["rotary_dim"] = int(facts["head_dim"] * facts["partial_rotary_factor"])
    return facts


def _spec(facts: Facts, override: Facts, where: str) -> RopeSpec:
    rope_type = facts.get("rope_type", "default")
    _check_type(rope_type, facts, where)
    _check_values(rope_type, facts, override, where)
    original: JSON = facts.get("original_max_position_embeddings")
    reached: JSON = facts.get("max_position_embeddings")
    rotary_dim = int(facts["rotary_dim"])
    plain = RopeSpec(
        inv_freq_P=default_inv_freq(float(facts["rope_theta"]), rotary_dim),
        rope_theta=float(facts["rope_theta"]),
        rotary_dim=rotary_dim,
        original_max_position_embeddings=int(original or reached),
    )
    try:
        method = SHIPPED[rope_type].method(facts)
        own = method.rope_scaling(plain, seq_len=plain.original_max_position_embeddings)
    except ValueError as error:
        raise RequestError(f"{where}: rope_type '{rope_type}': {error}") from error
    # The window of a model that was trained with its scaling is what the scaling reached.
    if SHIPPED[rope_type].reads_original:
        plain = replace(plain, original_max_position_embeddings=int(reached or original * facts["factor"]))
    return replace(plain, inv_freq_P=own.inv_freq_P, attention_factor=own.attention_factor)


def _check_type(rope_type: str, facts: Facts, where: str) -> None:
    if changes_with_length({**facts, "rope_type": rope_type}):
        window = facts.get("original_max_position_embeddings") or facts.get("max_position_embeddings")
        raise RequestError(
            f"{where}: its RoPE ('{rope_type}') changes with the length of a request: to start from the unscaled one "
            f'write under [model.rope]: rope_type = "default", original_max_position_embeddings = {window}'
        )
    if rope_type not in SHIPPED:
        raise RequestError(
            f"{where}: rope_type '{rope_type}' is not one that Longreach reads: {did_you_mean(rope_type, SHIPPED)}"
        )


def _check_values(rope_type: str, facts: Facts, override: Facts, where: str) -> None:
    for name, line in _EXAMPLES.items():
        given = facts.get(name)
        if name == "max_position_embeddings":
            given = given or facts.get("original_max_position_embeddings")
        if given is None:
            raise RequestError(
                f"{where} does not state its {name}: add what it was trained with under [model.rope]: {line}"
            )
    for name in SHIPPED[rope_type].needs:
        if facts.get(name) is None:
            raise RequestError(f"{where}: rope_type '{rope_type}' needs {name}: add it under [model.rope]")
    for name in override:
        users = [kind for kind, shipped in SHIPPED.items() if name in shipped.needs + shipped.takes]
        if users and rope_type not in users:
            raise RequestError(f"[model.rope] {name} belongs to rope_type {' or '.join(users)}, not to '{rope_type}'")
    if facts["rotary_dim"] % 2 or facts["rotary_dim"] < 2:
        raise RequestError(f"{where}: rotary_dim = {facts['rotary_dim']}: it should be an even number of dimensions")
    if facts["rope_theta"] <= 1:
        raise RequestError(f"{where}: rope_theta = {facts['rope_theta']:g}: it should be above 1")
