"""Small random models of several families, saved as a user's folder would be."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GlmConfig,
    GPTNeoXConfig,
    LlamaConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from harness.models.loading import LoadedModel

TINY_LLAMA = Path(str(files("harness") / "assets" / "tiny-llama"))

_SIZES = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.2,  # wide enough that attention, and so RoPE, moves the logits
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 16}


def _rope(rope_theta: float, **more: object) -> dict:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": rope_theta, **more}}


def attention(name: str) -> str:
    """Gemma 2 caps its attention logits, which only the eager attention of these does."""
    return "eager" if name == "gemma2" else "auto"


CONFIGS = {
    "llama": lambda: LlamaConfig(**_GROUPED, **_rope(1e4)),
    "llama-linear": lambda: LlamaConfig(**_GROUPED, **_rope(1e4, rope_type="linear", factor=2.0)),
    "qwen2": lambda: Qwen2Config(**_GROUPED, **_rope(1e6)),
    "qwen3": lambda: Qwen3Config(**_GROUPED, **_rope(1e6)),
    "phi3": lambda: Phi3Config(**_SIZES, num_key_value_heads=2, **_rope(1e4, partial_rotary_factor=0.75)),
    "gemma2": lambda: Gemma2Config(**_GROUPED, **_rope(1e4), sliding_window=16, final_logit_softcapping=5.0),
    "gemma3": lambda: Gemma3TextConfig(
        **_GROUPED,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "gpt-neox": lambda: GPTNeoXConfig(**_SIZES, **_rope(2e4, partial_rotary_factor=0.25)),
    "cohere": lambda: CohereConfig(**_SIZES, num_key_value_heads=2, logit_scale=0.5, **_rope(1e4)),
    "glm": lambda: GlmConfig(**_GROUPED, **_rope(1e4, partial_rotary_factor=0.5)),
}


def random_model(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def add_tokenizer(folder: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY_LLAMA / name, folder / name)
    return folder


def saved(folder: Path, config) -> Path:
    """A random model of the configuration, with tiny-llama's tokenizer beside it."""
    random_model(config).save_pretrained(folder)
    return add_tokenizer(folder)


@contextmanager
def chunked(model: LoadedModel, chunk: int) -> Iterator[None]:
    """The model reads so many tokens in a pass."""
    before, model.limits.chunk = model.limits.chunk, chunk
    try:
        yield
    finally:
        model.limits.chunk = before


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
