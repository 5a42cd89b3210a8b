"""How a preset sets vLLM's engines up (`[model.vllm]`), and what of it a result's identity holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec

from harness.catalogue import build
from harness.environment import package_version
from harness.errors import RequestError
from harness.types import JSON

INSTALL = "pip install 'longreach[vllm]'"


@dataclass(frozen=True, kw_only=True)
class VllmSettings:
    """Arguments of vLLM's `LLM`, under its names for them. All of them can move a number's last digits.

    gpu_memory_utilization: the part of a GPU's memory that an engine takes, weights and cache together.
    tensor_parallel_size: GPUs that the model is spread over.
    """

    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    enforce_eager: bool = False
    enable_prefix_caching: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"gpu_memory_utilization = {self.gpu_memory_utilization:g}: it should be above 0 and at most 1"
            )
        if self.tensor_parallel_size < 1:
            raise ValueError(f"tensor_parallel_size = {self.tensor_parallel_size}: it should be at least 1")


def settings(table: Mapping[str, JSON] | None) -> VllmSettings:
    """A `[model.vllm]` table as settings. Raises RequestError."""
    found: VllmSettings = build(VllmSettings, table or {}, where="[model.vllm]")
    return found


def identity(table: Mapping[str, JSON] | None) -> dict[str, JSON]:
    """The engine as a part of a cell's key: vLLM's version, and every setting."""
    return {"name": "vllm", "version": package_version("vllm"), **asdict(settings(table))}


def check_installed() -> None:
    """Raises RequestError where there is no vLLM."""
    if find_spec("vllm") is None:
        raise RequestError(f"backend = 'vllm': the package vllm is not installed ({INSTALL})")
