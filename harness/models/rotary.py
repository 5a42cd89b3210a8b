"""A model's rotary embedding, replaced by one whose frequencies are pinned for a request.

Shape letters: B batch, L tokens, P rotary pairs, D columns of cos and sin as the model's attention takes them.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.errors import RequestError
from methods.base import FloatArray, RopeScaling

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

FULL_ATTENTION = "full_attention"

# How a class lays out the angles of P pairs for its attention.
LAYOUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "half_split": lambda angles_BLP: torch.cat((angles_BLP, angles_BLP), dim=-1),
    "interleaved": lambda angles_BLP: angles_BLP.repeat_interleave(2, dim=-1),
    "pairs": lambda angles_BLP: angles_BLP,
}
_PROBE_POSITIONS = (0, 1, 2, 5)


class PinnedRotary(nn.Module):
    """cos and sin of position x frequency, in float32, from frequencies that no cast of the model can reach.

    Frequencies are no buffer: `.to(bfloat16)` on the model would move the phase at position 131071 by 182 radians.
    Angles are products of elements, never a matrix product, which TF32 would round.

    keeps_float32: cos and sin stay in float32; else they take the hidden states' type.
    stock: what layers of other types than full attention are left to.
    original_P: the model's own frequencies, for a scaling with start tokens: those turn by them. The attention factor
        multiplies cos and sin everywhere.
    """

    def __init__(
        self,
        scaling: RopeScaling,
        *,
        layout: str,
        keeps_float32: bool = False,
        stock: nn.Module | None = None,
        original_P: FloatArray | None = None,
        device: Any = "cpu",
    ) -> None:
        super().__init__()
        if scaling.start_tokens and original_P is None:
            raise ValueError(f"start_tokens = {scaling.start_tokens} needs the model's own frequencies")
        self._inv_freq_P = torch.as_tensor(scaling.inv_freq_P).to(device=device, dtype=torch.float32)
        self._start_tokens = scaling.start_tokens
        self._original_P = None if original_P is None else torch.as_tensor(original_P).to(self._inv_freq_P)
        self._attention_factor = scaling.attention_factor
        self._layout = LAYOUTS[layout]
        self._keeps_float32 = keeps_float32
        self.stock = stock

    def forward(
        self, x: Tensor, position_ids: Tensor, layer_type: str | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """cos and sin (B, L, D) at the positions (B, L)."""
        if layer_type not in (None, FULL_ATTENTION):
            if self.stock is None:
                raise ValueError(f"layer type '{layer_type}': this rotary embedding serves full attention only")
            return self.stock(x, position_ids, layer_type, **kwargs)
        inv_freq = self._inv_freq_P.to(x.device)
        if self._start_tokens and self._original_P is not None:
            starts_BL1 = position_ids[..., None] < self._start_tokens
            inv_freq = torch.where(starts_BL1, self._original_P.to(x.device), inv_freq)
        angles_BLP = position_ids[..., None].to(torch.float32) * inv_freq
        angles_BLD = self._layout(angles_BLP)
        cos_BLD = angles_BLD.cos() * self._attention_factor
        sin_BLD = angles_BLD.sin() * self._attention_factor
        return (cos_BLD, sin_BLD) if self._keeps_float32 else (cos_BLD.to(x.dtype), sin_BLD.to(x.dtype))


@dataclass(frozen=True, kw_only=True, eq=False)
class RotarySite:
    """A place of a rotary embedding in a model: what stood there as it was loaded, and what its class gives."""

    parent: nn.Module
    stock: nn.Module
    own: RopeScaling
    layout: str
    keeps_float32: bool
    by_layer_type: bool

    @property
    def module(self) -> nn.Module:
        """The module that stands there now."""
        return self.parent.get_submodule("rotary_emb")

    def put(self, module: nn.Module) -> None:
        """Puts a module there."""
        self.parent.rotary_emb = module

    def pinned(self, scaling: RopeScaling, device: Any, original_P: FloatArray | None = None) -> PinnedRotary:
        """A rotary embedding for this place. original_P: the model's own frequencies, where start tokens keep them."""
        return PinnedRotary(
            scaling,
            layout=self.layout,
            keeps_float32=self.keeps_float32,
            stock=self.stock if self.by_layer_type else None,
            original_P=original_P,
            device=device,
        )


