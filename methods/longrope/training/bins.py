"""Bins of a mix: which documents by length, what they are made into, and how far they reach.

Shape letters: N pieces of documents, K segments.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError, unknown
from harness.types import content_hash
from methods.longrope.training.corpus import Corpus
from methods.longrope.training.segments import Kind, Piece, TrainingSegment, build_segment

Length = int | Literal["window", "target"]


@dataclass(frozen=True, kw_only=True)
class Bin:
    """A `[[data.bin]]` table: documents of some lengths, and their share of the tokens.

    kind: `short` packs documents under the original RoPE, without attention across; `long` joins them under the
        rescaled one; `pose` skips positions inside a window (one document a segment).
    share: of the mix's tokens, in any unit.
    above_length, max_length: its documents have more tokens than the first and at most the second, their special
        tokens included; `window` is the model's original window, `target` the length it is extended to.
    overlong: what becomes of documents beyond `max_length`: they are left out, truncated to it, or split into pieces
        of it (the last one shorter, and left out where it is too short for the bin).
    segment_length: other than the mix's.
    sources: labels of the sources the documents come from; all when empty.
    max_epochs: how often a document may be seen at most.
    """

    name: str
    kind: Kind
    share: float
    above_length: Length = 0
    max_length: Length | None = None
    overlong: Literal["left_out", "truncated", "split"] = "left_out"
    segment_length: Length | None = None
    sources: tuple[str, ...] = ()
    max_epochs: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.share < float("inf"):
            raise ValueError(f"share = {self.share:g}: it should be positive")
        if self.max_epochs < 1:
            raise ValueError(f"max_epochs = {self.max_epochs}: it should be at least 1")
        for name, least in (("above_length", 0), ("max_length", 1), ("segment_length", 1)):
            value = getattr(self, name)
            if isinstance(value, int) and value < least:
                raise ValueError(f"{name} = {value}: it should be a number of tokens, at least {least}")
        if self.max_length is None and self.overlong != "left_out":
            raise ValueError(f"overlong = '{self.overlong}': it should come with a max_length")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A bin's lengths in tokens, and what its segments are made with."""

    min_length: int
    max_length: int | None
    segment_length: int
    target_length: int
    document_mask: bool

    @classmethod
    def of(cls, bin: Bin, *, segment_length: Length, document_mask: bool, window: int, target: int) -> "Shape":
        """A bin's shape for a model. Raises RequestError for lengths that no segment can have."""

        def tokens(length: Length) -> int:
            return {"window": window, "target": target}[length] if isinstance(length, str) else length

        where = f"bin '{bin.name}'"
        above, longest = tokens(bin.above_length), None if bin.max_length is None else tokens(bin.max_length)
        n_tokens = tokens(bin.segment_length or segment_length)
        if n_tokens < 2:
            raise RequestError(f"{where}: segment_length = {n_tokens}: it should be at least 2 tokens")
        if longest is not None and longest <= above:
            raise RequestError(f"{where}: max_length = {longest}: it should be more than above_length = {above}")
        if bin.kind == "short" and (longest is None or longest > window):
            raise RequestError(
                f"{where}: max_length = {longest or 'none'}: "
                f"a 'short' bin is read under the original RoPE, it should be at most the window of {window} tokens"
            )
        if n_tokens > target:
            raise RequestError(f"{where}: segment_length = {n_tokens}: it should be at most the target of {target}")
        if bin.kind == "pose" and above < n_tokens - 1:
            raise RequestError(
                f"{where}: above_length = {above}: a 'pose' segment of {n_tokens} tokens is one document, "
                f"it should be at least {n_tokens - 1}"
            )
        return cls(
            min_length=above + 1,
            max_length=longest,
            segment_length=n_tokens,
            target_length=target,
            document_mask=document_mask,
        )


