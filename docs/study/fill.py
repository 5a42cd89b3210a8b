"""Writes the numbers of README.md, and of the study's part of the project's, from the results in this folder.

    python docs/study/fill.py            # after a new run: the text's numbers follow
    python docs/study/fill.py --check    # exits 1 where one differs

A table stands between `<!-- table NAME -->` and `<!-- end -->` and is written whole. In the text a number stands before
a comment with its place, `FILE KIND KEYS... FIELD[:FORMAT]`:

    0.93<!--summary group trained_longrope2 retrieval 4096 score:.2f-->
    4096<!--summary effective trained_longrope2 retrieval effective_length-->
    0.99<!--summary retention trained_longrope2 all low:.2f-->
    0.11<!--factors/fast file losses.found.test:.2f-->

FILE is one of this folder's without its suffix; `KINDS` says what the keys choose.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from reports import published
from reports.text import markdown_table

HERE = Path(__file__).parent
TEXTS = (HERE / "README.md", HERE.parents[1] / "README.md")
MARKED = re.compile(r"(?P<value>[^\s|<>()\[\],]+)(?P<comment><!--(?P<place>[^>]*)-->)")
TABLE = re.compile(r"(?P<head><!-- table (?P<name>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)

LENGTHS = (512, 1024, 2048, 4096, 8192)
MARKS = {"first": " **1st**", "tied": " =", "behind": ""}


@cache
def load(name: str) -> Any:
    """A committed result."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def one(rows: Iterable[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    """The only row with these values. Raises LookupError."""
    found = [row for row in rows if all(str(row[name]) == str(value) for name, value in keys.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows of {keys}")
    return found[0]


def score(data: Any, method: str, suite: str, task: str, seq_len: Any) -> dict[str, Any]:
    """A cell's score."""
    return one(data["scores"], method=method, suite=suite, task=task, seq_len=seq_len)


def group(data: Any, method: str, name: str, seq_len: Any) -> dict[str, Any]:
    """A method in a suite or group at a length, and how it stands there."""
    return one(data["standings"], method=method, group=name, seq_len=seq_len)


def effective(data: Any, method: str, name: str) -> dict[str, Any]:
    """A method's effective length in a suite or group."""
    return one(data["effective_length"], method=method, group=name)


def retention(data: Any, method: str, name: str) -> dict[str, Any]:
    """A method's retention in a suite, or in `all`."""
    return one(data["retention"], method=method, group=name)


def factors(data: Any) -> dict[str, Any]:
    """A search's result: all it says, and where its factors reach the ratio."""
    ratio = data["target_length"] / data["original_max_position_embeddings"]
    found = data["long_factor"] if "long_factor" in data else data["rescale_factors"]
    return data | {
        "ratio": ratio,
        "factors": found,
        "largest": max(found),
        "largest_over_ratio": max(found) / ratio,
        "first_at_ratio": next((i for i, factor in enumerate(found) if factor >= ratio), None),
        "first_moved": next(i for i, factor in enumerate(found) if factor >= 1.005),
    }


def whole(data: dict[str, Any]) -> dict[str, Any]:
    """A file as it is."""
    return data


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "score": score,
    "group": group,
    "effective": effective,
    "retention": retention,
    "factors": factors,
    "file": whole,
}


def value(place: str) -> str:
    """What the text should say. Raises LookupError for a place that is not in the results."""
    file, kind, *keys, field = place.split()
    name, _, form = field.partition(":")
    row: Any = KINDS[kind](load(file), *keys)
    for part in name.split("."):
        row = row[int(part)] if isinstance(row, list) else row[part]
    if row is None:
        return "-"
    return format(row, form) if form else str(row)


def methods() -> list[str]:
    """Those of the study, in its order."""
    return list(dict.fromkeys(row["method"] for row in load("summary")["scores"]))


def trained() -> list[str]:
    """The checkpoints among them."""
    return [method for method in methods() if method.startswith("trained_")]


def main_table() -> str:
    """Every method: retrieval by length, effective length, retention."""
    return _reach(methods())


def front_table() -> str:
    """The same of the best known."""
    return _reach(("vanilla", "position_interpolation", "ntk", "yarn", "longrope2_fast", *trained()))


