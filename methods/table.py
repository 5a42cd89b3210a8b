"""What a method does to a model's RoPE, as a value and as a table to read.

Shape letters: P rotary pairs.
"""

import math
from collections.abc import Mapping
from typing import Any

from harness.errors import RequestError
from harness.types import JSON
from methods import CATALOGUE
from methods.base import AbstractRopeMethod, FloatArray, RopeSpec
from methods.rope import theoretical_critical_pair, wavelengths


def rope_table(method: AbstractRopeMethod, rope: RopeSpec, *, seq_len: int) -> dict[str, JSON]:
    """The RoPE a method gives requests of `seq_len` tokens, ready for JSON: an infinite number is None.

    `inv_freq`, `original_wavelength`, `wavelength` and `rescale_factors` have one number for each rotary pair.
    """
    if seq_len < 1:
        raise RequestError(f"seq_len = {seq_len}: it should be a positive number of tokens")
    scaling = method.rope_scaling(rope, seq_len=seq_len)
    return {
        "method": _name(method),
        "seq_len": seq_len,
        "extension_ratio": method.extension_ratio(rope, seq_len),
        "attention_factor": scaling.attention_factor,
        "start_tokens": scaling.start_tokens,
        "theoretical_critical_pair": theoretical_critical_pair(rope),
        "original_max_position_embeddings": rope.original_max_position_embeddings,
        "rope_theta": rope.rope_theta,
        "rotary_dim": rope.rotary_dim,
        "inv_freq": _json(scaling.inv_freq_P),
        "original_wavelength": _json(wavelengths(rope.inv_freq_P)),
        "wavelength": _json(wavelengths(scaling.inv_freq_P)),
        "rescale_factors": _json(scaling.rescale_factors_P(rope)),
    }


def render_table(table: Mapping[str, Any], console: Any = None) -> None:
    """Print a value of `rope_table`, a line a pair; the theoretical critical pair is marked.

    console: a rich Console; by default one on standard output.
    """
    from rich.console import Console
    from rich.table import Table

    window = table["original_max_position_embeddings"]
    view = Table(
        title=f"{table['method']} at {table['seq_len']} tokens",
        caption=(
            f"window {window} · extension ratio {table['extension_ratio']:g} · "
            f"attention factor {table['attention_factor']:.6g} · rope_theta {table['rope_theta']:g} · "
            f"* theoretical critical pair {table['theoretical_critical_pair']}{_kept(table['start_tokens'])}"
        ),
    )
    for title in ("pair", "wavelength before", "after", "factor", "rotations in window before", "after"):
        view.add_column(title, justify="right")
    rows = zip(table["original_wavelength"], table["wavelength"], table["rescale_factors"], strict=True)
    for pair, (before, after, factor) in enumerate(rows):
        mark = " *" if pair == table["theoretical_critical_pair"] else ""
        turns = [0.0 if length is None else window / length for length in (before, after)]
        view.add_row(f"{pair}{mark}", *map(_text, (before, after, factor)), *map(_text, turns))
    (console or Console()).print(view)


def _name(method: AbstractRopeMethod) -> str:
    place = f"{type(method).__module__}:{type(method).__qualname__}"
    return next((name for name, target in CATALOGUE.items() if target == place), place)


def _kept(start_tokens: int) -> str:
    return f" · the first {start_tokens} positions turn as before" if start_tokens else ""


def _json(values_P: FloatArray) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values_P]


def _text(value: float | None) -> str:
    return "∞" if value is None else f"{value:.6g}"
