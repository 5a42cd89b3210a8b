"""LongRoPE and LongRoPE2: factors from a file, and LongRoPE2's shape in closed form."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from harness.errors import RequestError
from methods.base import AbstractRopeMethod, FloatArray, RopeScaling, RopeSpec
from methods.longrope.factors_file import RescaleFactors, read_factors
from methods.rope import AttentionPolicy, attention_factor, check_attention, ntk_tie, theoretical_critical_pair


@dataclass(frozen=True, kw_only=True)
class AbstractFactorsMethod(AbstractRopeMethod):
    """A method whose factors stand in a file.

    factors: the name of a packaged list, or the path of a file, such as the `factors.json` of a search.
    attention: by default what the file states, else `su`.
    switch: when a request that begins inside the window and grows beyond it leaves the RoPE of the inside. `request`:
        before its first token, as prompt and new tokens together need more than the window. `live`: once its sequence
        has one token more than the window; its cache is computed anew then, once (arXiv:2502.20082 appendix B).
        Scoring, where nothing is written, is as under `request`.
    The file was made for one target. So the extension ratio, which moves the attention factor alone, is `factor` where
    given, else the file's; `target_length` counts where the file names none.
    """

    factors: str = field(metadata={"path": True})
    attention: AttentionPolicy | None = None
    switch: Literal["request", "live"] = "request"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_attention(self.attention)
        self.contents  # noqa: B018  a bad file is found when the method is built

    @cached_property
    def contents(self) -> RescaleFactors:
        """What the file says, read once. Raises RequestError."""
        return read_factors(self.factors)

    def artifacts(self) -> Mapping[str, str]:
        """name -> sha256 of the factors file."""
        return {"factors": self.contents.sha256}

    def extension_ratio(self, rope: RopeSpec, seq_len: int) -> float:
        """The ratio that the attention factor follows; at least 1."""
        return self.factor or self.contents.extension_ratio(rope) or super().extension_ratio(rope, seq_len)

    def applied(self, model: Any, *, seq_len: int) -> AbstractContextManager[Any]:
        """The model with this RoPE in place of its own, until the block ends. Raises RequestError for other weights."""
        if self.contents.weights_sha256 is not None:
            from harness.models.request import identity

            self.contents.check_weights(identity(model.request)["weights"])
        return super().applied(model, seq_len=seq_len)

    def _beyond_window(self, rope: RopeSpec, seq_len: int) -> RopeScaling:
        scaling = rope.rescaled(np.array(self.contents.rescale_factors), self._attention_factor(rope, seq_len))
        return replace(scaling, start_tokens=self.contents.start_tokens)

    def _attention_factor(self, rope: RopeSpec, seq_len: int) -> float:
        if self.attention is None and self.contents.attention_factor is not None:
            return self.contents.attention_factor
        ratio = self.extension_ratio(rope, seq_len)
        return attention_factor(self.attention or "su", ratio=ratio, window=rope.original_max_position_embeddings)


@dataclass(frozen=True, kw_only=True)
class LongRoPE(AbstractFactorsMethod):
    """LongRoPE as transformers runs it: `short_factor` inside the window, `long_factor` beyond, one attention factor.

    Inside the window it is not the original RoPE: short factors need not be 1, and the attention factor applies there.
    Source: arXiv:2402.13753; transformers 5.23 modeling_rope_utils.py, `_compute_longrope_parameters`.
    """

    source: ClassVar[str] = "arXiv:2402.13753"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contents.short_factor is None:
            raise ValueError(f"factors = '{self.factors}' hold no 'short_factor': use longrope2, which needs none")

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens; raises RequestError where the file is for another model."""
        self.contents.check(rope)
        if seq_len > rope.original_max_position_embeddings:
            return self._beyond_window(rope, seq_len)
        scaling = rope.rescaled(np.array(self.contents.short_factor), self._attention_factor(rope, seq_len))
        return replace(scaling, start_tokens=self.contents.short_start_tokens)


