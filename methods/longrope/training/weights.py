"""Weights as the optimizer sees them: float32, whatever the model computes in.

Names are the model's own. A tensor may be one of which each process holds a part (a `DTensor`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class MasterWeights:
    """A module's weights in float32, which gradients are added up in and an optimizer moves.

    Where the module computes in another type, its own are copies, written anew by `publish`; else they are the same.
    """

    def __init__(self, module: nn.Module, compute: torch.dtype) -> None:
        own = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.masters: dict[str, Tensor] = {}
        self._own = own
        self._is_split = compute != torch.float32
        for name, parameter in own.items():
            if parameter.dtype != torch.float32:
                raise ValueError(f"{name} is {parameter.dtype}: weights should be loaded in float32")
            self.masters[name] = parameter
            if self._is_split:
                self.masters[name] = nn.Parameter(parameter.detach().clone())
                parameter.data = parameter.data.to(compute)
                parameter.register_post_accumulate_grad_hook(_adding_to(self.masters[name]))

    def publish(self) -> None:
        """The module computes with the masters' present values."""
        if self._is_split:
            with torch.no_grad():
                for name, parameter in self._own.items():
                    parameter.copy_(self.masters[name])

    def gradients(self) -> list[Tensor]:
        """Every gradient there is, of the weights in their order."""
        return [master.grad for master in self.masters.values() if master.grad is not None]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process may hold a part; every process has to call this."""
    full: Any = getattr(tensor, "full_tensor", None)
    return tensor.detach() if full is None else full().detach()


def fill(tensor: Tensor, values: Tensor) -> None:
    """Writes all of a tensor; each process takes its part."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(tensor, DTensor):
        # Every process has read the same values: nothing needs to be sent.
        values = distribute_tensor(values.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
    with torch.no_grad():
        tensor.copy_(values)


def optimizer_moments(optimizer: torch.optim.Optimizer, masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdamW's moments by `name.exp_avg` and `name.exp_avg_sq`; zeros before the first step."""
    found = {}
    for name, master in masters.items():
        state = optimizer.state[master]
        for moment in ("exp_avg", "exp_avg_sq"):
            found[f"{name}.{moment}"] = state[moment] if moment in state else torch.zeros_like(master)
    return found


def set_moments(
    optimizer: torch.optim.Optimizer, masters: Mapping[str, Tensor], moments: Mapping[str, Tensor], step: int
) -> None:
    """Puts AdamW where it was after `step` steps."""
    for name, master in masters.items():
        state: dict[str, Tensor] = {"step": torch.tensor(float(step))}
        for moment in ("exp_avg", "exp_avg_sq"):
            state[moment] = torch.zeros_like(master)
            fill(state[moment], moments[f"{name}.{moment}"])
        optimizer.state[master] = state


def _adding_to(master: Tensor) -> Any:
    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        grad = parameter.grad.to(torch.float32)
        master.grad = grad if master.grad is None else master.grad.add_(grad)
        parameter.grad = None

    return add
