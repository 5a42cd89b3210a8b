"""What a training step fills of one process's memory, by arithmetic.

Weights, gradients and moments are exact; activations are those of a gated feed-forward block with grouped attention.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from harness.errors import RequestError
from harness.models.memory import free_bytes
from methods.longrope.training.processes import compute_dtype
from methods.longrope.training.settings import TrainingSettings
from methods.longrope.training.step import layers

_FLOAT32 = 4


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes in one process.

    weights: float32, with the copies that are computed with. gathered: layers that FSDP2 has brought together, and
    their gradients. checkpoints: what layers read, kept until their gradient. layer: one layer's activations while
    its gradient is computed, its keys and values (of the whole segment, of this process's heads) included; all
    layers' without activation checkpointing. logits: a chunk, its softmax and gradient; head_gradient: of the output
    layer, held from the loss until it is added.
    """

    weights: int
    gradients: int
    moments: int
    gathered: int
    checkpoints: int
    layer: int
    logits: int
    head_gradient: int

    @property
    def total(self) -> int:
        """All of it; the allocator's own and the kernels' workspaces come on top."""
        return sum(asdict(self).values())


def check_fits(
    hf: Any, settings: TrainingSettings, device: torch.device, *, n_tokens: int, n_processes: int, sharded: bool
) -> None:
    """Raises RequestError where a processor's memory would not hold a step.

    A GPU says so itself; a host that runs out of memory ends processes.
    """
    if device.type != "cpu":
        return
    found = memory_estimate(hf, settings, n_tokens=n_tokens, n_processes=n_processes, sharded=sharded)
    need, free = found.total - found.weights, free_bytes(device)  # the weights are there
    if need * n_processes > free:
        raise RequestError(
            f"a segment of {n_tokens} tokens needs about {need * n_processes / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free: {ways_out(settings)}"
        )


def ways_out(settings: TrainingSettings) -> str:
    """What to change where a segment is larger than the memory."""
    ways = ["a shorter data.segment_length", "more processes under FSDP2", "sequence_parallel"]
    if not settings.activation_checkpointing:
        ways.insert(0, "activation_checkpointing = true")
    return f"{', '.join(ways[:-1])} or {ways[-1]} would do (batch_tokens would not: segments are read one by one)"


def memory_estimate(
    hf: Any, settings: TrainingSettings, *, n_tokens: int, n_processes: int = 1, sharded: bool = False
) -> MemoryEstimate:
    """The estimate for segments of `n_tokens`. hf: the model, on the device `meta` for all that is asked of it here.

    sharded: FSDP2 over all processes; else each holds the whole model.
    """
    config = hf.config.get_text_config(decoder=True)
    dtype = compute_dtype(settings, next(hf.parameters()).device)
    size = dtype.itemsize
    blocks = layers(hf)
    n_weights, n_block = _n_weights(hf), max(map(_n_weights, blocks))
    n_root = n_weights - sum(map(_n_weights, blocks))
    n_head = _n_weights(hf.get_output_embeddings())
    shares = n_processes if sharded else 1
    n_held = -(-n_weights // shares)
    copies = 0 if sharded or dtype == torch.float32 else n_weights * size
    # Two layers, since the next one is fetched early; a layer's gradient, and its float32 copy that is being summed.
    gathered = n_block * (3 * size + _FLOAT32) + n_root * 2 * size if sharded else 0
    n_here = n_tokens // settings.sequence_parallel
    activations = n_here * _layer_width(config) * size
    recomputed = settings.activation_checkpointing
    return MemoryEstimate(
        weights=n_held * _FLOAT32 + copies,
        gradients=n_held * _FLOAT32,
        moments=2 * n_held * _FLOAT32,
        gathered=gathered,
        checkpoints=len(blocks) * n_here * config.hidden_size * size if recomputed else 0,
        # What is kept for the gradient, and the gradients themselves of one layer.
        layer=activations * (2 if recomputed else len(blocks) + 1),
        logits=min(settings.loss_chunk, n_here) * config.vocab_size * (size + 3 * _FLOAT32),
        head_gradient=n_head * (_FLOAT32 + size),
    )


def _layer_width(config: Any) -> int:
    """Numbers a token of one layer's activations: two norms and residuals, q, k, v turned and not, output, gates."""
    heads = int(config.num_attention_heads)
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = (3 * heads + 3 * key_heads) * head_size
    intermediate = getattr(config, "intermediate_size", None)
    wide = intermediate if isinstance(intermediate, int) else 4 * config.hidden_size  # some list one a layer
    return int(6 * config.hidden_size + attention + 4 * wide)


def _n_weights(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
