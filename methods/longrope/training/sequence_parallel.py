"""Ulysses sequence parallelism: processes read one segment together, each a part of its tokens.

Attention sees the whole segment, with a part of the heads in each process; so that any kernel for one process will do.
Source: arXiv:2309.14509 section 3.

Shape letters: B batch, H heads, L tokens of the segment, T tokens of this process, D head size, N processes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.errors import RequestError

_NAME = "longreach_ulysses"


@dataclass(frozen=True)
class Team:
    """Processes that read a segment together. index: this one's place among `size`; team: which of `n_teams`."""

    index: int
    size: int
    team: int
    n_teams: int

    def part(self, n_tokens: int) -> slice:
        """This process's tokens of a segment."""
        if n_tokens % self.size:
            raise RequestError(
                f"training: sequence_parallel = {self.size}: a segment has {n_tokens} tokens, "
                "it should be a multiple of that"
            )
        n = n_tokens // self.size
        return slice(self.index * n, (self.index + 1) * n)


def join(hf: Any, size: int, rank: int, world_size: int) -> Team:
    """The team of a process; the model's attention works over it from now on. Raises RequestError."""
    team = Team(rank % size, size, rank // size, world_size // size)
    if size == 1:
        return team
    config = hf.config.get_text_config(decoder=True)
    inner_name, n_key_heads = config._attn_implementation, config.num_key_value_heads
    setting = f"training: sequence_parallel = {size}"
    if world_size % size:
        raise RequestError(f"{setting}: there are {world_size} processes, it should divide them")
    if n_key_heads % size:
        raise RequestError(f"{setting}: the model has {n_key_heads} heads of keys, it should divide them")
    if not inner_name.startswith("longreach_"):
        raise RequestError(f"{setting} needs attention = 'auto', it is '{inner_name}'")
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        raise RequestError(f"{setting}: {type(hf).__name__} has layers without full attention")
    group, _ = torch.distributed.new_subgroups(group_size=size)
    inner = ALL_ATTENTION_FUNCTIONS[inner_name]

    def attend(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
    ) -> tuple[Tensor, None]:
        query, key, value = (to_heads(states, group) for states in (query, key, value))
        out_BLHD, _ = inner(module, query, key, value, None, **given)
        return to_tokens(out_BLHD, group), None

    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, _no_mask)
    hf.set_attn_implementation(_NAME)
    return team


def to_heads(states_BHTD: Tensor, group: Any) -> Tensor:
    """All tokens of a part of the heads (B, H / N, L, D), from a part of the tokens of all heads."""
    n = torch.distributed.get_world_size(group)
    parts = states_BHTD.unflatten(1, (n, -1)).movedim(1, 0)
    return _Exchange.apply(parts, group).movedim(0, 2).flatten(2, 3)


def to_tokens(out_BLHD: Tensor, group: Any) -> Tensor:
    """The way back: (B, T, H, D) from (B, L, H / N, D)."""
    n = torch.distributed.get_world_size(group)
    parts = out_BLHD.unflatten(1, (n, -1)).movedim(1, 0)
    return _Exchange.apply(parts, group).movedim(0, 2).flatten(2, 3)


class _Exchange(torch.autograd.Function):
    """The i-th of the first dimension goes to the i-th process; what comes stands in the senders' order."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: Any) -> Tensor:
        ctx.group = group
        parts = parts.contiguous()
        out = torch.empty_like(parts)
        torch.distributed.all_to_all_single(out, parts, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Exchange.apply(grads[0], ctx.group), None


def _no_mask(**given: Any) -> None:
    """Attention is causal over the whole segment, or inside the documents that `cu_seq_lens_q` tells."""
    if given.get("attention_mask") is not None:
        raise RequestError("sequence_parallel does not read segments that skip positions: leave 'pose' bins out")
