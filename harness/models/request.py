"""Which model a preset asks for, whether it can be had, and what its files are. Loads nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from harness.catalogue import convert
from harness.errors import RequestError, did_you_mean
from harness.models import files, hub
from harness.models.catalogue import CATALOGUE
from harness.models.hashes import combined, file_sha256
from harness.models.locate import locate
from harness.types import JSON, content_hash

ROPE_KEYS: dict[str, type] = {
    "rope_type": str,
    "rope_theta": float,
    "rotary_dim": int,
    "partial_rotary_factor": float,
    "original_max_position_embeddings": int,
    "max_position_embeddings": int,
    "factor": float,
    "attention_factor": float,
    "low_freq_factor": float,
    "high_freq_factor": float,
    "beta_fast": float,
    "beta_slow": float,
    "mscale": float,
    "mscale_all_dim": float,
    "truncate": bool,
}


Backend = Literal["transformers", "vllm"]
Attention = Literal[
    "auto", "cudnn", "flash", "math", "varlen",
    "sdpa", "eager", "flex", "flash_attention_2", "flash_attention_3", "flash_attention_4",
]  # fmt: skip
# transformers' own, under its names for them; the others are ours, see `harness.models.attention`.
THEIRS = {"sdpa": "sdpa", "eager": "eager", "flex": "flex_attention"} | {
    f"flash_attention_{version}": f"flash_attention_{version}" for version in (2, 3, 4)
}
# The module of each flash-attn, and how to install it.
FLASH_ATTN = {
    "flash_attention_4": ("flash_attn.cute", "pip install 'longreach[fa4]'"),
    "flash_attention_3": ("flash_attn_interface", "build it from github.com/Dao-AILab/flash-attention, hopper/"),
    "flash_attention_2": ("flash_attn", "pip install 'longreach[flash]'"),
}


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """A preset's `[model]` table.

    name: a catalogue name, a folder or GGUF file on this machine, or a Hugging Face id.
    label: the name in tables and results; where none is given, the name, or the last part of a path.
    attention: the backend, see `harness.models.attention`.
    gguf_file: the file to load from a folder that holds GGUF weights.
    rope: RoPE facts that override the configuration's (`[model.rope]`, keys in `ROPE_KEYS`).
    backend: what runs it; `vllm` generates only, see `harness.models.vllm`. vllm: its settings (`[model.vllm]`).
    """

    name: str
    label: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Attention = "auto"
    revision: str | None = None
    gguf_file: str | None = None
    trust_remote_code: bool = False
    rope: dict[str, JSON] | None = None
    backend: Backend = "transformers"
    vllm: dict[str, JSON] | None = None

    def __post_init__(self) -> None:
        if self.vllm is not None and self.backend != "vllm":
            raise ValueError("[model.vllm] belongs to backend = 'vllm', which is not set")
        if not self.name:
            raise ValueError("name is empty: it should be a catalogue name, a folder, or a Hugging Face id")
        if self.label is None:
            path = Path(self.name).expanduser()
            object.__setattr__(self, "label", path.resolve().name if path.exists() else self.name)


def with_weights_at_hand(request: ModelRequest) -> ModelRequest:
    """A request for searching or training. Raises RequestError for a backend that only generates."""
    if request.backend != "transformers":
        raise RequestError(
            f"model '{request.label}': backend = '{request.backend}' is for `run` alone: leave it out here"
        )
    return request


def check(request: ModelRequest) -> None:
    """Raises RequestError for everything that would stop this model from loading, before anything heavy starts."""
    from harness.models.rope_facts import rope_spec

    source = locate(request)
    rope_override(request)
    if request.backend == "vllm":
        from harness.models.vllm.check import check_request

        check_request(request, source)
    _check_attention(request.attention)
    if source.gguf is not None:
        files.check_gguf(source.gguf)
    elif source.folder is not None:
        files.check_folder(source.folder, trust_remote_code=request.trust_remote_code)
    else:
        hub.check_available(source.repo_id, source.revision)
    rope_spec(request)


def _check_attention(attention: str) -> None:
    module, install = FLASH_ATTN.get(attention, ("json", ""))
    package, _, part = module.partition(".")
    if find_spec(package) is None or (part and find_spec(module) is None):
        raise RequestError(
            f"attention = '{attention}': the package {module} is not installed ({install}); "
            "attention = 'auto' takes the best that is"
        )


def identity(request: ModelRequest) -> dict[str, str]:
    """What the model's files hold: sha256 of the weights, the configuration and the tokenizer.

    One file gives the sha256 of its bytes; several, that of the canonical JSON of name -> sha256. A Hugging Face
    id gives the resolved `commit`, which fixes every file, and `weights`. Raises RequestError.
    """
    source = locate(request)
    if source.repo is not None:
        return hub.identity(source.repo, source.revision)
    if source.gguf is not None:
        return dict.fromkeys(("weights", "config", "tokenizer"), file_sha256(source.gguf))
    assert source.folder is not None
    groups = files.groups(source.folder, code=request.trust_remote_code)
    return {name: combined({path.name: file_sha256(path) for path in paths}) for name, paths in groups.items()}


def model_params(request: ModelRequest) -> dict[str, JSON]:
    """What can move a number besides the files: it enters a cell's key."""
    engine = {}
    if request.backend == "vllm":
        from harness.models.vllm.settings import identity as engine_identity

        engine = {"backend": engine_identity(request.vllm)}
    return {
        "revision": request.revision,
        "trust_remote_code": request.trust_remote_code,
        "rope": rope_override(request),
        **engine,
    }


def rope_override(request: ModelRequest) -> dict[str, JSON]:
    """The RoPE facts that override the configuration: the request's over the catalogue's. Raises RequestError."""
    known = CATALOGUE.get(request.name)
    given = request.rope or {}
    check_rope_keys(given)
    return {**(known.rope if known else {}), **given}


def check_rope_keys(rope: Mapping[str, JSON]) -> None:
    """Raises RequestError for a `[model.rope]` key that is unknown, or a value that cannot be."""
    for key, value in rope.items():
        if key not in ROPE_KEYS:
            raise RequestError(f"[model.rope] has no key '{key}': {did_you_mean(key, ROPE_KEYS)}")
        convert(value, ROPE_KEYS[key], where=f"[model.rope] {key}")
        if ROPE_KEYS[key] in (int, float) and not 0 < value < float("inf"):
            raise RequestError(f"[model.rope] {key} = {value}: it should be positive")


def fingerprint(request: ModelRequest) -> dict[str, str]:
    """Everything of a model that can move a number, as hashes: its files, and the request's own settings."""
    return {**identity(request), "params": content_hash(model_params(request))}
