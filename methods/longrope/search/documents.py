"""The documents a search measures candidates on: needles in long texts, or plain text, of an exact token length."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from harness.errors import RequestError
from harness.types import Segment
from methods.longrope.search.evaluator import Draw, Unit
from methods.longrope.search.haystacks import Dealt, HaystackKind, deal, load_haystack
from tasks.base import Tokenizer, sample_rng
from tasks.haystack import Haystack
from tasks.needle import Words, draw_keys, draw_values
from tasks.tokens import encode, encode_text, leading_ids
from tasks.weaving import Filler, Weave, depth_grid
from tasks.words import ADJECTIVES, NOUNS

_PROBE = 8000  # characters the tokens a character are counted on
_TOKENS_A_KEY = 128  # of `search_keys`: a needle and its question take about 50
_MARGIN = 1.2  # more text than that for each document: places are not equally dense, and each has one of its own


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a search minimises: the mean negative log-likelihood of an answer token, given its document.

    kind: `needle` scores the number that is asked for; `perplexity` every token of plain text, the paper's ablation.
    n_keys: needles in a document.
    n_asked: so many of them are asked for, one after another at the document's end, and the loss is of all the answers:
        what one document says costs one reading. 1 is the paper's.
    search_keys: so many needles in the documents that candidates are proposed by, at most one in 128 tokens, and all of
        them are asked for; the last choice and the report have `n_keys`. Where a model answers most documents of a few
        keys, only rare failures tell candidates apart; among many keys every document does. None: `n_keys` there too.
    position: where the first asked for stands: `start`, right behind the introduction, as in the paper; `grid`, at
        `depths` in turn; `uniform`, anywhere. The others stand anywhere.
    depths: how many depths the grid has from 0 to 1, or a list of fractions.
    haystacks: the documents go round them. `docs` has other topics than the suites' `docs`; `pg19` is its validation
        books, from the Hub or the folder `pg19_validation` in `data_dir`; `book` is the texts of the folder `books`.
        Books are read one at a time, those that are too short for the target length not at all.
    documents: `fresh` ones for each generation or step, or always the same, `fixed`.
    n_documents: of one evaluation.
    n_books: how many of the books `search` documents are made from; all of those dealt to it unless given.
    checkpointing: activations of a gradient are computed again instead of kept, at 4 forward passes instead of 3;
        by default on a GPU only.
    batch_tokens: of documents that are read at once.

    Source: arXiv:2502.20082 section 3.2 and appendix C.
    Differs: a colon ends the prompt, as in the needle, so that the answer begins with a number.
    """

    version: ClassVar[int] = 1  # raised when the same draw gives other documents

    kind: Literal["needle", "perplexity"] = "needle"
    n_keys: int = 1
    n_asked: int = 1
    search_keys: int | None = None
    position: Literal["start", "grid", "uniform"] = "start"
    depths: int | tuple[float, ...] = 10
    haystacks: tuple[HaystackKind, ...] = ("docs",)
    documents: Literal["fresh", "fixed"] = "fresh"
    n_documents: int = 8
    books: str | None = field(default=None, metadata={"path": True})
    n_books: int | None = None
    data_dir: str | None = field(default=None, metadata={"path": True})
    checkpointing: bool | None = None
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        depth_grid(self.depths)
        for name in ("n_keys", "n_asked", "search_keys", "n_documents", "n_books", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: it should be at least 1")
        for name in ("n_keys", "search_keys"):
            value = getattr(self, name)
            if value is not None and value > len(ADJECTIVES) * len(NOUNS):
                raise ValueError(f"{name} = {value}: there are {len(ADJECTIVES) * len(NOUNS)} keys to choose from")
        if self.search_keys is not None and self.search_keys < self.n_keys:
            raise ValueError(f"search_keys = {self.search_keys}: it should be at least n_keys = {self.n_keys}")
        if self.n_asked > self.n_keys:
            raise ValueError(f"n_asked = {self.n_asked}: it should be at most n_keys = {self.n_keys}")
        if self.search_keys is not None and self.kind == "perplexity":
            raise ValueError(f"search_keys = {self.search_keys}: kind = 'perplexity' has no keys in its search")
        if not self.haystacks or len(set(self.haystacks)) < len(self.haystacks):
            raise ValueError(f"haystacks = {list(self.haystacks)}: it should name one or more, each once")
        if self.kind == "perplexity" and "noise" in self.haystacks:
            raise ValueError("haystacks has 'noise', whose perplexity says nothing: kind = 'perplexity' needs prose")
        if self.n_books is not None and not {"book", "pg19"} & set(self.haystacks):
            raise ValueError(f"n_books = {self.n_books}: haystacks should have 'book' or 'pg19' for it")

    def checkpoints(self, *, on_gpu: bool) -> bool:
        """Whether activations of a gradient are computed again."""
        return on_gpu if self.checkpointing is None else self.checkpointing

    def keys(self, draw: Draw) -> tuple[int, int]:
        """How many needles a document of a draw has, and how many of them are asked for."""
        if self.search_keys is None or draw.split != "search":
            return self.n_keys, self.n_asked
        n_keys = min(self.search_keys, max(self.n_keys, draw.seq_len // _TOKENS_A_KEY))
        return n_keys, n_keys

    def unit(self, target_length: int, *, on_gpu: bool) -> Unit:
        """What a forward-equivalent is: one pass over the documents of an evaluation at the target length."""
        gradient_passes = 4 if self.checkpoints(on_gpu=on_gpu) else 3
        return Unit(n_tokens=self.n_documents * target_length, gradient_passes=gradient_passes)


@dataclass(frozen=True, kw_only=True)
class Document:
    """Tokens, special ones in front included; those behind the first `n_context` are scored.

    questions: begin and end of the later questions, which stand behind it and are not scored.
    answers: the numbers that are asked for, in their order.
    needle_at: the first token of the first needle that is asked for. depth_fraction: where it should lie in the text.
    """

    token_ids: list[int]
    n_context: int
    haystack: str
    questions: tuple[tuple[int, int], ...] = ()
    answers: tuple[str, ...] = ()
    depth_fraction: float | None = None
    needle_at: int | None = None

    @property
    def segment(self) -> Segment:
        """The same, as the harness scores it: later questions too."""
        return Segment(token_ids=self.token_ids, n_context=self.n_context)


class Documents:
    """Makes the documents of a draw, the same ones for the same draw in any process.

    Raises RequestError where a text is absent, or too short for documents of `target_length` tokens.
    """

    def __init__(self, objective: Objective, tokenizer: Tokenizer, *, target_length: int, seed: int = 0) -> None:
        self.objective = objective
        self._tokenizer = tokenizer
        self._seed = seed
        self._leading = leading_ids(tokenizer)
        self._chars_per_token: dict[str, float] = {}
        self._dealt = {kind: self._deal(kind, target_length) for kind in objective.haystacks}
        self._prose: dict[HaystackKind, Dealt] = {kind: dealt for kind, dealt in self._dealt.items() if kind != "noise"}
        if not self._prose:
            self._prose = {"docs": self._deal("docs", target_length)}

    @property
    def splits(self) -> Mapping[str, str]:
        """haystack -> what keeps its splits apart: other `documents`, other `places`, or other `samples` only."""
        return {kind: dealt.by for kind, dealt in self._dealt.items()}

    def artifacts(self) -> Mapping[str, str]:
        """haystack -> sha256 of its whole text."""
        return {kind: dealt.sha256 for kind, dealt in self._dealt.items()}

    def make(self, draw: Draw) -> list[Document]:
        """The documents of the objective, each of exactly `draw.seq_len` tokens. Raises RequestError."""
        if self.objective.kind == "perplexity":
            return [self._plain("perplexity", self._dealt, draw, i) for i in range(draw.n_documents)]
        return [self._needle(draw, i) for i in range(draw.n_documents)]

    def plain(self, draw: Draw) -> list[Document]:
        """Plain text of exactly `draw.seq_len` tokens, every token of it scored. Raises RequestError."""
        return [self._plain("plain", self._prose, draw, i) for i in range(draw.n_documents)]

    def _needle(self, draw: Draw, index: int) -> Document:
        objective, rng = self.objective, self._rng("needle", draw, index)
        n_keys, n_asked = objective.keys(draw)
        turn, place = divmod(draw.block * draw.n_documents + index, len(objective.haystacks))
        kind = objective.haystacks[place]
        filler = self._filler(self._dealt[kind].haystacks[draw.split], rng, draw.seq_len)
        keys = draw_keys(rng, n_keys)
        values = draw_values(rng, n_keys, filler.text)
        words, depth = Words(1), self._depth(rng, turn)
        needles = [words.needle(key, value) for key, value in zip(keys, values, strict=True)]
        answer = words.answer(values[:1])
        more = [
            [encode(self._tokenizer, text) for text in (words.tail(key) + ":", words.answer([value]))]
            for key, value in zip(keys[1:n_asked], values[1:], strict=False)
        ]
        n_more = sum(len(ids) for pair in more for ids in pair)
        weave = Weave(
            head=words.head(),
            main=needles[0],
            depth=depth,
            others=[(needle, rng.random()) for needle in needles[1:]],
            tail=words.tail(keys[0]) + ":",
            answer=lambda context: answer,
        )
        try:
            woven = weave.exactly(filler, self._tokenizer, n_tokens=draw.seq_len - n_more)
        except ValueError as error:
            raise RequestError(
                f"objective: n_keys = {n_keys}: the needles, the questions and a sentence of text do not fit "
                f"into {draw.seq_len} tokens"
            ) from error
        ids, questions = list(woven.ids), []
        for question, answered in more:
            questions.append((len(ids), len(ids) + len(question)))
            ids += question + answered
        return Document(
            token_ids=ids,
            n_context=woven.n_prompt,
            haystack=kind,
            questions=tuple(questions),
            answers=tuple(values[:n_asked]),
            depth_fraction=depth,
            needle_at=woven.starts[0],
        )

    def _plain(self, name: str, dealt: Mapping[HaystackKind, Dealt], draw: Draw, index: int) -> Document:
        rng, kinds = self._rng(name, draw, index), list(dealt)
        kind = kinds[(draw.block * draw.n_documents + index) % len(kinds)]
        haystack, n_tokens = dealt[kind].haystacks[draw.split], draw.seq_len - len(self._leading)
        n_chars = self._n_chars(haystack, n_tokens)
        while n_chars <= haystack.longest:
            ids = encode(self._tokenizer, haystack.read(haystack.place(rng, n_chars), n_chars))
            if len(ids) >= n_tokens:
                ids = self._leading + ids[:n_tokens]
                return Document(token_ids=ids, n_context=len(self._leading) or 1, haystack=kind)
            n_chars = int(_MARGIN * n_chars)
        raise self._too_short(haystack, draw.seq_len)

    def _filler(self, haystack: Haystack, rng: random.Random, n_tokens: int) -> Filler:
        """At least so many tokens, of one document where they are kept apart, else round and round."""
        n_chars = self._n_chars(haystack, n_tokens)
        while not haystack.keeps_apart or n_chars <= haystack.longest:
            text = haystack.filler(haystack.place(rng, n_chars), n_chars)
            tokens = encode_text(self._tokenizer, text)
            if len(tokens.ids) >= n_tokens:
                return Filler(text, tokens)
            n_chars = int(_MARGIN * n_chars)
        raise self._too_short(haystack, n_tokens)

    def _depth(self, rng: random.Random, turn: int) -> float:
        if self.objective.position == "start":
            return 0.0
        if self.objective.position == "uniform":
            return rng.random()
        depths = depth_grid(self.objective.depths)
        return depths[turn % len(depths)]

    def _deal(self, kind: HaystackKind, target_length: int) -> Dealt:
        objective = self.objective
        haystack = load_haystack(kind, books=objective.books, data_dir=objective.data_dir)
        n_chars = self._n_chars(haystack, target_length)
        if haystack.keeps_apart and haystack.longest < n_chars:
            raise self._too_short(haystack, target_length)
        rng = sample_rng("longrope_search", Objective.version, kind, seq_len=target_length, index=0, seed=self._seed)
        dealt = deal(haystack, n_chars=n_chars, n_books=objective.n_books if haystack.keeps_apart else None, rng=rng)
        if objective.kind == "perplexity":
            shortest = min(dealt.haystacks.values(), key=lambda part: part.longest)
            if shortest.longest < n_chars:
                raise self._too_short(shortest, target_length)
        return dealt

    def _n_chars(self, haystack: Haystack, n_tokens: int) -> int:
        """Characters that a document of so many tokens is cut from."""
        if haystack.kind not in self._chars_per_token:
            probe = haystack.text[:_PROBE]
            self._chars_per_token[haystack.kind] = len(probe) / len(encode(self._tokenizer, probe))
        return int(_MARGIN * self._chars_per_token[haystack.kind] * n_tokens) + 200

    def _too_short(self, haystack: Haystack, n_tokens: int) -> RequestError:
        missing = (self._n_chars(haystack, n_tokens) - haystack.longest) / self._chars_per_token[haystack.kind]
        what = "longest text" if haystack.keeps_apart else "part of a split"
        return RequestError(
            f"objective: the haystack '{haystack.kind}' is too short for documents of {n_tokens} tokens: its {what} "
            f"should be {_MARGIN} times that, about {max(1, round(missing))} tokens are missing"
        )

    def _rng(self, name: str, draw: Draw, index: int) -> random.Random:
        task = f"{name}/{draw.split}/{draw.block}"
        return sample_rng(
            "longrope_search", Objective.version, task, seq_len=draw.seq_len, index=index, seed=self._seed
        )