def _reach(shown: Iterable[str]) -> str:
    rows = []
    for method in shown:
        row = _by_length(load("summary"), method, LENGTHS)
        kept = retention(load("summary"), method, "all") if method != "vanilla" else None
        row.append("base" if kept is None else f"{kept['retention']:.2f} ({_interval(kept)})")
        rows.append(row)
    return markdown_table(["method", *map(str, LENGTHS), "effective length", "retention"], rows)


def _by_length(data: dict[str, Any], method: str, lengths: Iterable[int]) -> list[str]:
    """Retrieval at each length, who is first there, and the effective length."""
    places = [group(data, method, "retrieval", length) for length in lengths]
    reach = effective(data, method, "retrieval")
    scores = [f"{place['score']:.2f}{MARKS[place['verdict']]}" for place in places]
    return [f"`{method}`", *scores, f"[{reach['effective_length'] or '<512'}, {reach['point_rule'] or '<512'}]"]


def more_table() -> str:
    """The other lengths on more samples."""
    return _lengths_table("more samples", load("more"), LENGTHS[:-1])


def far_table() -> str:
    """The longest length on more samples."""
    data, length = load("far"), LENGTHS[-1]
    tasks = (("needle_4_keys", "keys4_docs"), ("ruler", "niah_single_1"), ("ruler", "niah_multikey_1"))
    rows = []
    for method in dict.fromkeys(row["method"] for row in data["scores"]):
        place = group(data, method, "retrieval", length)
        behind = "" if place["verdict"] == "first" else f"{place['difference']:.2f} ({_interval(place)})"
        cells = (score(data, method, suite, task, length) for suite, task in tasks)
        shown = f"{place['score']:.2f}{MARKS[place['verdict']]}"
        rows.append([f"`{method}`", *(f"{cell['score']:.2f} ({_interval(cell)})" for cell in cells), shown, behind])
    head = ["at 8192", *(f"`{task}`" for _, task in tasks), "retrieval", "to the first"]
    return markdown_table(head, rows)


def _interval(row: dict[str, Any]) -> str:
    return f"{row['low']:.2f} to {row['high']:.2f}"


def searched_table() -> str:
    """Without training, after a short search and a long one."""
    return _lengths_table("without training", load("searched"), LENGTHS)


def _lengths_table(name: str, data: dict[str, Any], lengths: tuple[int, ...]) -> str:
    """Retrieval by length and effective length of every method of a result."""
    rows = [_by_length(data, method, lengths) for method in dict.fromkeys(row["method"] for row in data["scores"])]
    return markdown_table([name, *map(str, lengths), "effective length"], rows)


def perplexity_table() -> str:
    """Perplexity inside the window and at 4096."""
    places = [(task, length) for task in ("docs_whole", "essay_whole") for length in (128, 256, 512)]
    rows = []
    for method in ("vanilla", "yarn", "longrope2_fast", *trained()):
        found = [score(load("summary"), method, "perplexity_short", *place) for place in places]
        found.append(score(load("summary"), method, "perplexity_long", "essay_whole", 4096))
        rows.append([f"`{method}`", *(f"{cell['perplexity']:.0f}" for cell in found)])
    return markdown_table(["method", *(f"{t.split('_')[0]}, {n}" for t, n in places), "essay, 4096"], rows)


def search_table() -> str:
    """What the searches found."""
    rows = []
    searches = {"fast": "study-tiny-fast", "fast-300": "tiny-8192"}
    searches |= {name: f"study-tiny-{name}" for name in ("longrope2", "longrope")}
    for name, preset in searches.items():
        found = factors(load(f"factors/{name}"))
        losses, spent = found["losses"], found["search"]
        first = found["first_at_ratio"]
        rows.append(
            [
                f"`{preset}`",
                f"{spent['spent']:.0f} of {spent['n_documents']} documents",
                f"{losses['found']['held_out']:.2f}",
                f"{losses['yarn']['held_out']:.2f}",
                f"{found['documents']['held_out']['n_documents']}",
                "none" if first is None else str(first),
                f"{found['largest_over_ratio']:.2f}",
                f"{found['attention_factor']:.2f}",
            ]
        )
    head = ["search", "forward-equivalents", "held-out loss", "YaRN's", "documents", "first pair at the ratio"]
    return markdown_table([*head, "largest factor over the ratio", "attention factor"], rows)


