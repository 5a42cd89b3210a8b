"""Other weights in a loaded model's place: tensors change places, nothing is copied into the model's own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.errors import RequestError
from harness.models import files
from harness.models.memory import check_weights_fit

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldWeights:
    """Weights of a folder by the names of a model's parameters, tied ones once. key: what they are known by."""

    key: str
    tensors: Mapping[str, Tensor]


def held_weights(
    model: "LoadedModel", folder: Path, *, key: str, check: Callable[[], None] | None = None
) -> HeldWeights:
    """A folder's weights on the model's device, each in the type of the one whose place it takes.

    The model holds them for the next time, in place of another folder's. check: called before they are read.
    Raises RequestError where they are not a weight for each of the model's.
    """
    if model.held is None or model.held.key != key:
        if check is not None:
            check()
        model.held = None  # its memory is free before the next ones are asked for
        model.held = HeldWeights(key=key, tensors=_read(model, folder))
    return model.held


@contextmanager
def swapped_weights(model: "LoadedModel", weights: HeldWeights) -> Iterator["LoadedModel"]:
    """The model with these weights, until the block ends; then its own tensors are back, the same ones."""
    own = {name: parameter.data for name, parameter in model.hf.named_parameters()}
    try:
        _point(model.hf, weights.tensors)
        yield model
    finally:
        _point(model.hf, own)


def _point(hf: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in hf.named_parameters():
        parameter.data = tensors[name]


def _read(model: "LoadedModel", folder: Path) -> dict[str, Tensor]:
    files.check_weights(folder)
    wanted = dict(model.hf.named_parameters())
    n_bytes = sum(parameter.nbytes for parameter in wanted.values())
    check_weights_fit(f"{model.request.label} with the weights of {folder}", n_bytes, *model.devices)
    found = _parameters(type(model.hf), model.hf.dtype, folder)
    for name, parameter in wanted.items():
        if name not in found or found[name].shape != parameter.shape:
            has = f"shape {list(found[name].shape)}" if name in found else "none"
            raise RequestError(
                f"checkpoint '{folder}': tensor {name} has {has}, the model's has shape {list(parameter.shape)}: "
                "they should be equal"
            )
    if more := sorted(found.keys() - wanted):
        raise RequestError(f"checkpoint '{folder}' has {len(more)} tensors that the model lacks (first: {more[0]})")
    return {name: found[name].to(parameter) for name, parameter in wanted.items()}


def _parameters(cls: Any, dtype: torch.dtype, folder: Path) -> dict[str, Tensor]:
    """Through the model's own class: it knows the names that its tensors have in files."""
    from harness.models.loading import quiet

    with quiet():
        hf, info = cls.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused by the caller, by name
        )
    strange = {*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])}
    if more := sorted(info["unexpected_keys"]):
        raise RequestError(f"checkpoint '{folder}' has {len(more)} tensors that the model lacks (first: {more[0]})")
    return {name: parameter.data for name, parameter in hf.named_parameters() if name not in strange}
