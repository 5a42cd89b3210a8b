"""The log-probabilities of given tokens, without ever holding the logits of a whole sequence.

Shape letters: R rows of a block, L tokens, V vocabulary.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from harness.models.attention import attending
from harness.models.caches import Cache
from harness.models.forward import cache_for, head, hidden
from harness.models.prefixes import shared_length
from harness.types import Output, Segment

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

_Scored = tuple[tuple[float, ...], tuple[bool, ...]]

# Logits of one block: 2^25 in float32 are 128 MiB.
_BLOCK_LOGITS = 1 << 25


@torch.no_grad()
def score_segments(model: "LoadedModel", segments: Sequence[Segment]) -> Output:
    """The log-probability of every scored token of every segment, and whether it was the most probable one.

    What all segments begin with is read once. Raises FloatingPointError where one is not finite.
    """
    start = time.perf_counter()
    for segment in segments:
        if segment.n_context < 1 or len(segment.token_ids) <= segment.n_context:
            raise ValueError(
                f"a segment of {len(segment.token_ids)} tokens, {segment.n_context} of context: "
                "it should score one at least"
            )
    longest = max(len(segment.token_ids) for segment in segments)
    scored: list[_Scored] = []
    with attending() as note:
        for group in [list(segments)] if model.can_batch else [[segment] for segment in segments]:
            with cache_for(model, 1, longest) as cache:
                scored += _behind_shared_prefix(model, cache, group)
        if not all(math.isfinite(value) for logprobs, _ in scored for value in logprobs):
            raise FloatingPointError("the model gave log-probabilities that are not finite")
        used = "+".join(sorted(note.used)) or model.request.attention
    return Output(
        logprobs=tuple(logprobs for logprobs, _ in scored),
        greedy=tuple(greedy for _, greedy in scored),
        attention=used,
        prefill_s=time.perf_counter() - start,
    )


def _behind_shared_prefix(model: "LoadedModel", cache: Cache, segments: Sequence[Segment]) -> list[_Scored]:
    """Segment by segment, each behind the tokens that all of them begin with."""
    n_shared = 0
    if len(segments) > 1:
        n_shared = min(segment.n_context - 1 for segment in segments)  # what predicts a scored token is read later
        for segment in segments[1:]:
            n_shared = shared_length(segments[0].token_ids[:n_shared], segment.token_ids[:n_shared])
    if n_shared:
        prefix_1L = torch.tensor([list(segments[0].token_ids[:n_shared])], device=model.device)
        for _ in hidden(model, cache, slice(0, 1), prefix_1L, 0, first_read=n_shared):
            pass
    return [_score(model, cache, segment, n_shared) for segment in segments]


def _score(model: "LoadedModel", cache: Cache, segment: Segment, start: int) -> _Scored:
    """One segment, whose first `start` tokens the cache holds."""
    ids_L = torch.tensor(list(segment.token_ids), device=model.device)
    first = segment.n_context - 1  # the first row that predicts a scored token
    logprobs: list[float] = []
    greedy: list[bool] = []
    for at, part_1L, hidden_1LH in hidden(model, cache, slice(0, 1), ids_L[None, start:-1], start, first):
        n_read = min(part_1L.shape[1], len(ids_L) - 1 - at)  # the rest is padding
        for begin, end in _blocks(max(first - at, 0), n_read, model):
            logits_RV = head(model, hidden_1LH[0, begin:end]).float()
            wanted_R1 = ids_L[at + begin + 1 : at + end + 1, None]
            logprobs_R = logits_RV.gather(1, wanted_R1)[:, 0] - logits_RV.logsumexp(dim=1)
            logprobs += logprobs_R.tolist()
            greedy += (logits_RV.argmax(dim=1) == wanted_R1[:, 0]).tolist()
    return tuple(logprobs), tuple(greedy)


def _blocks(begin: int, end: int, model: "LoadedModel") -> Iterator[tuple[int, int]]:
    rows = max(1, _BLOCK_LOGITS // model.hf.config.get_text_config(decoder=True).vocab_size)
    for at in range(begin, end, rows):
        yield at, min(at + rows, end)
