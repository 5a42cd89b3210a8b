"""Attention kernels for sequences whose queries are the last of their keys, and for rows of different lengths.

Queries are the last `L` of the `S` keys, and causal. Where a name is asked for, it is what a record says ran.

Shape letters: B batch, H heads, G heads of keys, L queries, S keys, D head size, T tokens of all sequences together.
"""

import importlib
import importlib.util
import inspect
import itertools
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

_HALF = (torch.bfloat16, torch.float16)
_MODULES = {4: "flash_attn.cute", 3: "flash_attn_interface", 2: "flash_attn"}  # of flash-attn's versions


class Span(NamedTuple):
    """Queries that stand together, the last of the first `n_keys` keys of a row."""

    row: int
    n_queries: int
    n_keys: int


def can_count(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether `counted` can run."""
    return device.type == "cuda" and dtype in _HALF and head_size <= 256 and "seqused_k" in _varlen_options()


@cache
def installed_flash_attn() -> int | None:
    """The newest version of flash-attn that is installed."""
    for version, name in _MODULES.items():
        try:
            if importlib.util.find_spec(name) is not None:
                return version
        except ModuleNotFoundError:  # the package above it
            continue
    return None


def ragged(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> tuple[Tensor, str]:
    """The last queries of each sequence against all its keys; (B, L, H, D)."""
    if query.shape[-1] != value.shape[-1]:
        return masked(query, key, value, scaling), "math"
    if query.device.type == "cpu":
        # The log-sum-exp that joins two parts has no gradient.
        learns = torch.is_grad_enabled() and any(states.requires_grad for states in (query, key, value))
        return (masked if learns else _two_parts)(query, key, value, scaling), "flash"
    if query.dtype not in _HALF or query.shape[-1] > 256:
        return _flex(query, key, value, scaling), "flex"
    B, _, L, _ = query.shape
    q_THD, k_TGD, v_TGD = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    S = key.shape[2]
    out_THD = _varlen(q_THD, k_TGD, v_TGD, _ends(B, L, query), _ends(B, S, query), L, S, scaling)
    return out_THD.unflatten(0, (B, L)), "varlen"


def packed(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, given: Mapping[str, Any]
) -> tuple[Tensor, str]:
    """Documents one behind the other in one row, as `cu_seq_lens_q`, ... of transformers say; (1, T, H, D)."""
    q_THD, k_TGD, v_TGD = (states[0].transpose(0, 1) for states in (query, key, value))
    ends_q, ends_k = given["cu_seq_lens_q"], given["cu_seq_lens_k"]
    if query.device.type == "cuda" and query.dtype in _HALF:
        longest_q, longest_k = given["max_length_q"], given["max_length_k"]
        return _varlen(q_THD, k_TGD, v_TGD, ends_q, ends_k, longest_q, longest_k, scaling)[None], "varlen"
    sizes = ends_q.diff().tolist()  # split, not sliced: a slice's gradient fills the whole row with zeros
    parts = zip(*(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
    outs = [_sdpa(q, k, v, scaling, causal=True) for q, k, v in parts]
    return torch.cat(outs, dim=2).transpose(1, 2), "flash" if query.device.type == "cpu" else "efficient"


def counted(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, lengths_B: Tensor) -> tuple[Tensor, str]:
    """One query a row against the first `lengths_B` of the row's keys, which lie token by token; (B, 1, H, D)."""
    from torch.nn.attention.varlen import varlen_attn

    B, _, S, _ = key.shape
    out_THD: Any = varlen_attn(
        query[:, :, 0],
        key.transpose(1, 2).flatten(0, 1),
        value.transpose(1, 2).flatten(0, 1),
        _ends(B, 1, query),
        _ends(B, S, query),
        1,
        S,
        scale=scaling,
        seqused_k=lengths_B.to(key.device),
        enable_gqa=True,
    )
    return out_THD[:, None], "varlen"


def by_row(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, spans: Sequence[Span]
) -> tuple[Tensor, str]:
    """Queries (T, H, 1, D) against the keys of the rows they belong to, causal; (T, 1, H, D).

    Neighbouring rows with as many queries are one call, which more processors can share.
    """
    n_shared = query.shape[1] // key.shape[1]  # heads that share their keys: more queries to these
    outs, at = [], 0
    for _, group in itertools.groupby(
        enumerate(spans), lambda placed: (placed[1].row - placed[0], placed[1].n_queries)
    ):
        run = [span for _, span in group]
        rows, L, S = slice(run[0].row, run[-1].row + 1), run[0].n_queries, max(span.n_keys for span in run)
        query_BLHD = query[at : at + len(run) * L, :, 0].unflatten(0, (-1, L))
        query_BGQD = query_BLHD.unflatten(2, (-1, n_shared)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        out_BGQD = torch.nn.functional.scaled_dot_product_attention(
            query_BGQD, key[rows, :, :S], value[rows, :, :S], attn_mask=_seen(run, n_shared, key.device), scale=scaling
        )
        outs.append(out_BGQD.unflatten(2, (n_shared, L)).permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1))
        at += len(run) * L
    return torch.cat(outs)[:, None], "flash" if query.shape[-1] == value.shape[-1] else "math"


def _seen(run: Sequence[Span], n_shared: int, device: torch.device) -> Tensor | None:
    """Which keys (B, 1, Q, S) the queries of rows see; None where each sees all."""
    L, ends = run[0].n_queries, [span.n_keys for span in run]
    if L == 1 and len(set(ends)) == 1:
        return None
    ends_BL = torch.tensor(ends, device=device)[:, None] - torch.arange(L - 1, -1, -1, device=device)
    mask_BLS = torch.arange(max(ends), device=device) < ends_BL[..., None]
    return mask_BLS.repeat(1, n_shared, 1)[:, None]


def flash_attn(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> tuple[Tensor, str]:
    """flash-attn on whole causal sequences; (B, L, H, D)."""
    version = installed_flash_attn()
    assert version is not None
    function = importlib.import_module(_MODULES[version]).flash_attn_func
    out = function(*(states.transpose(1, 2) for states in (query, key, value)), softmax_scale=scaling, causal=True)
    return _first(out), f"flash_attention_{version}"


def _varlen(
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    ends_q: Tensor,
    ends_k: Tensor,
    longest_q: int,
    longest_k: int,
    scaling: float | None,
) -> Tensor:
    """PyTorch's kernel for sequences of different lengths, or flash-attn's where there is none."""
    if _varlen_options():
        from torch.nn.attention.varlen import varlen_attn

        # Before PyTorch 2.13 it took grouped heads without being told.
        grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in _varlen_options() else {}
        return _first(varlen_attn(
            query_THD, key_TGD, value_TGD, ends_q, ends_k, longest_q, longest_k,
            scale=scaling, window_size=(-1, 0), **grouped,
        ))  # fmt: skip
    version = installed_flash_attn()
    if version is None:
        raise RuntimeError("neither torch.nn.attention.varlen nor flash-attn is there: attention should be 'sdpa'")
    function = importlib.import_module(_MODULES[version]).flash_attn_varlen_func
    return _first(
        function(
            query_THD, key_TGD, value_TGD, cu_seqlens_q=ends_q, cu_seqlens_k=ends_k,
            max_seqlen_q=longest_q, max_seqlen_k=longest_k, softmax_scale=scaling, causal=True,
        )
    )  # fmt: skip


@cache
def _varlen_options() -> frozenset[str]:
    """The arguments of PyTorch's kernel for sequences of different lengths; none where it is not there."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def _two_parts(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Attention to what came before, all of it, and to what is read now, causal; joined by their log-sum-exp.

    Neither part needs a mask.
    """
    n_groups, n_before = query.shape[1] // key.shape[1], key.shape[2] - query.shape[2]
    if n_groups > 1:
        key, value = (states.repeat_interleave(n_groups, dim=1) for states in (key, value))
    cpu_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if n_before == 0:
        return cpu_flash(query, key, value, 0.0, True, scale=scaling)[0].transpose(1, 2)
    before, lse_before = cpu_flash(query, key[:, :, :n_before], value[:, :, :n_before], 0.0, False, scale=scaling)
    now, lse_now = cpu_flash(query, key[:, :, n_before:], value[:, :, n_before:], 0.0, True, scale=scaling)
    share = torch.sigmoid(lse_before - lse_now)[..., None]  # of the first part
    return torch.lerp(now.float(), before.float(), share.float()).to(query.dtype).transpose(1, 2)


def _flex(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask

    L, S = query.shape[2], key.shape[2]
    n_before = torch.tensor(S - L, device=query.device)

    def causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return q + n_before >= k

    mask = create_block_mask(causal, None, None, L, S, device=str(query.device))
    out = _compiled_flex()(query, key, value, block_mask=mask, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2)


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def masked(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """With a dense mask, for few queries, or heads whose keys and values differ in size; (B, L, H, D)."""
    L, S = query.shape[2], key.shape[2]
    mask_LS = torch.ones(L, S, dtype=torch.bool, device=query.device).tril(S - L)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask_LS, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    ).transpose(1, 2)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, *, causal: bool) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=causal, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )


def _ends(n_sequences: int, length: int, like: Tensor) -> Tensor:
    """Where sequences of one length begin and end: 0, length, 2 length, ..."""
    return torch.arange(n_sequences + 1, device=like.device, dtype=torch.int32) * length


def _first(out: Any) -> Tensor:
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found