@contextmanager
def rotary_scaling(model: "LoadedModel", scaling: RopeScaling) -> Iterator["LoadedModel"]:
    """The model with this RoPE in place of its own, until the block ends. Raises RuntimeError when nested.

    Frequencies or an attention factor given as torch tensors keep their gradient.
    """
    if model.scaling is not None:
        raise RuntimeError("a method is applied to the model already: leave that block first")
    n_pairs = len(model.rope.inv_freq_P)
    if len(scaling.inv_freq_P) != n_pairs:
        raise ValueError(f"the method gave {len(scaling.inv_freq_P)} frequencies: the model has {n_pairs} rotary pairs")
    with pinned(model, scaling):
        yield model


@contextmanager
def pinned(model: "LoadedModel", scaling: RopeScaling) -> Iterator[None]:
    """This RoPE in place of whatever is on the model, until the block ends."""
    before, modules = model.scaling, [site.module for site in model.sites]
    try:
        model.scaling = scaling
        for site in model.sites:
            site.put(site.pinned(scaling, model.device, model.rope.inv_freq_P))
        yield
    finally:
        for site, module in zip(model.sites, modules, strict=True):
            site.put(module)
        model.scaling = before


def find_sites(hf: nn.Module) -> tuple[RotarySite, ...]:
    """Every `rotary_emb` of the model. Raises RequestError, naming the class, for one that is not understood."""
    found = [name for name, _ in hf.named_modules() if name.split(".")[-1] == "rotary_emb"]
    if not found:
        raise RequestError(f"{type(hf).__name__} has no rotary embedding: Longreach measures models that use RoPE")
    sites = tuple(_site(hf.get_submodule(name.rpartition(".")[0])) for name in found)
    for name, site in zip(found, sites, strict=True):
        if site.layout != sites[0].layout or not site.own.same_as(sites[0].own):
            raise RequestError(
                f"{type(hf).__name__} has rotary embeddings that differ: {type(sites[0].stock).__name__} at {found[0]} "
                f"and {type(site.stock).__name__} at {name}; a method needs one RoPE for all layers"
            )
    return sites


def _site(parent: nn.Module) -> RotarySite:
    stock = parent.get_submodule("rotary_emb")
    by_layer_type = hasattr(stock, f"{FULL_ATTENTION}_inv_freq")
    prefix = f"{FULL_ATTENTION}_" if by_layer_type else ""
    inv_freq_P = getattr(stock, f"{prefix}inv_freq", None)
    if not isinstance(inv_freq_P, Tensor) or inv_freq_P.ndim != 1:
        raise _not_understood(stock, "it has no inv_freq of one dimension")
    own = RopeScaling(
        inv_freq_P=inv_freq_P.detach().to("cpu", torch.float64).numpy(),
        attention_factor=float(getattr(stock, f"{prefix}attention_scaling", 1.0)),
    )
    layout, keeps_float32 = _probe(stock, own, (FULL_ATTENTION,) if by_layer_type else ())
    return RotarySite(
        parent=parent, stock=stock, own=own, layout=layout, keeps_float32=keeps_float32, by_layer_type=by_layer_type
    )


def _probe(stock: nn.Module, own: RopeScaling, layer_type: tuple[str, ...]) -> tuple[str, bool]:
    """The layout in which our embedding gives the stock one's cos and sin, and whether those stay in float32."""
    copied = copy.deepcopy(stock).cpu()  # some classes rewrite their own frequencies as they run
    positions_BL = torch.tensor([_PROBE_POSITIONS])
    hidden_BL1 = torch.zeros(*positions_BL.shape, 1)
    try:
        cos, sin = copied(hidden_BL1, positions_BL, *layer_type)
        low = copied(hidden_BL1.to(torch.bfloat16), positions_BL, *layer_type)[0]
    except Exception as error:  # another signature or other shapes: whatever it raises, it is not understood
        raise _not_understood(stock, str(error)) from error
    for layout in LAYOUTS:
        ours = PinnedRotary(own, layout=layout, keeps_float32=True)(hidden_BL1, positions_BL)
        if all(
            theirs.shape == mine.shape
            and theirs.is_floating_point()
            and torch.allclose(mine, theirs.float(), atol=1e-4)
            for mine, theirs in zip(ours, (cos, sin), strict=True)
        ):
            return layout, low.dtype == torch.float32
    raise _not_understood(stock, "its cos and sin are those of neither half-split nor interleaved pairs")


def _not_understood(stock: nn.Module, why: str) -> RequestError:
    return RequestError(f"{type(stock).__name__} is a rotary embedding that Longreach cannot replace: {why}")
