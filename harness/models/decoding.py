"""One token after the other, for several sequences at once: on a CPU as it comes, on a GPU from a captured graph.

Shape letters: B rows, T tokens of all pieces together, V vocabulary.
"""

from collections.abc import Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from harness.models.attention import Attending, attends_by_row, counts_lengths, takes_dense_mask
from harness.models.caches import BufferCache, Cache
from harness.models.kernels import Span

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

_WORTH_A_GRAPH = 8  # new tokens: capturing costs about three


def most_probable(logits_BV: Tensor) -> list[int]:
    """The most probable token of each row. Raises FloatingPointError where a row is not finite."""
    top_B, token_B = logits_BV.max(dim=-1)  # the maximum of anything with a NaN is NaN
    tokens: list[int] = torch.where(torch.isfinite(top_B), token_B, -1).tolist()
    if -1 in tokens:
        raise FloatingPointError(f"the model gave logits that are not finite (maxima {top_B.tolist()})")
    return tokens


class Piece(NamedTuple):
    """Tokens that stand one behind the other in a row of the cache, the first at `position`."""

    row: int
    position: int
    tokens: Sequence[int]


class Decoder:
    """Writes behind what a cache holds."""

    def __init__(self, model: "LoadedModel", cache: Cache, note: Attending, max_new_tokens: int) -> None:
        self._model, self._cache, self._note = model, cache, note
        self._impl = model.hf.config.get_text_config(decoder=True)._attn_implementation
        self._graph: _Graph | None = None
        self._wants_graph = (
            model.limits.graphs
            and model.device.type == "cuda"
            and isinstance(cache, BufferCache)
            and takes_dense_mask(self._impl)
            and max_new_tokens >= _WORTH_A_GRAPH
        )

    @property
    def keeps_rows(self) -> bool:
        """Whether every step has the rows of the first one."""
        return self._wants_graph

    @property
    def reads_pieces(self) -> bool:
        """Whether several tokens of each row can be read at once, and rows left out."""
        return (
            self._model.limits.drafts
            and not self._wants_graph
            and isinstance(self._cache, BufferCache)
            and attends_by_row(self._impl, self._model.device)
        )

    def read(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """The next token after each token of each piece. Raises FloatingPointError."""
        cache, device = self._cache, self._model.device
        positions = [range(piece.position, piece.position + len(piece.tokens)) for piece in pieces]
        tokens_T1 = torch.tensor(list(chain.from_iterable(piece.tokens for piece in pieces)), device=device)[:, None]
        positions_T = torch.tensor(list(chain.from_iterable(positions)), device=device)
        rows_T = torch.tensor([piece.row for piece in pieces for _ in piece.tokens], device=device)
        cache.writing(positions_T, max(places.stop for places in positions), rows_T)
        self._note.spans = [
            Span(piece.row, len(places), places.stop) for piece, places in zip(pieces, positions, strict=True)
        ]
        try:
            choices = iter(most_probable(self._logits(tokens_T1, positions_T, None)))
        finally:
            self._note.spans = ()
        return [list(islice(choices, len(piece.tokens))) for piece in pieces]

    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> list[int]:
        """The next token of each row, after one that stands at the row's position."""
        tokens_B1 = torch.tensor(tokens, device=self._model.device)[:, None]
        positions_B = torch.tensor(positions, device=self._model.device)
        if self._wants_graph:
            if self._graph is None:
                self._graph = self._captured(tokens_B1, positions_B)
            if self._graph is not None:
                return most_probable(self._graph.replay(tokens_B1, positions_B))
        return most_probable(self._forward(tokens_B1, positions_B, max(positions) + 1, len(set(positions)) > 1))

    def _forward(self, tokens_B1: Tensor, positions_B: Tensor, visible: int, uneven: bool) -> Tensor:
        """The logits (B, V) of the next tokens."""
        model, mask = self._model, None
        if uneven and self._counts_lengths:
            visible, self._note.lengths_B = self._cache.capacity, (positions_B + 1).to(torch.int32)
        elif uneven:
            mask = torch.arange(visible, device=model.device) <= positions_B[:, None]
            mask = mask[:, None, None] if takes_dense_mask(self._impl) else mask.long()
        self._cache.writing(positions_B, visible)
        try:
            return self._logits(tokens_B1, positions_B, mask)
        finally:
            self._note.lengths_B = None  # they are those of this step alone

    def _logits(self, tokens_B1: Tensor, positions_B: Tensor, mask: Tensor | None) -> Tensor:
        """The logits (B, V) after each token."""
        logits_BV: Tensor = self._model.hf(
            input_ids=tokens_B1,
            position_ids=positions_B[:, None],
            attention_mask=mask,
            past_key_values=self._cache.hf,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits_BV

    @property
    def _counts_lengths(self) -> bool:
        config = self._model.hf.config.get_text_config(decoder=True)
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return counts_lengths(self._impl, self._model.device, self._model.hf.dtype, head_size)

    def _captured(self, tokens_B1: Tensor, positions_B: Tensor) -> "_Graph | None":
        """The step as a graph; None, from now on, for a model that cannot be captured."""
        try:
            return _Graph(self, tokens_B1, positions_B)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self._model.limits.graphs = self._wants_graph = False
            return None


class _Graph:
    """A captured step: the same kernels on the same addresses, whatever the tokens and positions."""

    def __init__(self, decoder: Decoder, tokens_B1: Tensor, positions_B: Tensor) -> None:
        self._tokens_B1, self._positions_B = tokens_B1.clone(), positions_B.clone()
        capacity = decoder._cache.capacity

        def step() -> Tensor:
            return decoder._forward(self._tokens_B1, self._positions_B, capacity, True)

        # Run before it is captured, as CUDA asks; the slots that this writes to are those of the first true step.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits_BV = step()

    def replay(self, tokens_B1: Tensor, positions_B: Tensor) -> Tensor:
        """The logits (B, V) after these tokens."""
        self._tokens_B1.copy_(tokens_B1)
        self._positions_B.copy_(positions_B)
        self._graph.replay()
        return self._logits_BV