@dataclass(frozen=True, kw_only=True)
class BinCount:
    """What a bin asked for, what the corpus has, and what the stream takes.

    n_pieces, n_tokens_there: documents of the bin (parts of them, where they are split), special tokens included.
    epochs: how often the bin is gone through; above 1, documents repeat. n_tokens_cut: dropped at segments' ends.
    """

    name: str
    kind: Kind
    n_tokens_asked: int
    n_tokens_planned: int
    n_segments: int
    segment_length: int
    n_pieces: int
    n_tokens_there: int
    n_tokens_cut: int
    epochs: float


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedBin:
    """A bin over a corpus: its `n_segments` segments by number, each the same whenever it is asked for."""

    bin: Bin
    shape: Shape
    corpus: Corpus
    seed: int
    n_tokens_asked: int
    n_segments: int

    def segment(self, index: int) -> TrainingSegment:
        """The segment of a number, from 0."""
        first, stop = self._cuts.first_K[index], self._cuts.stop_K[index]
        return build_segment(
            self.corpus,
            [self._piece(place) for place in self._cuts.order[first:stop]],
            kind=self.bin.kind,
            bin=self.bin.name,
            n_tokens=self.shape.segment_length,
            document_mask=self.shape.document_mask,
            target_length=self.shape.target_length,
            seed=key_of(self.seed, self.bin.name, "positions", index) % (1 << 32),
        )

    def count(self) -> BinCount:
        """The bin's accounts."""
        cuts, length_N = self._cuts, self._pieces.length_N
        n_taken = int(cuts.stop_K.max(initial=0))
        return BinCount(
            name=self.bin.name,
            kind=self.bin.kind,
            n_tokens_asked=self.n_tokens_asked,
            n_tokens_planned=self.n_segments * self.shape.segment_length,
            n_segments=self.n_segments,
            segment_length=self.shape.segment_length,
            n_pieces=len(length_N),
            n_tokens_there=int(length_N.sum()),
            n_tokens_cut=int(length_N[cuts.order[:n_taken]].sum()) - len(cuts.stop_K) * self.shape.segment_length,
            epochs=n_taken / len(length_N),
        )

    def check(self) -> None:
        """Raises RequestError where the corpus cannot fill the bin."""
        missing = self.n_segments - len(self._cuts.stop_K)
        if missing:
            length_N = self._pieces.length_N
            epochs = "1 epoch" if self.bin.max_epochs == 1 else f"{self.bin.max_epochs} epochs"
            raise RequestError(
                f"bin '{self.bin.name}': {missing * self.shape.segment_length:,} of "
                f"{self.n_segments * self.shape.segment_length:,} tokens are missing: the corpus holds "
                f"{int(length_N.sum()):,} in {len(length_N):,} documents of {self._lengths()}, "
                f"seen in {epochs}: add texts, lower total_tokens or the share, or raise max_epochs"
            )

    @property
    def documents_N(self) -> NDArray[np.int64]:
        """The documents that its pieces come from."""
        return np.unique(self._pieces.document_N)

    def _piece(self, place: int) -> Piece:
        pieces = self._pieces
        return Piece(int(pieces.document_N[place]), int(pieces.start_N[place]), int(pieces.stop_N[place]))

    def _lengths(self) -> str:
        longest = self.shape.max_length
        upper = "or more" if longest is None or self.bin.overlong != "left_out" else f"to {longest}"
        return f"{self.shape.min_length} {upper} tokens"

    @cached_property
    def _pieces(self) -> "_Pieces":
        chosen_N = np.ones(len(self.corpus.lengths_N), dtype=bool)
        if self.bin.sources:
            for label in self.bin.sources:
                if label not in self.corpus.labels:
                    raise unknown(f"source in bin '{self.bin.name}'", label, self.corpus.labels)
            chosen_N = np.isin(self.corpus.source_N, [self.corpus.labels.index(label) for label in self.bin.sources])
        document_N = np.flatnonzero(chosen_N)
        if self.shape.max_length is not None and self.shape.max_length <= self.corpus.n_special:
            raise RequestError(
                f"bin '{self.bin.name}': max_length = {self.shape.max_length}: "
                f"it should be more than a document's {self.corpus.n_special} special tokens"
            )
        found = _Pieces.of(self.corpus, document_N, self.shape, self.bin.overlong)
        if not len(found.length_N):
            lengths_N = self.corpus.lengths_N[document_N] + self.corpus.n_special
            raise RequestError(
                f"bin '{self.bin.name}': no document has {self._lengths()}: "
                f"the corpus holds {len(lengths_N):,}, of {lengths_N.min()} to {lengths_N.max()} tokens"
            )
        return found

    @cached_property
    def _cuts(self) -> "_Cuts":
        length_N = self._pieces.length_N
        orders = (
            shuffled(len(length_N), key_of(self.seed, self.bin.name, "order", epoch))
            for epoch in range(self.bin.max_epochs)
        )
        return _Cuts.of(length_N, orders, self.shape.segment_length, self.n_segments)


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Parts of documents; `length_N` counts the special tokens around them."""

    document_N: NDArray[np.int64]
    start_N: NDArray[np.int64]
    stop_N: NDArray[np.int64]
    length_N: NDArray[np.int64]

    @classmethod
    def of(cls, corpus: Corpus, document_N: NDArray[np.int64], shape: Shape, overlong: str) -> "_Pieces":
        bare_N = corpus.lengths_N[document_N]
        is_longer_N = bare_N + corpus.n_special > (shape.max_length or np.inf)
        n_N = np.ones(len(bare_N), dtype=np.int64)
        size_N = bare_N
        if overlong == "left_out":
            n_N[is_longer_N] = 0
        else:
            # Room for all special tokens, though only the last piece has what stands behind the document.
            size_N = np.where(is_longer_N, (shape.max_length or 0) - corpus.n_special, bare_N)
            if overlong == "split":
                n_N = -(-bare_N // size_N)
        place_N = np.arange(n_N.sum()) - np.repeat(np.cumsum(n_N) - n_N, n_N)
        document_N, bare_N, size_N = (np.repeat(values_N, n_N) for values_N in (document_N, bare_N, size_N))
        start_N = place_N * size_N
        stop_N = np.minimum(start_N + size_N, bare_N)
        ends_N = np.where(stop_N == bare_N, len(corpus.trailing_ids), 0)
        length_N = len(corpus.leading_ids) + stop_N - start_N + ends_N
        kept_N = length_N >= shape.min_length
        return cls(document_N[kept_N], start_N[kept_N], stop_N[kept_N], length_N[kept_N])


@dataclass(frozen=True, eq=False)
class _Cuts:
    """Pieces in the order they are read in, epoch after epoch, and where in it each segment begins and ends (K)."""

    order: NDArray[np.int64]
    first_K: NDArray[np.int64]
    stop_K: NDArray[np.int64]

    @classmethod
    def of(
        cls, length_N: NDArray[np.int64], epochs: Iterator[NDArray[np.int64]], n_tokens: int, n_segments: int
    ) -> "_Cuts":
        """At most `n_segments` segments of `n_tokens`, as far as the epochs reach; each begins with a new piece."""
        order, ends = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)  # tokens up to the end of each piece
        edges = [0]
        for epoch in epochs:
            before = ends[-1] if len(ends) else 0
            order = np.concatenate((order, epoch))
            ends = np.concatenate((ends, before + np.cumsum(length_N[epoch])))
            while len(edges) <= n_segments:
                start = int(ends[edges[-1] - 1]) if edges[-1] else 0
                last = int(np.searchsorted(ends, start + n_tokens))
                if last == len(ends):
                    break
                edges.append(last + 1)
            else:
                break
        return cls(order, np.array(edges[:-1], dtype=np.int64), np.array(edges[1:], dtype=np.int64))


def shuffled(n: int, seed: int) -> NDArray[np.int64]:
    """The numbers below n in an order of the seed's, the same under every version of numpy."""
    # The raw stream of a bit generator never changes; what Generator makes of it may.
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def key_of(*parts: int | str) -> int:
    """A seed of 64 bits for a purpose."""
    return int(content_hash(list(parts))[:16], 16)


def identity(bin: Bin, shape: Shape) -> Mapping[str, object]:
    """What a bin's segments depend on beside corpus and seed."""
    return {
        **vars(shape),
        **{name: getattr(bin, name) for name in ("name", "kind", "overlong", "sources", "max_epochs")},
    }
