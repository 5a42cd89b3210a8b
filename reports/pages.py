"""Pages from the templates: escaped, checked, and the same bytes for the same values.

The scripts of a page are allowed by their hash, so nothing else that stands in it can run.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from reports import heatmaps, text
from reports.clean import printable
from reports.exports import clean

_TEMPLATES = Path(__file__).parent / "templates"


def page(template: str, *, title: str, scripts: Sequence[str] = ("report.js",), **values: Any) -> str:
    """A template in the frame of `page.html.j2`. Every value is escaped; only these scripts run."""
    script = "\n".join(["", *((_TEMPLATES / name).read_text(encoding="utf-8") for name in scripts)])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    frame = {"script": script, "script_hash": f"sha256-{digest}", "scale_colours": heatmaps.colours()}
    return clean(_environment().get_template(template).render(title=title, **frame, **values))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": text.percent,
        "span": text.span,
        "score": text.score,
        "effective": text.effective,
        "retained": text.retained,
        "duration": text.duration,
        "memory": text.memory,
        "points": text.points,
        "printed": text.printed,
        "signed": text.signed,
        "p": text.p_value,
        "step": heatmaps.step,
        "zip": zip,
        "breakable": text.breakable,
        "printable": printable,
        "json": lambda value: json.dumps(value, ensure_ascii=False, sort_keys=True),
    }
    return environment
