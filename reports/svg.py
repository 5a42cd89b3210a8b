"""matplotlib figures as inline SVG: the same bytes each time, ids of their own, colours that follow the page.

A figure is drawn in the light theme's colours; each becomes a CSS variable with that colour as its fallback, so the
SVG follows a dark page and still stands alone.
"""

import html
import io
import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK = "#1a1d21"
MUTED = "#4d5663"
RULE = "#d5dae1"
EMPTY = "#e9ecf0"
# Okabe and Ito's hues, darkened where the original falls below 3:1 on white; the base method is drawn in ink.
SERIES = ("#0072b2", "#d55e00", "#00835f", "#b5548c", "#b87a00", "#2a8cc4", "#8a7f00")

_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", EMPTY: "--empty"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES, 1)
}
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "text.parse_math": False,  # a label's dollar sign is a dollar sign
    "axes.unicode_minus": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}


def settings() -> Any:
    """The context in which figures are drawn, whatever the user's own matplotlib settings are."""
    every: Any = dict(matplotlib.rcParamsDefault) | _SETTINGS | {"backend": "svg"}
    return matplotlib.rc_context(every)


def plain(text: str, limit: int = 48) -> str:
    """A label that can be drawn: printable characters, cut at `limit`."""
    shown = "".join(c if c.isprintable() and unicodedata.category(c) != "Cs" else "\ufffd" for c in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """A finished figure. name: unique in the page, prefixes every id. label: what it shows, in words."""

    figure: Figure
    name: str
    label: str

    def svg(self) -> str:
        """The figure as an `<svg>` element."""
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with _saving({"svg.hashsalt": self.name}):
            self.figure.savefig(buffer, format="svg", metadata=no_metadata, transparent=True)
        return _inline(buffer.getvalue(), self.name, self.label)

    def standalone_svg(self) -> str:
        """The figure as an SVG file, in the light theme's colours."""
        text = re.sub(r"var\(--[\w-]+, (#[0-9a-f]{6})\)", r"\1", self.svg())
        return text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"

    def pdf(self) -> bytes:
        """The figure as a PDF file."""
        buffer = io.BytesIO()
        with _saving({"pdf.fonttype": 42}):
            self.figure.savefig(
                buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}
            )
        return buffer.getvalue()


@contextmanager
def _saving(changes: Any) -> Iterator[None]:
    with warnings.catch_warnings(), settings(), matplotlib.rc_context(changes):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's fonts may have it
        yield


def _inline(text: str, name: str, label: str) -> str:
    body = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL
    )
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)[0]
    head = (
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width} {height}" width="{float(width):.0f}" '
        f'height="{float(height):.0f}" style="stroke-linejoin: round; stroke-linecap: butt">'
    )
    tags = re.findall(r"<[^>]*>", body)
    used = {found for tag in tags for pair in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', tag) for found in pair}
    # Only inside tags: a label that looks like a colour or an id stays as it is.
    body = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], name, used), body[body.index(">") + 1 :])
    return head + re.sub(r"\s*\n\s*", "\n", body).strip()


def _tag(tag: str, name: str, used: set[str]) -> str:
    tag = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
    tag = tag.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var({variable}, {colour})")
    return tag.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
