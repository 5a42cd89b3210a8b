"""A table as CSV, JSON and LaTeX, and as links that a page carries with it."""

import base64
import csv
import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

from harness.types import JSON

# Control characters, marks that reorder text, lone surrogates, non-characters: nothing a model wrote may break a file.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_MOST_CHARS = 2_000  # of a text in an export
_WORTH_A_ZIP = 60_000  # bytes of the three files together
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}
_LATEX_SPECIAL = re.compile("[" + re.escape("".join(_LATEX)) + "]")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Plain values in rows. name: a file name without its end. A cell is a text, a number, true, false or None."""

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[JSON]]

    def csv(self) -> str:
        """RFC 4180, with a header. A text that a spreadsheet would run as a formula gets an apostrophe in front."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\r\n")
        writer.writerow([_csv_cell(column) for column in self.columns])
        writer.writerows([_csv_cell(value) for value in row] for row in self.rows)
        return buffer.getvalue()

    def json(self) -> str:
        """A list of objects, a row each."""
        columns = [clean(column, _MOST_CHARS) for column in self.columns]
        rows = [dict(zip(columns, map(_clean, row), strict=True)) for row in self.rows]
        return json.dumps(rows, allow_nan=False, ensure_ascii=False, indent=0) + "\n"

    def latex(self) -> str:
        """A `tabular` that needs no package."""
        lines = [" & ".join(map(_latex_cell, row)) + r" \\" for row in (self.columns, *self.rows)]
        places = "".join("r" if _is_numeric(self.rows, i) else "l" for i in range(len(self.columns)))
        return "\n".join(
            [
                f"% {_line(self.caption)}",
                rf"\begin{{tabular}}{{{places}}}",
                r"\hline",
                lines[0],
                r"\hline",
                *lines[1:],
                r"\hline",
                r"\end{tabular}",
                "",
            ]
        )

    def files(self) -> dict[str, str]:
        """Name -> contents of the three."""
        return {f"{self.name}.csv": self.csv(), f"{self.name}.json": self.json(), f"{self.name}.tex": self.latex()}

    def links(self) -> list[dict[str, str]]:
        """What a page offers to save: the three files, or where they are large one archive of them."""
        files = {name: text.encode() for name, text in self.files().items()}
        if sum(map(len, files.values())) > _WORTH_A_ZIP:
            return [_link(f"{self.name}.zip", "CSV, JSON and LaTeX", "application/zip", _zipped(files))]
        kinds = {"csv": ("CSV", "text/csv"), "json": ("JSON", "application/json"), "tex": ("LaTeX", "text/x-tex")}
        return [_link(name, *kinds[name.rpartition(".")[2]], data) for name, data in files.items()]


def clean(text: str, limit: int | None = None) -> str:
    """Text that can neither reorder nor break what it stands in, cut at `limit` characters."""
    cut = text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
    return _UNSAFE.sub("\ufffd", cut)


def _clean(value: JSON) -> JSON:
    return clean(value, _MOST_CHARS) if isinstance(value, str) else value


def _csv_cell(value: JSON) -> JSON:
    value = _clean(value)
    # White space in front of an = does not stop a spreadsheet either.
    if isinstance(value, str) and (value.lstrip()[:1] in tuple("=+-@|%") or value[:1] in ("\t", "\r", "\n")) and value:
        return "'" + value
    return "" if value is None else value


def _latex_cell(value: JSON) -> str:
    if value is None:
        return "--"
    if isinstance(value, float):
        return f"{value:.6g}"
    return _LATEX_SPECIAL.sub(lambda found: _LATEX[found[0]], _line(str(value)))


def _line(text: str) -> str:
    return " ".join(clean(text, _MOST_CHARS).split())


def _is_numeric(rows: Sequence[Sequence[JSON]], column: int) -> bool:
    return all(row[column] is None or isinstance(row[column], int | float) for row in rows)


def _link(name: str, text: str, kind: str, data: bytes) -> dict[str, str]:
    return {"name": name, "text": text, "href": f"data:{kind};base64,{base64.b64encode(data).decode()}"}


def _zipped(files: dict[str, bytes]) -> bytes:
    """The same bytes each time: no times, one way of compressing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            archive.writestr(entry, data)
    return buffer.getvalue()
