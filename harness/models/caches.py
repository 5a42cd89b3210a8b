"""Keys and values of what a model has read: buffers of a fixed size, a row a sequence.

Every row begins at slot 0 and grows to the right, so a row's position is its slot. What stands behind a row's end is
never attended to: it is padding, or what a longer row before left there.

Shape letters: B rows of a step, R rows of the buffer, S slots of a row, L tokens, H key heads, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel


@dataclass
class _Place:
    """Where the next keys go: `rows` from slot `start` while a prompt is read; else one a row, at `slots_B`.

    index_B: the rows of the single tokens. visible: how many slots of each row attention gets to see meanwhile.
    """

    rows: slice = field(default_factory=lambda: slice(0, 1))
    start: int = 0
    index_B: Tensor | None = None
    slots_B: Tensor | None = None
    visible: int = 0


class _BufferLayer(DynamicLayer):
    """One layer of a `BufferCache`."""

    def __init__(self, place: _Place, n_rows: int, capacity: int) -> None:
        super().__init__()
        self.place = place
        self.shape = n_rows, capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys_RHSD, self.values_RHSD = self._buffer(key_states), self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, states: Tensor) -> Tensor:
        """Zeros, since a masked NaN would still be a NaN.

        A GPU's kernels for sequences of different lengths read them token by token; a CPU is twice as fast by head.
        """
        (n_rows, capacity), (n_heads, _, head_size) = self.shape, states.shape[1:]
        if self.device.type == "cuda":
            by_token = torch.zeros(n_rows, capacity, n_heads, head_size, dtype=self.dtype, device=self.device)
            return by_token.transpose(1, 2)
        return torch.zeros(n_rows, n_heads, capacity, head_size, dtype=self.dtype, device=self.device)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = self.place
        if place.slots_B is not None:
            assert place.index_B is not None  # single tokens have both
            index_B, slots_B = place.index_B.to(self.device), place.slots_B.to(self.device)
            self.keys_RHSD[index_B, :, slots_B] = key_states[:, :, 0]
            self.values_RHSD[index_B, :, slots_B] = value_states[:, :, 0]
            return self.keys_RHSD[place.rows, :, : place.visible], self.values_RHSD[place.rows, :, : place.visible]
        end = place.start + key_states.shape[2]
        self.keys_RHSD[place.rows, :, place.start : end] = key_states
        self.values_RHSD[place.rows, :, place.start : end] = value_states
        if place.start == 0:
            return key_states, value_states
        return self.keys_RHSD[place.rows, :, :end], self.values_RHSD[place.rows, :, :end]

    def get_seq_length(self) -> int:
        return self.place.start if self.place.slots_B is None else self.place.visible - 1


class BufferCache:
    """Rows of one size for a model whose layers all attend to everything before."""

    def __init__(self, model: "LoadedModel", n_rows: int, capacity: int) -> None:
        self.n_rows, self.capacity = n_rows, capacity
        self.hf = _stock_cache(model)
        self._place = _Place()
        self._layers = [_BufferLayer(self._place, n_rows, capacity) for _ in self.hf.layers]
        self.hf.layers = list(self._layers)
        self._rows_R = torch.arange(n_rows, device=model.device)

    def reading(self, rows: slice, start: int) -> None:
        """What is read next goes into these rows, from slot `start` on, behind what stands there."""
        place = self._place
        place.rows, place.start, place.slots_B = rows, start, None

    def writing(self, slots_B: Tensor, visible: int, rows_B: Tensor | None = None) -> None:
        """Single tokens go to these slots of the first B rows; attention sees the first `visible` slots.

        rows_B: their rows, where these are others; attention sees every row then.
        """
        place = self._place
        place.slots_B, place.visible = slots_B, visible
        place.rows = slice(0, len(slots_B) if rows_B is None else self.n_rows)
        place.index_B = self._rows_R[: len(slots_B)] if rows_B is None else rows_B

    def copy_prefix(self, source: int, target: int, n_tokens: int) -> None:
        """The first tokens of a row are those of another one."""
        for layer in self._layers:
            for buffer_RHSD in (layer.keys_RHSD, layer.values_RHSD):
                buffer_RHSD[target, :, :n_tokens] = buffer_RHSD[source, :, :n_tokens]

    def keep(self, rows: Sequence[int], n_tokens: int) -> None:
        """These rows, in ascending order, become the first ones; of each the first `n_tokens`."""
        for target, source in enumerate(rows):
            if target != source:
                self.copy_prefix(source, target, n_tokens)


class GrowingCache:
    """One sequence, in the cache that transformers makes for the model: sliding windows, latent and hybrid layers.

    offloaded: keys and values wait in host memory until their layer's turn.
    """

    n_rows, capacity = 1, 0

    def __init__(self, model: "LoadedModel", *, offloaded: bool = False) -> None:
        self.hf = _stock_cache(model, offloading=offloaded)

    def reading(self, rows: slice, start: int) -> None:
        """It only ever goes on where it ended."""

    def writing(self, slots_B: Tensor, visible: int, rows_B: Tensor | None = None) -> None:
        """It only ever goes on where it ended."""


Cache = BufferCache | GrowingCache


def new_cache(model: "LoadedModel", n_rows: int, n_tokens: int) -> Cache:
    """A cache for so many sequences of at most so many tokens."""
    if model.limits.kv_offload:
        return GrowingCache(model, offloaded=True)
    return BufferCache(model, n_rows, n_tokens) if model.can_batch else GrowingCache(model)


def attends_to_all(hf: Any) -> bool:
    """Whether every layer of a model attends to everything before it, as `BufferCache` needs."""
    config = hf.config.get_text_config(decoder=True)
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


@torch.no_grad()
def bytes_per_token(model: "LoadedModel") -> int:
    """What one token's keys and values fill, all layers together; measured."""
    cache = _stock_cache(model)
    n_tokens = 2
    model.hf.base_model(
        input_ids=torch.zeros(1, n_tokens, dtype=torch.long, device=model.device),
        past_key_values=cache,
        use_cache=True,
    )
    filled = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values) if isinstance(tensor, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in filled) // n_tokens


def _stock_cache(model: "LoadedModel", **options: Any) -> Any:
    return DynamicCache(config=model.hf.config.get_text_config(decoder=True), **options)
