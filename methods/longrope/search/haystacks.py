"""The texts a search draws its documents from, dealt to the three splits."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from harness.errors import RequestError
from methods.longrope.search.evaluator import Split
from tasks.corpora import load_corpus
from tasks.haystack import Haystack, load, training_docs

HaystackKind = Literal["noise", "docs", "essay", "book", "pg19"]

_SPLITS: tuple[Split, ...] = get_args(Split)
_ENOUGH = 3 * len(_SPLITS)  # documents, where each split gets some of its own
_Span = tuple[int, int]  # start and length of a document in its text


@dataclass(frozen=True)
class Dealt:
    """A haystack for each split.

    by: what keeps the splits apart: other `documents`, other `places` of the same documents, or other `samples` only.
    """

    haystacks: Mapping[Split, Haystack]
    by: Literal["documents", "places", "samples"]
    sha256: str


def load_haystack(kind: HaystackKind, *, books: str | None, data_dir: str | None) -> Haystack:
    """A haystack that no suite measures on; books are read one at a time. Raises RequestError."""
    if kind == "docs":
        return training_docs()
    if kind == "pg19":
        return load_corpus("pg19_validation", data_dir)
    if kind == "book" and books is None:
        raise RequestError("objective: the haystack 'book' needs a folder of texts: books = \"path\"")
    haystack = load(kind, books=books)
    return replace(haystack, keeps_apart=True) if kind == "book" else haystack


def deal(haystack: Haystack, *, n_chars: int, n_books: int | None, rng: random.Random) -> Dealt:
    """The haystack, dealt. Raises RequestError where fewer than `n_books` documents are long enough.

    n_chars: the shortest document that is of use, where they are read one at a time; at least one should be.
    n_books: so many documents for `search`, drawn from `rng`, and the others for the other splits.
    """
    documents = [span for span in haystack.documents if not haystack.keeps_apart or span[1] >= n_chars]
    if n_books is not None:
        if n_books > len(documents):
            raise RequestError(
                f"objective: n_books = {n_books}: it should be at most {len(documents)}, so many of the "
                f"{len(haystack.documents)} texts in '{haystack.kind}' are long enough"
            )
        chosen = sorted(rng.sample(documents, n_books))
        rest = [span for span in documents if span not in chosen]
        if len(rest) >= 2:
            return _dealt(haystack, [chosen, *_balanced(rest, 2)], "documents")
        documents = chosen
    if n_books is None and len(documents) >= _ENOUGH:
        return _dealt(haystack, _balanced(documents, len(_SPLITS)), "documents")
    thirds = [(start, length // 3) for start, length in documents if length // 3 >= n_chars]
    if haystack.keeps_apart and thirds:
        places = [[(start + i * length, length) for start, length in thirds] for i in range(len(_SPLITS))]
        return _dealt(haystack, places, "places")
    return _dealt(haystack, [documents] * len(_SPLITS), "samples")


def _balanced(documents: Sequence[_Span], n: int) -> list[list[_Span]]:
    """The documents in `n` parts of about the same length, the longest ones in different parts."""
    parts: list[list[_Span]] = [[] for _ in range(n)]
    for document in sorted(documents, key=lambda span: (-span[1], span[0])):
        min(parts, key=lambda part: sum(length for _, length in part)).append(document)
    return [sorted(part) for part in parts]


def _dealt(
    haystack: Haystack, parts: Sequence[Sequence[_Span]], by: Literal["documents", "places", "samples"]
) -> Dealt:
    def part_of(spans: Sequence[_Span]) -> Haystack:
        if haystack.keeps_apart:
            return replace(haystack, documents=tuple(spans))
        texts = [haystack.text[start : start + length] for start, length in spans]
        return Haystack.of(haystack.kind, texts, keeps_lines=haystack.keeps_lines)

    found = {split: part_of(spans) for split, spans in zip(_SPLITS, parts, strict=True)}
    return Dealt(found, by, haystack.sha256)