@dataclass(frozen=True, kw_only=True)
class LongRoPE2(AbstractFactorsMethod):
    """LongRoPE2 with searched factors: the original RoPE inside the window, the file's factors beyond.

    attention_inside_window: `original` leaves the attention factor alone there; `extended` applies the long one, as the
        released code does. The paper names no attention factor at all.
    Source: arXiv:2502.20082; microsoft/nnscaler@1585c15 examples/longrope2.
    """

    source: ClassVar[str] = "arXiv:2502.20082"
    original_inside_window: ClassVar[bool] = True  # unless attention_inside_window is `extended`

    attention_inside_window: Literal["original", "extended"] = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_inside_window == "extended":
            object.__setattr__(self, "original_inside_window", False)

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens; raises RequestError where the file is for another model."""
        self.contents.check(rope)
        if seq_len > rope.original_max_position_embeddings:
            return self._beyond_window(rope, seq_len)
        if self.attention_inside_window == "extended":
            return rope.rescaled(1.0, self._attention_factor(rope, seq_len))
        return rope.rescaled(1.0)


@dataclass(frozen=True, kw_only=True)
class LongRoPE2ClosedForm(AbstractRopeMethod):
    """LongRoPE2's shape without its search: NTK up to the critical pair, nearly flat above. Original inside the window.

    With top = top_factor * ratio: 1 up to start_pair, top^((i - start) / (critical - start)) to the critical pair,
    top + slope * (i - critical) above.
    critical_pair: by default the theoretical one less 2, near the published lists' boundaries (33 where the theory says
        35 for LLaMA3-8B, 31 where it says 34 for Phi-4-mini).
    Source: arXiv:2502.20082 algorithm 1, whose start it is (there start_pair = 0, top from 1 to 2 times the ratio);
    the start pair is ours.
    """

    source: ClassVar[str] = "arXiv:2502.20082"
    original_inside_window: ClassVar[bool] = True

    critical_pair: int | None = None
    top_factor: float = 1.25
    slope: float = 0.0
    start_pair: int = 0
    attention: AttentionPolicy = "su"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_attention(self.attention)
        if not 1 <= self.top_factor < np.inf:
            raise ValueError(f"top_factor = {self.top_factor:g}: it should be at least 1, a multiple of the ratio")
        if not 0 <= self.slope < np.inf:
            raise ValueError(f"slope = {self.slope:g}: it should be at least 0")
        if self.start_pair < 0:
            raise ValueError(f"start_pair = {self.start_pair}: it should be at least 0")
        if self.critical_pair is not None and self.critical_pair <= self.start_pair:
            raise ValueError(f"critical_pair = {self.critical_pair}: it should be above start_pair = {self.start_pair}")

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens; raises RequestError where the pairs do not fit the model."""
        critical_pair = self._critical_pair(rope)
        ratio = self.extension_ratio(rope, seq_len)
        if ratio == 1 or seq_len <= rope.original_max_position_embeddings:
            return rope.rescaled(1.0)
        window = rope.original_max_position_embeddings
        attention = attention_factor(self.attention, ratio=ratio, window=window)
        return rope.rescaled(self._factors_P(len(rope.inv_freq_P), critical_pair, self.top_factor * ratio), attention)

    def _factors_P(self, n_pairs: int, critical_pair: int, top: float) -> FloatArray:
        above_P = np.arange(n_pairs, dtype=np.float64) - critical_pair
        tied_P = ntk_tie(top, critical_pair, n_pairs, start_pair=self.start_pair)
        return np.where(above_P < 0, tied_P, top + self.slope * above_P)

    def _critical_pair(self, rope: RopeSpec) -> int:
        """The pair where the top begins: the setting, or two below the theoretical one."""
        n_pairs = len(rope.inv_freq_P)
        default = theoretical_critical_pair(rope) - 2
        critical_pair = default if self.critical_pair is None else self.critical_pair
        if self.critical_pair is not None and critical_pair >= n_pairs:
            raise RequestError(
                f"method 'longrope2_closed_form': critical_pair = {critical_pair}: it should be at most {n_pairs - 1}, "
                f"the model has {n_pairs} rotary pairs"
            )
        if critical_pair <= self.start_pair:
            raise RequestError(
                f"method 'longrope2_closed_form': critical_pair is {default} by default for this model: "
                f"it should be above start_pair = {self.start_pair}, so set it"
            )
        return critical_pair
