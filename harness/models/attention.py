"""Which kernel attends: the preset's `attention`, and the backends behind it, registered with transformers.

`auto` takes, for one whole causal sequence, the first that can run of cuDNN, flash-attn 4, 3 or 2 where installed,
PyTorch's flash, its memory-efficient kernel, and plain mathematics; for the later part of a prompt, a kernel for
sequences of different lengths (PyTorch's, then flash-attn's), then FlexAttention. A dense mask is the last resort, up
to `DENSE_LIMIT` elements. `cudnn`, `flash` and `math` fix the first choice; `varlen` takes the second one's for both.
The others are transformers' own.

Shape letters: B batch, H heads, L queries, S keys, D head size, T tokens of all sequences together.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from harness.errors import RequestError
from harness.models import kernels
from harness.models.request import FLASH_ATTN, THEIRS

DENSE_LIMIT = 8192 * 8192  # elements of a mask

_CUDNN, _FLASH, _EFFICIENT, _MATH = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
_NAMES = {_CUDNN: "cudnn", _FLASH: "flash", _EFFICIENT: "efficient", _MATH: "math"}
# For one whole causal sequence, in order.
_ORDERS: dict[str, tuple[SDPBackend, ...]] = {
    "auto": (_CUDNN, _FLASH, _EFFICIENT, _MATH),
    "cudnn": (_CUDNN,),
    "flash": (_FLASH,),
    "math": (_MATH,),
    "varlen": (_CUDNN, _FLASH, _EFFICIENT, _MATH),
}
# A single query: cuDNN would build a plan for every length of the keys.
_SINGLE_QUERY = (_FLASH, _EFFICIENT, _MATH)


@dataclass
class Attending:
    """What the engine tells attention while it runs, and what attention tells back.

    used: the backends that ran. lengths_B: for single queries, how many keys of each row count. spans: the batch is
    tokens of several rows of the cache, one behind the other. packed: the one row is documents one behind the other,
    and `cu_seq_lens_q`, ... are given to the model: full attention needs no mask. n_read: how many of a pass's last
    tokens have their hidden state read.
    """

    used: set[str] = field(default_factory=set)
    lengths_B: Tensor | None = None
    spans: Sequence[kernels.Span] = ()
    packed: bool = False
    n_read: int | None = None


_ATTENDING: ContextVar[Attending] = ContextVar("attending")


@contextmanager
def attending() -> Iterator[Attending]:
    """Notes the backends that run until the block ends."""
    note = Attending()
    token = _ATTENDING.set(note)
    try:
        yield note
    finally:
        _ATTENDING.reset(token)


@contextmanager
def reading(n_last: int) -> Iterator[None]:
    """Only the hidden states of a pass's last so many tokens are read, until the block ends.

    What the last layer would attend to for the others reaches nothing: on a CPU, `auto` leaves it out.
    """
    note = _ATTENDING.get(None) or Attending()
    note.n_read = n_last
    try:
        yield
    finally:
        note.n_read = None


def implementation(requested: str) -> str:
    """The name under which transformers knows a preset's `attention`."""
    if requested in THEIRS:
        return THEIRS[requested]
    for name in _ORDERS:
        AttentionInterface.register(f"longreach_{name}", partial(_attend, name))
        AttentionMaskInterface.register(f"longreach_{name}", partial(_mask, name))
    return f"longreach_{requested}"


