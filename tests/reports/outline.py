"""The words of a report in order, without its figures and without numbers that rest on random draws.

`python -m tests.reports.outline` writes the golden outline again.
"""

import re
from html.parser import HTMLParser
from pathlib import Path

_KEPT = {"h1", "h2", "h3", "caption", "th", "dt", "dd", "li", "summary", "figcaption"}


class _Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._open: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag, attrs):
        if tag in ("svg", "style", "script"):
            self._skipped += 1
        if tag in _KEPT and not self._skipped:
            self._open.append(tag)
            self.lines.append(f"{tag}: ")

    def handle_endtag(self, tag):
        if tag in ("svg", "style", "script"):
            self._skipped -= 1
        elif self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data):
        if self._open and not self._skipped:
            self.lines[-1] += data


def outline(report: str) -> str:
    """A line for each heading, caption, header, term, link and note; an interval's ends are left out."""
    parser = _Outline()
    parser.feed(report)
    lines = [" ".join(line.split()) for line in parser.lines]
    return "\n".join(re.sub(r"\([\d.]+ to [\d.]+\)", "(interval)", line) for line in lines) + "\n"


if __name__ == "__main__":
    from reports.html import render
    from tests.reports.synthetic import rich

    Path(__file__).with_name("golden_outline.txt").write_text(outline(render(rich())), encoding="utf-8")
