"""Passes through a model: tokens in, logits out only where they are read.

Shape letters: R rows, L tokens, H hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.models.attention import reading
from harness.models.caches import BufferCache, Cache, new_cache
from harness.models.memory import WINDOWED_CHUNK, check_fits

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

# Prompts are padded to multiples of so many tokens: kernels are planned, and graphs captured, by length.
_MULTIPLE = {"cuda": 256}


@contextmanager
def cache_for(model: "LoadedModel", n_rows: int, n_tokens: int) -> Iterator[Cache]:
    """A cache for sequences of at most so many tokens; the model keeps it for the next ones if nothing went wrong."""
    n_tokens = padded(model, n_tokens)
    kept, model.cache = model.cache, None
    if kept is None or not (kept.n_rows >= n_rows and n_tokens <= kept.capacity <= _most(model, n_tokens)):
        kept = None  # its memory is free before the next one is asked for
        check_fits(model, n_tokens)
        kept = new_cache(model, n_rows, n_tokens)
    yield kept
    if isinstance(kept, BufferCache):
        model.cache = kept


def padded(model: "LoadedModel", n_tokens: int) -> int:
    """The length that so many tokens are padded to."""
    multiple = _MULTIPLE.get(model.device.type, 1)
    return -(-n_tokens // multiple) * multiple


def read(model: "LoadedModel", cache: Cache, rows: slice, prompts: Sequence[Sequence[int]], start: int = 0) -> Tensor:
    """The logits (R, V) after the last token of each prompt; the cache holds them from now on.

    start: how many tokens of the prompts the cache holds already; each has more. Shorter prompts are padded behind
    their end, where nothing that counts looks.
    """
    length = max(map(len, prompts))
    ids_RL = torch.tensor([[*ids[start:], *[0] * (length - len(ids))] for ids in prompts], device=model.device)
    found: dict[int, Tensor] = {}
    first_read = min(map(len, prompts)) - 1
    for at, part_RL, hidden_RLH in hidden(model, cache, rows, ids_RL, start, first_read):
        for row, ids in enumerate(prompts):
            if at < len(ids) <= at + part_RL.shape[1]:
                found[row] = hidden_RLH[row, len(ids) - 1 - at]
        if len(found) == len(prompts):
            break
    return head(model, torch.stack([found[row] for row in range(len(prompts))]))


def hidden(
    model: "LoadedModel", cache: Cache, rows: slice, ids_RL: Tensor, start: int, first_read: int = 0
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Reads tokens that stand at `start` and behind, chunk by chunk: the chunk's place, tokens and hidden states.

    The last chunk may be longer than the tokens: it is padded. Hidden states before the place `first_read` are for
    nobody to read: they may be wrong.
    """
    chunk = min(model.limits.chunk, WINDOWED_CHUNK)
    if isinstance(cache, BufferCache):
        chunk = model.limits.chunk
        if start == 0:
            n_more = min(cache.capacity, padded(model, ids_RL.shape[1])) - ids_RL.shape[1]
            ids_RL = torch.nn.functional.pad(ids_RL, (0, n_more))
    for at in range(0, ids_RL.shape[1], chunk):
        part_RL = ids_RL[:, at : at + chunk]
        begin = start + at
        cache.reading(rows, begin)
        positions_1L = torch.arange(begin, begin + part_RL.shape[1], device=model.device)[None]
        n_unread = min(max(first_read - begin, 0), part_RL.shape[1])
        with reading(part_RL.shape[1] - n_unread):
            outputs = model.hf.base_model(
                input_ids=part_RL, position_ids=positions_1L, past_key_values=cache.hf, use_cache=True
            )
        yield begin, part_RL, outputs.last_hidden_state


def head(model: "LoadedModel", hidden_RH: Tensor) -> Tensor:
    """The logits (R, V) of hidden states, by the model's own head with whatever scale or cap its class puts around."""
    with _base_model_gives(model.hf.base_model, hidden_RH[None]):
        ids_1R = torch.zeros(1, len(hidden_RH), dtype=torch.long, device=hidden_RH.device)
        logits_RV: Tensor = model.hf(input_ids=ids_1R).logits[0]
    return logits_RV


@contextmanager
def _base_model_gives(base: torch.nn.Module, hidden_1RH: Tensor) -> Iterator[None]:
    """The base model returns these hidden states instead of running."""
    from transformers.modeling_outputs import MoeModelOutputWithPast

    outputs: Any = MoeModelOutputWithPast(last_hidden_state=hidden_1RH)  # has whatever a head may look for
    try:
        base.forward = lambda *args, **kwargs: outputs  # an attribute of the object, over the class's method
        yield
    finally:
        base.__dict__.pop("forward", None)


def _most(model: "LoadedModel", n_tokens: int) -> int:
    """The largest kept cache that serves so many tokens: a captured graph reads all of it."""
    return 2 * n_tokens if model.device.type == "cuda" else 1 << 62