def ablation_table() -> str:
    """The searches' ablations, and the tie to NTK without a search."""
    files = {"base": "base", "theoretical_pair": "theoretical-pair", "plain_perplexity": "perplexity"}
    files["all_pairs"] = "all-pairs"
    rows = []
    for method in (*files, "tied_to_ntk", "lowest_pairs_kept", "yarn"):
        cells = [score(load("ablations"), method, "needle_4_keys", f"keys4_{text}", 2048) for text in ("docs", "noise")]
        shown = [f"{cell['score']:.2f} ({_interval(cell)})" for cell in cells]
        loss = load(f"factors/ablation-{files[method]}")["losses"]["found"] if method in files else None
        shown.append(f"{loss['test']:.2f} ± {loss['test_standard_error']:.2f}" if loss else "")
        rows.append([f"`{method}`", *shown])
    return markdown_table(["", "4 keys in docs, 2048", "4 keys in noise, 2048", "test loss of the search"], rows)


def mixing_table() -> str:
    """Training with and without mixing."""
    rows = []
    for method in ("vanilla", "mixed", "unmixed", "unmixed_original_inside", "tied_to_ntk"):
        places = [group(load("mixing"), method, "retrieval", length) for length in (512, 4096)]
        cells = [score(load("mixing"), method, "perplexity_short", "essay_whole", n) for n in (128, 256, 512)]
        rows.append(
            [
                f"`{method}`",
                *(f"{place['score']:.2f}{MARKS[place['verdict']]}" for place in places),
                " ".join(f"{cell['perplexity']:.0f}" for cell in cells),
            ]
        )
    return markdown_table(["", "retrieval, 512", "retrieval, 4096", "perplexity of essays at 128, 256, 512"], rows)


def paper_table() -> str:
    """What the paper printed for the same ablations: RULER at 128k, percent, with the ablation and without it."""
    tables = published.load("longrope2").tables
    rows = []
    for model, name in (("phi3", "Phi3-mini"), ("llama3", "LLaMA3-8B")):
        for number, ours, row, beside in PAPER:
            table = f"ablation-{number}-{model}"
            scores = [published.number_beside(tables, table, each, 131_072) for each in (row, beside)]
            rows.append([name, tables[table].place, ours, f"{row}: {scores[0]:.2f}", f"{beside}: {scores[1]:.2f}"])
    return markdown_table(["the paper's model", "table", "ours", "with the ablation", "without"], rows)


# Table, our row, the ablated row and the whole one. Table 5 changes baselines: the theoretical pair is the ablation.
PAPER = (
    ("5", "`theoretical_pair`", "YaRN", "YaRN-rcd"),
    ("5", "`theoretical_pair`", "NTK", "NTK-rcd"),
    ("6", "`plain_perplexity`", "plain PPL", "LongRoPE2"),
    ("7", "`unmixed`", "no mixed training", "LongRoPE2"),
    ("10", "`all_pairs`", "all dimensions searched", "LongRoPE2"),
)

TABLES: dict[str, Callable[[], str]] = {
    "main": main_table,
    "front": front_table,
    "far": far_table,
    "more": more_table,
    "searched": searched_table,
    "perplexity": perplexity_table,
    "searches": search_table,
    "ablations": ablation_table,
    "mixing": mixing_table,
    "paper": paper_table,
}


def filled(text: str) -> str:
    """The text with every table and every marked number as the results have it."""
    text = TABLE.sub(lambda match: f"{match['head']}{TABLES[match['name']]()}\n{match['end']}", text)
    return MARKED.sub(lambda match: value(match["place"].strip()) + match["comment"], text)


def main() -> int:
    """Fills in, or checks; returns the exit code."""
    differs = False
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        new = filled(text)
        differs |= new != text
        if "--check" not in sys.argv[1:]:
            path.write_text(new, encoding="utf-8")
    return int(differs and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
