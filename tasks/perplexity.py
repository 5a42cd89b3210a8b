"""Perplexity of long texts, and how it changes along the window."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from harness.errors import RequestError, unknown
from harness.types import Example, Metric, Output, Score, Segment
from tasks import scoring
from tasks.base import Tokenizer, check_length, sample_id, sample_rng
from tasks.corpora import CORPORA, load_corpus
from tasks.haystack import Haystack, load
from tasks.tokens import encode, leading_ids

_HAYSTACKS = ("docs", "essay", "book", *CORPORA)
_TASKS = tuple(f"{haystack}_{way}" for haystack in _HAYSTACKS for way in ("whole", "sliding"))

_PROBE = 8000  # characters the tokens a character are counted on
_MARGIN = 1.2  # more text than that for each document, so that each has a place of its own


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """`{haystack}_whole`: one window of exactly `seq_len` tokens, scored from the second on.

    `{haystack}_sliding`: a document longer than the window, read in windows of exactly `seq_len` tokens that move on
    by `stride`; each token is scored once, in the first window that holds it, so all but the first window's have at
    least `seq_len - stride` tokens before them. The last window ends with the document.

    stride: in tokens; a quarter of `seq_len` unless given.
    document_tokens: twice `seq_len` unless given.
    books: the folder of the haystack `book`.
    data_dir: the folder with the folders `pg19` and `proofpile`, of .txt[.xz|.gz] files, a document each, or
    .jsonl[.gz] files with a document in each row's `text`; without it, these haystacks come from the Hub.

    PG19's and Proof-pile's documents are never joined: a window lies in one that is long enough. Papers read the
    beginnings of a few such documents; here the place is drawn.

    A BOS, where the tokenizer has one, stands in front of every window and counts as one of its tokens.
    """

    version: ClassVar[int] = 1

    stride: int | None = None
    document_tokens: int | None = None
    books: str | None = field(default=None, metadata={"path": True})
    data_dir: str | None = field(default=None, metadata={"path": True})

    def __post_init__(self) -> None:
        for name, value in (("stride", self.stride), ("document_tokens", self.document_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: it should be at least 1")

    def metric(self, task: str) -> Metric:
        """1 / perplexity."""
        return Metric(name="inverse_perplexity", kind="likelihood")

    def tasks(self) -> tuple[str, ...]:
        """Both ways of reading, on the books or on PG19 where a folder is given, else on the language reference."""
        haystack = "book" if self.books is not None else "docs" if self.data_dir is None else "pg19"
        return (f"{haystack}_whole", f"{haystack}_sliding")

    def check(self, task: str) -> None:
        """Raises RequestError for an unknown task, or a haystack that is not there."""
        self._haystack(task)

    def artifacts(self, task: str) -> Mapping[str, str]:
        """The hash of the haystack."""
        return {"haystack": self._haystack(task).sha256}

    def shortest(self, task: str, tokenizer: Tokenizer) -> int:
        """Room for one token more than what is context: the special tokens, or the first token, or a stride."""
        context = max(1, len(leading_ids(tokenizer)))
        if task.endswith("_whole"):
            return context + 1
        return context + max(4, self.stride or 0)

    def examples(self, task: str, *, seq_len: int, n: int, seed: int, tokenizer: Tokenizer) -> Iterator[Example]:
        """The first `n` documents, each from a place of its own. Raises RequestError when the haystack is shorter."""
        haystack = self._haystack(task)
        check_length("perplexity", task, seq_len=seq_len, shortest=self.shortest(task, tokenizer))
        leading = leading_ids(tokenizer)
        n_text = self._n_text(task, seq_len, len(leading))
        starts, stride = [0], self.stride or seq_len // 4
        while starts[-1] + seq_len - len(leading) < n_text:
            starts.append(min(starts[-1] + stride, n_text - seq_len + len(leading)))
        for index in range(n):
            rng = sample_rng("perplexity", self.version, task, seq_len=seq_len, index=index, seed=seed)
            place, ids = _document(haystack, rng, tokenizer, n_text, task)
            segments, scored = [], 0 if leading else 1
            for start in starts:
                window = leading + ids[start : start + seq_len - len(leading)]
                segments.append(Segment(token_ids=window, n_context=len(leading) + scored - start))
                scored = start + seq_len - len(leading)
            yield Example(
                id=sample_id(task, seq_len=seq_len, index=index, seed=seed),
                segments=tuple(segments),
                metadata={"haystack": haystack.kind, "start_character": place},
            )

    def score(self, task: str, example: Example, output: Output) -> Score:
        """1 / perplexity over all scored tokens; measures also `nll_by_position`, by place in the window."""
        score = scoring.likelihood(output.logprobs)
        first = [segment.n_context for segment in example.segments[: len(output.logprobs)]]
        by_position = scoring.nll_by_position(output.logprobs, first)
        return Score(value=score.value, measures={**score.measures, "nll_by_position": by_position})

    def _haystack(self, task: str) -> Haystack:
        if task not in _TASKS:
            raise unknown("perplexity task", task, _TASKS)
        name = task.split("_")[0]
        return load_corpus(name, self.data_dir) if name in CORPORA else load(name, books=self.books)

    def _n_text(self, task: str, seq_len: int, n_leading: int) -> int:
        """Tokens of a document, special ones aside."""
        if task.endswith("_whole"):
            return seq_len - n_leading
        document_tokens = self.document_tokens or 2 * seq_len
        if document_tokens < seq_len:
            raise RequestError(
                f"perplexity task '{task}': document_tokens = {document_tokens}: it should be at least the length, "
                f"{seq_len} tokens"
            )
        return document_tokens - n_leading


def _document(
    haystack: Haystack, rng: random.Random, tokenizer: Tokenizer, n_tokens: int, task: str
) -> tuple[int, list[int]]:
    """Where a document starts, and `n_tokens` tokens of running text from there."""
    probe = haystack.text[:_PROBE]
    chars_per_token = len(probe) / len(encode(tokenizer, probe))
    n_chars = int(_MARGIN * chars_per_token * n_tokens) + 200
    while n_chars <= haystack.longest:
        place = haystack.place(rng, n_chars)
        ids = encode(tokenizer, haystack.read(place, n_chars))
        if len(ids) >= n_tokens:
            return place, ids[:n_tokens]
        n_chars = int(_MARGIN * n_chars)
    what = "longest document" if haystack.keeps_apart else "haystack"
    raise RequestError(
        f"perplexity task '{task}': a document of {n_tokens} tokens is too long, the {what} should be "
        f"{_MARGIN} times that and has about {int(haystack.longest / chars_per_token)}"
    )
