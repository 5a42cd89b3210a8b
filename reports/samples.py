"""The samples a report shows: a few of each method and suite, so that a reader sees what a score is made of."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from harness.types import Record
from reports.cells import CellResult
from reports.exports import clean
from reports.tables import Analysis

MOST_SAMPLES = 48  # of a model
_MOST_OUTPUT, _MOST_ANSWER, _MOST_ANSWERS, _MOST_EXCERPT = 400, 120, 6, 320


def sample_rows(model: str, analysis: Analysis, *, methods: Sequence[str]) -> list[dict[str, Any]]:
    """For each method and suite, at its longest length with answers: the first wrong and the first right answer.

    Wrong ones come first when there are too many; likelihood has no answers to show.
    """
    chosen = []
    for method in methods:
        for suite in analysis.manifest["suites"]:
            cells = [
                cell
                for cell in analysis.by_method.get((model, method), ())
                if cell.entry["suite"] == suite and cell.metric["kind"] != "likelihood" and cell.answered
            ]
            longest = max((cell.seq_len for cell in cells), default=0)
            chosen += list(_wrong_and_right([cell for cell in cells if cell.seq_len == longest]))
    kept = sorted(range(len(chosen)), key=lambda i: (chosen[i][0], i))[:MOST_SAMPLES]
    return [_row(*chosen[i][1:]) for i in sorted(kept)]


def _wrong_and_right(cells: Sequence[CellResult]) -> Iterator[tuple[int, CellResult, Record]]:
    """(rank, cell, record): rank 0 is a wrong answer, 1 a right one."""
    for rank, right in enumerate((False, True)):
        found = ((cell, record) for cell in cells for record in cell.answered.values())
        first = next((pair for pair in found if ((pair[1].score or 0) >= 1) == right), None)
        if first:
            yield rank, *first


def _row(cell: CellResult, record: Record) -> dict[str, Any]:
    answers = [clean(answer, _MOST_ANSWER) for answer in record.answers[:_MOST_ANSWERS]]
    excerpt = {place: clean(text, _MOST_EXCERPT) for place, text in record.excerpt.items()}
    return {
        "id": f"sample-{cell.entry['key'][:8]}-{_slug(record.example_id)}",
        "entry": cell.entry,
        "example_id": clean(record.example_id, 80),
        "score": record.score,
        "regime": record.regime,
        "depth": record.metadata.get("depth_fraction"),
        "n_prompt_tokens": record.n_prompt_tokens,
        "n_new_tokens": record.n_new_tokens,
        "head": excerpt.get("head"),
        "needle": _marked(excerpt["needle"], answers) if "needle" in excerpt else None,
        "tail": excerpt.get("tail"),
        "output": clean(record.output, _MOST_OUTPUT),
        "answers": answers,
        "n_answers": len(record.answers),
    }


def _marked(text: str, answers: Sequence[str]) -> list[tuple[bool, str]]:
    """The text in pieces: whether a piece is an answer, and the piece."""
    known = [re.escape(answer) for answer in answers if answer]
    if not known:
        return [(False, text)]
    return [(i % 2 == 1, piece) for i, piece in enumerate(re.split(f"({'|'.join(known)})", text)) if piece]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[:40]
