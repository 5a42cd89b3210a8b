"""What runs a model: transformers in this process, or an engine of vLLM."""

from typing import TYPE_CHECKING, Any

import torch

from harness.models import loading
from harness.models.request import ModelRequest
from harness.models.spreading import devices_from

if TYPE_CHECKING:
    from harness.models.vllm.model import VllmModel


def load(
    request: ModelRequest, *, device: str, may_offload: bool = False, n_devices: int = 1
) -> "loading.LoadedModel | VllmModel":
    """The model behind the backend that it asks for; see `loading.load`. Raises RequestError."""
    if request.backend == "vllm":
        from harness.models.vllm import model as vllm

        return vllm.load(request, device=device)
    return loading.load(request, device=device, may_offload=may_offload, n_devices=n_devices)


def close(model: Any) -> None:
    """Ends what a model runs besides this process; it starts again when it is asked."""
    if hasattr(model, "close"):
        model.close()


def check_machine(request: ModelRequest, device: torch.device, n_devices: int = 1) -> None:
    """Raises RequestError where a device, or so many of its kind, cannot run the model or hold its weights."""
    if request.backend == "vllm":
        from harness.models.vllm import model as vllm

        vllm.check_machine(request, device)
    else:
        loading.check_machine(request, *devices_from(device, n_devices))
