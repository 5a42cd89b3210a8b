"""Cross-entropy from hidden states, without the matrix of logits.

Shape letters: N places with a label, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import RequestError

Head = Callable[[Tensor], Tensor]  # (N, H) to (N, V)


def chunked_loss(
    head: Head, weights_of_head: Sequence[Tensor], hidden_NH: Tensor, labels_N: Tensor, weights_N: Tensor, chunk: int
) -> Tensor:
    """The sum of weight x cross-entropy, in float32 at least; `chunk` x V logits are held at a time.

    head: gives logits, from hidden states and `weights_of_head` only. Places of weight 0 do not count.
    The gradient is computed on the way forward, so that no logit is computed twice: backward only scales it.
    """
    loss: Tensor = _ChunkedLoss.apply(head, chunk, labels_N, weights_N, hidden_NH, *weights_of_head)
    return loss


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, head: Head, chunk: int, labels_N: Tensor, weights_N: Tensor, hidden_NH: Tensor, *params: Tensor
    ) -> Tensor:
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        loss = torch.zeros((), dtype=wide, device=hidden_NH.device)
        needed = ctx.needs_input_grad[4:]
        totals = [torch.zeros_like(p, dtype=wide) if due else None for p, due in zip(params, needed[1:], strict=True)]
        grad_NH = torch.empty_like(hidden_NH) if any(needed) else None
        for start in range(0, len(labels_N), chunk):
            part = slice(start, start + chunk)
            with torch.enable_grad():
                hidden_CH = hidden_NH[part].detach().requires_grad_(any(needed))
                logits_CV = head(hidden_CH).to(wide)
                losses_C = nn.functional.cross_entropy(logits_CV, labels_N[part], reduction="none")
                weighted = (losses_C * weights_N[part].to(wide)).sum()
            loss += weighted.detach()
            if grad_NH is not None:
                due = [p for p, total in zip(params, totals, strict=True) if total is not None]
                grad_CH, *grads = torch.autograd.grad(weighted, [hidden_CH, *due])
                grad_NH[part] = grad_CH
                for total, grad in zip((t for t in totals if t is not None), grads, strict=True):
                    total += grad
        kept = [grad_NH, *(None if t is None else t.to(p.dtype) for t, p in zip(totals, params, strict=True))]
        ctx.save_for_backward(*kept)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (scale,) = upstream
        grads = [None if grad is None else grad * scale.to(grad.dtype) for grad in ctx.saved_tensors]
        return (None, None, None, None, *grads)


def check_liger(hf: Any, device: torch.device) -> None:
    """Raises RequestError where liger-kernel's loss cannot be had."""
    if device.type != "cuda":
        raise RequestError(f"loss = 'liger' needs a GPU, this device is {device.type}: loss should be 'chunked'")
    if find_spec("liger_kernel") is None:
        raise RequestError("loss = 'liger' needs liger-kernel: pip install 'longreach[liger]', or loss = 'chunked'")
    config = hf.config.get_text_config(decoder=True)
    for name in ("logit_scale", "logits_scaling", "final_logit_softcapping"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise RequestError(f"loss = 'liger' does not compute {name} of {type(hf).__name__}: use loss = 'chunked'")


def liger_loss(linear: nn.Linear, hidden_NH: Tensor, labels_N: Tensor, weights_N: Tensor) -> Tensor:
    """The same sum by liger-kernel's fused kernel; its gradients are added up in float32.

    The kernel knows no weight a token, so it runs once for every weight that occurs.
    """
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    summed = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)
    loss = hidden_NH.sum() * 0.0  # in the graph even where nothing has a weight
    for weight in weights_N.unique().tolist():
        if weight > 0:
            at_N = weights_N == weight
            loss = loss + weight * summed(linear.weight, hidden_NH[at_N], labels_N[at_N], linear.bias)
    return loss
