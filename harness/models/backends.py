"""What runs a model: transformers in this process, or an engine of vLLM."""

from typing import TYPE_CHECKING, Any

import torch

from harness.models import loading
from harness.models.request import ModelRequest

if TYPE_CHECKING:
    from harness.models.vllm.model import VllmModel


def load(request: ModelRequest, *, device: str, may_offload: bool = False) -> "loading.LoadedModel | VllmModel":
    """The model behind the backend that it asks for; see `loading.load`. Raises RequestError."""
    if request.backend == "vllm":
        from harness.models.vllm import model as vllm

        return vllm.load(request, device=device)
    return loading.load(request, device=device, may_offload=may_offload)


def close(model: Any) -> None:
    """Ends what a model runs besides this process; it starts again when it is asked."""
    if hasattr(model, "close"):
        model.close()


def check_machine(request: ModelRequest, device: torch.device) -> None:
    """Raises RequestError where a device cannot run the model, or hold its weights."""
    if request.backend == "vllm":
        from harness.models.vllm import model as vllm

        vllm.check_machine(request, device)
    else:
        loading.check_machine(request, device)