def check(requested: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raises RequestError for a backend that cannot run on this device in this type."""
    half = dtype in (torch.bfloat16, torch.float16)
    if requested in ("cudnn", "flash", "varlen", *FLASH_ATTN) and not (device.type == "cuda" and half):
        raise RequestError(
            f"attention = '{requested}' needs a GPU and bfloat16 or float16, here are {device.type} and "
            f"{str(dtype).removeprefix('torch.')}: attention = 'auto' takes the best there is"
        )


def check_model(requested: str, hf: Any) -> None:
    """Raises RequestError for a model whose attention the backend does not compute."""
    config = hf.config.get_text_config(decoder=True)
    odd = {
        "caps its attention logits": getattr(config, "attn_logit_softcapping", None),
        "has attention sinks": any(name.endswith("sinks") for name, _ in hf.named_parameters()),
    }
    for what, found in odd.items():
        if found and requested not in ("eager", "flex", *FLASH_ATTN):
            raise RequestError(
                f"{type(hf).__name__} {what}, which attention = '{requested}' cannot: attention should be 'eager'"
            )


def takes_dense_mask(impl: str) -> bool:
    """Whether a ready mask (B, 1, L, S) of booleans may be given to the model."""
    return impl == "sdpa" or impl.startswith("longreach_")


def counts_lengths(impl: str, device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether single queries need no mask over rows of different lengths, only `Attending.lengths_B`."""
    return impl.startswith("longreach_") and impl != "longreach_math" and kernels.can_count(device, dtype, head_size)


def attends_by_row(impl: str, device: torch.device) -> bool:
    """Whether several tokens of each row may be read at once, by `Attending.spans`."""
    return impl == "longreach_auto" and device.type == "cpu"


# The mask


def _mask(name: str, **given: Any) -> Tensor | None:
    """None where a kernel needs no mask: behind it, queries are the last of the keys, and causal."""
    q_length, kv_length = given["q_length"], given["kv_length"]
    note = _ATTENDING.get(None)
    if note is not None and note.packed and given.get("local_size") is None:
        return None
    if given["mask_function"] is causal_mask_function and given.get("attention_mask") is None:
        whole = q_length in (1, kv_length)
        if whole or name != "math":
            return None
    if q_length * kv_length > DENSE_LIMIT:
        raise ValueError(
            f"attention = '{name}' would need a dense mask of {q_length} x {kv_length}, the limit is "
            f"{DENSE_LIMIT} elements: read the prompt in smaller chunks, or use bfloat16 on a GPU"
        )
    return sdpa_mask(**given)


# The attention


def _attend(
    name: str,
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: q (B, H, L, D), k and v (B, H, S, D); gives (B, L, H, D)."""
    for what in ("softcap", "s_aux", "position_bias"):
        if given.get(what) is not None:
            raise ValueError(f"attention = '{name}' does not compute {what}: attention should be 'eager'")
    note = _ATTENDING.get(None) or Attending()
    n_queries, n_keys = query.shape[2], key.shape[2]
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    plain = attention_mask is None and causal and not dropout
    if note.spans:
        assert plain, "only models whose every layer attends to everything before are read by row"
        out, used = kernels.by_row(query, key, value, scaling, note.spans)
    elif plain and given.get("cu_seq_lens_q") is not None:
        out, used = kernels.packed(query, key, value, scaling, given)
    elif plain and n_queries == 1 and note.lengths_B is not None:
        out, used = kernels.counted(query, key, value, scaling, note.lengths_B)
    elif plain and name == "auto" and note.n_read is not None and _gives_more(note.n_read, module, query, key):
        out, used = _last_of(note.n_read, query, key, value, scaling), "flash"
    elif plain and n_queries > 1 and (n_queries < n_keys or name == "varlen"):
        out, used = kernels.ragged(query, key, value, scaling)
    elif plain and n_queries > 1 and name == "auto" and _flash_attn_first(query, key, value):
        out, used = kernels.flash_attn(query, key, value, scaling)
    else:
        order = _SINGLE_QUERY if n_queries == 1 and name != "math" else _ORDERS[name]
        with _preferring(order, query):
            out, _ = sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout, scaling, is_causal, **given
            )
            used = _chosen(query, key, value, attention_mask, plain and n_queries > 1)
    note.used.add(used)
    return out, None


def _gives_more(n_read: int, module: torch.nn.Module, query: Tensor, key: Tensor) -> bool:
    """Whether this is the last layer, and it has queries that nobody reads and few others.

    On a GPU it is left to the fastest kernel.
    """
    config: Any = getattr(module, "config", None)
    is_last = getattr(module, "layer_idx", None) == getattr(config, "num_hidden_layers", 0) - 1
    few = n_read < query.shape[2] and n_read * key.shape[2] <= DENSE_LIMIT
    return is_last and few and query.device.type == "cpu"


def _last_of(n: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Attention for the last `n` queries, and zeros for those before; (B, L, H, D)."""
    B, H, L, _ = query.shape
    before_BLHD = query.new_zeros(B, L - n, H, value.shape[-1])
    if n == 0:
        return before_BLHD
    return torch.cat([before_BLHD, kernels.masked(query[:, :, -n:], key, value, scaling)], dim=1)


@contextmanager
def _preferring(order: tuple[SDPBackend, ...], query: Tensor) -> Iterator[None]:
    if query.device.type == "cpu" and order[0] is not _MATH:  # the one choice there is; the switch costs time
        yield
        return
    with sdpa_kernel(list(order), set_priority=True):
        yield


def _chosen(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> str:
    """The kernel that `scaled_dot_product_attention` takes."""
    groups = query.shape[1] != key.shape[1]
    choice: Any = SDPBackend(torch._fused_sdp_choice(query, key, value, mask, 0.0, causal, enable_gqa=groups))
    return _NAMES[choice]


def _flash_attn_first(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether flash-attn is installed and cuDNN, which goes before it, cannot run."""
    if query.device.type != "cuda" or kernels.installed_flash_attn() is None or query.dtype == torch.float32:
        return False
    with sdpa_kernel(list(_ORDERS["auto"]), set_priority=True):
        return _chosen(query, key, value, None, True) != "cudnn"
