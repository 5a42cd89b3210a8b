"""The two RoPEs of mixed context window training; the segment says which one a pass runs under, never its positions."""

from collections.abc import Iterator
from contextlib import contextmanager

from harness.models.loading import LoadedModel
from harness.types import Regime
from methods.base import RopeScaling
from methods.longrope.training.segments import TrainingSegment


class Regimes:
    """A pinned rotary embedding for each regime, made once.

    short_rope: what segments of the regime `original` are read under.
    """

    def __init__(self, model: LoadedModel, rescaled: RopeScaling, *, short_rope: Regime) -> None:
        own = RopeScaling(inv_freq_P=model.rope.inv_freq_P, attention_factor=model.rope.attention_factor)
        if len(rescaled.inv_freq_P) != len(own.inv_freq_P):
            raise ValueError(
                f"the method gave {len(rescaled.inv_freq_P)} frequencies: the model has {len(own.inv_freq_P)} pairs"
            )
        self._model = model
        self._short_rope = short_rope
        self._modules = {
            name: [site.pinned(scaling, model.device, model.rope.inv_freq_P) for site in model.sites]
            for name, scaling in (("original", own), ("rescaled", rescaled))
        }

    def of(self, segment: TrainingSegment) -> Regime:
        """What a segment is read under."""
        return self._short_rope if segment.regime == "original" else "rescaled"

    @contextmanager
    def pinned(self, regime: Regime) -> Iterator[None]:
        """The model under a regime, until the block ends: forward and backward, for layers that are computed again."""
        sites = self._model.sites
        before = [site.module for site in sites]
        try:
            for site, pinned in zip(sites, self._modules[regime], strict=True):
                site.put(pinned)
            yield
        finally:
            for site, module in zip(sites, before, strict=True):
                site.put(module)
