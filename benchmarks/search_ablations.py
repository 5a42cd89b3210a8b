"""The ablation presets of the search on tiny-llama, beside what the LongRoPE2 paper's tables 5, 6 and 10 say.

The paper's numbers are RULER at 128k, of models trained after the search; ours are needle losses of an untrained model.
What can be compared is the sign: whether the ablation is worse, and for whom.
"""

import argparse
import tomllib
from collections.abc import Sequence
from typing import Any

from search_rows import how_scaled, number, over, scaled, with_error

from harness.config import find_preset
from reports import published
from reports.text import DASH, markdown_table

BASE = "ablation-base"
_AT = 131_072
# preset -> what it changes, the paper's ablation, and the rows (ablated, whole) of its table that it stands beside.
ABLATIONS: dict[str, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    BASE: ("LongRoPE2: needles, critical pair searched, NTK below it", "", ()),
    "ablation-theoretical-pair": (
        "theoretical critical pair",
        "ablation-5",
        (("YaRN", "YaRN-rcd"), ("NTK", "NTK-rcd")),
    ),
    "ablation-perplexity": ("plain perplexity", "ablation-6", (("plain PPL", "LongRoPE2"),)),
    "ablation-all-pairs": ("all pairs searched", "ablation-10", (("all dimensions searched", "LongRoPE2"),)),
}
BOOKS = {"ablation-books-1": ("1 book", "", ()), "ablation-books-10": ("10 books", "", ())}
_MODELS = {"phi3": "Phi3-mini", "llama3": "LLaMA3-8B"}


def searches(args: argparse.Namespace, search: Any) -> list[Any]:
    """A search for each preset, on the same documents. `search` makes one of a label and a configuration."""
    found = []
    for preset in [*ABLATIONS, *(BOOKS if args.books else ())]:
        config = tomllib.loads(find_preset(preset, "search").read_text(encoding="utf-8"))
        config |= {"target_length": args.lengths[0], "seed": 0}
        config["objective"]["n_documents"] = args.documents
        if preset in BOOKS:
            config["objective"]["books"] = args.books
        else:
            config["objective"]["haystacks"] = ["docs"]  # what plain perplexity can be measured on, too
        config["search"] |= {"budget": args.budget[0], **scaled(args)}
        config["report"] |= {"test_documents": args.test_documents, "curve_points": args.curve_points}
        found.append(search(label=preset, config=config))
    return found


def markdown(made: Sequence[Any], found: Sequence[dict[str, Any]]) -> str:
    """A row an ablation: our loss beside the base's, the paper's score beside its own."""
    losses = {search.label: factors["losses"] for search, factors in zip(made, found, strict=True)}
    base = losses[BASE]["found"]["test"]
    rows = []
    for preset, ours in losses.items():
        what, paper, beside = (ABLATIONS | BOOKS)[preset]
        loss, error = ours["found"]["test"], ours["found"]["test_standard_error"]
        shared = preset not in BOOKS
        rows.append(
            [
                what,
                with_error(loss, error),
                over(loss, ours["yarn"]["test"]),
                over(loss, base) if shared and preset != BASE else DASH,
                "; ".join(_printed(paper, model, rows_) for model in _MODELS for rows_ in beside) or DASH,
            ]
        )
    facts = found[0]
    note = (
        f"tiny-llama, {facts['original_max_position_embeddings']} to {facts['target_length']} tokens, "
        f"{facts['documents']['test']['n_documents']} test documents of four keys, "
        f"{number(facts['search']['spent'])} forward-equivalents; {how_scaled(facts)}. The paper: RULER at 128k, "
        "percent, after training; with the ablation, then without it."
    )
    return f"{note}\n\n" + markdown_table(
        ["ablation", "our loss", "over YaRN", "over the base", "the paper's RULER at 128k"], rows
    )


def _printed(table: str, model: str, rows: tuple[str, str]) -> str:
    """Both printed scores of a row, from the table of the ablation or the one it stands beside."""
    tables, ablation = published.load("longrope2").tables, f"{table}-{model}"
    scores = [published.number_beside(tables, ablation, row, _AT) for row in rows]
    names = " and ".join(rows)
    return f"{_MODELS[model]} {tables[ablation].place}, {names}: {scores[0]:.2f}, {scores[1]:.2f}"
