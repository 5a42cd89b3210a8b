"""A model over several GPUs, for weights, keys and values that one cannot hold: some layers on each, one after another.

A layer's weights, and its keys and values with them, lie on one device; its inputs are moved there when it is called.
All else, the embedding and the head above all, stands on the first device, where tokens come in and logits come out.
The devices work in turn: this brings memory, not speed.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import RequestError


def devices_from(device: torch.device, n_devices: int) -> tuple[torch.device, ...]:
    """The devices of a model that is asked for so many. Raises RequestError where they are not there.

    A processor is one, whatever is asked for.
    """
    if n_devices == 1 or device.type != "cuda":
        return (device,)
    if device.index is not None:
        raise RequestError(
            f"[run] gpus = {n_devices} takes the first {n_devices} GPUs it sees, not '{device}': "
            "device should be cuda, and CUDA_VISIBLE_DEVICES name them"
        )
    there = torch.cuda.device_count()
    if there < n_devices:
        raise RequestError(f"[run] gpus = {n_devices}: here {'is' if there == 1 else 'are'} {there}")
    return tuple(torch.device("cuda", index) for index in range(n_devices))


def place(hf: Any, devices: Sequence[torch.device]) -> None:
    """Moves a model to its devices, as many layers to each. Raises RequestError for more devices than layers."""
    first = devices[0]
    if len(devices) == 1:
        hf.to(first)
        return
    layers = _layers(hf)
    if len(layers) < len(devices):
        raise RequestError(
            f"[run] gpus = {len(devices)}: the model has {len(layers)} layers, too few for a part on each"
        )
    for i, layer in enumerate(layers):
        _stand(layer, devices[i * len(devices) // len(layers)])
    for module in (*hf.base_model.children(), *hf.children()):
        if module is not layers and module is not hf.base_model:
            _stand(module, first)


def _stand(module: nn.Module, home: torch.device) -> None:
    module.to(home)
    module.register_forward_pre_hook(partial(_follow, home), with_kwargs=True)


def _layers(hf: Any) -> nn.ModuleList:
    """The layers that a model runs one after another."""
    n_layers = hf.config.get_text_config(decoder=True).num_hidden_layers
    for module in hf.base_model.children():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return module
    raise RequestError(
        f"{type(hf).__name__} has no list of its {n_layers} layers: [run] gpus should be at most 1 for it"
    )


def _follow(home: torch.device, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """What a module is given, on its device, which kernels that ask for the current one get as well."""
    if home.type == "cuda" and torch.cuda.is_initialized():
        torch.cuda.set_device(home)
    return _moved(args, home), _moved(kwargs, home)


def _moved(given: Any, home: torch.device) -> Any:
    """Tensors on a device, in whatever tuples, lists and dictionaries; a cache stays as it is."""
    if isinstance(given, Tensor):
        return given.to(home)
    if type(given) in (tuple, list):
        return type(given)(_moved(one, home) for one in given)
    if type(given) is dict:
        return {name: _moved(one, home) for name, one in given.items()}
    return given
