"""AdamW, its learning rate over time, and the norm of a gradient of which each process may hold a part."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from methods.longrope.training.settings import TrainingSettings


def adamw(weights: Iterable[Tensor], settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimizer of some weights."""
    return torch.optim.AdamW(
        list(weights),
        lr=settings.learning_rate,
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


def learning_rate(settings: TrainingSettings, index: int, n_steps: int) -> float:
    """The rate of a step, from 0: it rises linearly, then stays or falls as a half cosine to the final one."""
    if index < settings.warmup_steps:
        return settings.learning_rate * (index + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    passed = (index - settings.warmup_steps) / max(1, n_steps - settings.warmup_steps)
    span = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * (1 + math.cos(math.pi * passed)) / 2


def gradient_norm(gradients: Sequence[Tensor]) -> float:
    """The norm of all of it; every process has to call this."""
    norm: Any = torch.nn.utils.get_total_norm(gradients)
    full = getattr(norm, "full_tensor", None)
    return float(norm if full is None else full())
