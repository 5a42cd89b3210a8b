"""The processes of a training, through accelerate: one, copies that share a batch, or FSDP2's shards.

`accelerate launch --config_file ...` says which; the committed files are in `accelerate/`.
"""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from harness.errors import RequestError
from harness.models.loading import check_device
from methods.longrope.training.settings import TrainingSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

CONFIGURATIONS = Path(__file__).parent / "accelerate"
_TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb"}


def start(settings: TrainingSettings, *, device: str, folder: Path) -> "Accelerator":
    """This process among the others. Raises RequestError for what is not installed or cannot be.

    device: as for a run; of several processes each takes its own GPU.
    """
    if find_spec("accelerate") is None:
        raise RequestError("training needs accelerate: pip install 'longreach[train]'")
    from accelerate import Accelerator

    found = check_device(device)
    if found.index:
        torch.cuda.set_device(found)
    _check_tracker(settings.tracker)
    accelerator = Accelerator(
        cpu=found.type == "cpu",
        mixed_precision="no",  # the types are ours to choose: see `MasterWeights` and `shard`
        log_with=None if settings.tracker == "none" else settings.tracker,
        project_dir=folder,
    )
    if is_sharded() and os.environ.get("FSDP_VERSION") != "2":
        raise RequestError("FSDP of version 1 was asked for: write fsdp_version: 2 in accelerate's configuration")
    return accelerator


def compute_dtype(settings: TrainingSettings, device: torch.device) -> torch.dtype:
    """What the model computes in."""
    dtype: torch.dtype = getattr(torch, dtype_name(settings, device))
    return dtype


def dtype_name(settings: TrainingSettings, device: torch.device) -> Literal["bfloat16", "float32"]:
    """The same by its name."""
    if settings.dtype == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    if settings.dtype == "native":
        return "bfloat16" if multiplies_bfloat16(device) else "float32"
    return settings.dtype


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself; one that does not takes some 50 times as long as for float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def is_sharded() -> bool:
    """Whether FSDP2 was asked for, as `accelerate launch` says it."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and torch.distributed.is_initialized()


def shard(module: torch.nn.Module, layers: Sequence[torch.nn.Module], device: torch.device, dtype: torch.dtype) -> None:
    """Splits a module's weights over all processes, in place: FSDP2, each of `layers` on its own, then what is left.

    Weights and the sums of gradients stay in float32. accelerate's own preparation knows GPUs only, wraps the head and
    casts what goes in.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)


def total(accelerator: "Accelerator", values: Tensor) -> Tensor:
    """The sum over all processes."""
    found: Any = accelerator.reduce(values, reduction="sum")
    return found


def sum_gradients(accelerator: "Accelerator", gradients: list[Tensor]) -> None:
    """Each process has the sum of all; FSDP2 has done it already."""
    if accelerator.num_processes > 1 and not is_sharded():
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)


def _check_tracker(name: str) -> None:
    if name in _TRACKERS and find_spec(_TRACKERS[name]) is None:
        raise RequestError(f"tracker = '{name}' needs {_TRACKERS[name]}: pip install {_TRACKERS[name]}")
