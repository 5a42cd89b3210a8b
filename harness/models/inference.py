"""Greedy generation, and the log-probabilities of given tokens.

Shape letters: L tokens of a chunk, R rows of a block, V vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.types import Output, Segment

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

# Tokens of one forward pass while a prompt is read. After the first pass, scaled dot product attention builds a
# mask of chunk x context: on a CPU that is cheap beside the arithmetic, on a GPU it loses the fast kernels.
PREFILL_CHUNK = {"cpu": 4096, "cuda": 131072}
# Logits of one block while segments are scored: 2^25 in float32 are 128 MiB.
_BLOCK_LOGITS = 1 << 25


def prefill_chunk(device: torch.device) -> int:
    """The most tokens that one forward pass reads on a device."""
    return PREFILL_CHUNK.get(device.type, PREFILL_CHUNK["cpu"])


@torch.no_grad()
def generate(
    model: "LoadedModel",
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    chunk: int | None = None,
) -> Output:
    """Greedy continuation of a prompt, up to an end-of-sequence token, the first stop text, or `max_new_tokens`.

    The text holds the new tokens only, without special tokens, and ends before the stop text; `token_ids` holds
    everything that was generated. Raises FloatingPointError on logits that are not finite.
    """
    if len(prompt_ids) < 1 or max_new_tokens < 1:
        raise ValueError(f"{len(prompt_ids)} prompt and {max_new_tokens} new tokens: there should be at least one each")
    start = time.perf_counter()
    cache = _new_cache(model)
    for ids in _chunks(prompt_ids, chunk or prefill_chunk(model.device)):
        logits_V = _forward(model, ids, cache)
    token = _greedy_token(logits_V)
    prefill_s = time.perf_counter() - start

    start = time.perf_counter()
    tokens = [token]
    text = _text(model, tokens) if stop else ""
    while token not in model.eos_ids and len(tokens) < max_new_tokens and not _found(text, stop):
        token = _greedy_token(_forward(model, [token], cache))
        tokens.append(token)
        if stop:
            text = _text(model, tokens)
    text = _text(model, tokens)
    ends = [text.index(end) for end in stop if end in text]
    return Output(
        text=text[: min(ends)] if ends else text,
        token_ids=tuple(tokens),
        prefill_s=prefill_s,
        decode_s=time.perf_counter() - start,
    )


@torch.no_grad()
def score_segments(model: "LoadedModel", segments: Sequence[Segment], *, chunk: int | None = None) -> Output:
    """The log-probability of every scored token of every segment, and whether it was the most probable one.

    Raises FloatingPointError where one is not finite.
    """
    start = time.perf_counter()
    scored = [_score(model, segment, chunk or prefill_chunk(model.device)) for segment in segments]
    return Output(
        logprobs=tuple(tuple(logprobs) for logprobs, _ in scored),
        greedy=tuple(tuple(greedy) for _, greedy in scored),
        prefill_s=time.perf_counter() - start,
    )


def _score(model: "LoadedModel", segment: Segment, chunk: int) -> tuple[list[float], list[bool]]:
    ids, first = segment.token_ids, segment.n_context - 1  # the first row that predicts a scored token
    if first < 0 or len(ids) <= segment.n_context:
        raise ValueError(
            f"a segment of {len(ids)} tokens, {segment.n_context} of context: it should score one at least"
        )
    targets_L = torch.tensor(ids[1:], device=model.device)
    cache = _new_cache(model)
    logprobs: list[float] = []
    greedy: list[bool] = []
    begin = 0
    for part in _chunks(ids[:-1], chunk):
        input_ids = torch.tensor([part], device=model.device)
        outputs = model.hf.base_model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        with _replayed(model.hf.base_model, outputs):
            for rows_R in _blocks(max(first - begin, 0), len(part), model):
                logits_RV = model.hf(input_ids=input_ids, logits_to_keep=rows_R).logits[0].float()
                wanted_R1 = targets_L[begin + rows_R, None]
                logprobs_R = logits_RV.gather(1, wanted_R1)[:, 0] - logits_RV.logsumexp(dim=1)
                logprobs += logprobs_R.tolist()
                greedy += (logits_RV.argmax(dim=1) == wanted_R1[:, 0]).tolist()
        begin += len(part)
    if not all(value > -float("inf") for value in logprobs):  # false for NaN too
        raise FloatingPointError("the model gave log-probabilities that are not finite")
    return logprobs, greedy


@contextmanager
def _replayed(base: torch.nn.Module, outputs: Any) -> Iterator[None]:
    """The base model returns these outputs instead of running.

    So the model's own head, with whatever scale or soft cap its class puts around it, can be asked for the logits of
    a few rows at a time.
    """
    try:
        base.forward = lambda *args, **kwargs: outputs  # an attribute of the object, over the class's method
        yield
    finally:
        base.__dict__.pop("forward", None)


def _blocks(begin: int, end: int, model: "LoadedModel") -> Iterator[Tensor]:
    rows = max(1, _BLOCK_LOGITS // model.hf.config.get_text_config(decoder=True).vocab_size)
    for at in range(begin, end, rows):
        yield torch.arange(at, min(at + rows, end), device=model.device)


def _chunks(ids: Sequence[int], size: int) -> Iterator[list[int]]:
    for at in range(0, len(ids), size):
        yield list(ids[at : at + size])


def _new_cache(model: "LoadedModel") -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.hf.config.get_text_config(decoder=True))


def _forward(model: "LoadedModel", ids: Sequence[int], cache: Any) -> Tensor:
    """The logits after the last of the next tokens; the cache grows by them."""
    input_ids = torch.tensor([ids], device=model.device)
    return model.hf(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]


def _greedy_token(logits_V: Tensor) -> int:
    top, token = logits_V.max(dim=-1)  # the maximum of anything with a NaN is NaN
    if not bool(torch.isfinite(top)):
        raise FloatingPointError(f"the model gave logits that are not finite (maximum {float(top)})")
    return int(token)


def _text(model: "LoadedModel", tokens: Sequence[int]) -> str:
    return model.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _found(text: str, stop: Sequence[str]) -> bool:
    return any(end in text for end in stop)
