"""A mix of bins as one stream of segments: the same for a seed, whoever reads it and wherever it was left.

In a preset it is the table `[data]` with `[[data.source]]` and `[[data.bin]]`.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.catalogue import build
from harness.errors import RequestError
from harness.types import JSON, content_hash
from methods.longrope.training.bins import Bin, BinCount, Length, PlannedBin, Shape, identity, key_of, shuffled
from methods.longrope.training.corpus import Corpus
from methods.longrope.training.segments import TrainingSegment

_VERSION = 1  # raised when the stream of a seed changes


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How much of what, in which order.

    total_tokens: of the whole stream; each bin gets its share, in whole groups of segments (see `BinCount`).
    segment_length: of every bin that names no other.
    document_mask: long segments keep attention inside each document and restart positions there, as the code released
        with LongRoPE2 does; else they have full attention, as its paper says.
    group_size: so many segments in a row are of one bin, so that a batch can have one regime.
    """

    bins: tuple[Bin, ...]
    total_tokens: int
    segment_length: Length = "target"
    document_mask: bool = False
    group_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("total_tokens", "group_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: it should be at least 1")
        names = [bin.name for bin in self.bins]
        if not names:
            raise ValueError("there is no bin: write a table [[data.bin]]")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two bins are called '{name}': give each its own name")

    @classmethod
    def from_table(cls, table: Mapping[str, JSON]) -> "Mix":
        """The mix of a preset's table `[data]`, its sources left aside. Raises RequestError."""
        tables = table.get("bin", [])
        if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
            raise RequestError("data.bin: it should be a list of tables: write [[data.bin]]")
        bins = tuple(build(Bin, entry, where=f"data.bin {_named(entry, i)}") for i, entry in enumerate(tables, start=1))
        settings: _Settings = build(
            _Settings, {k: v for k, v in table.items() if k not in ("bin", "source")}, where="data"
        )
        try:
            return cls(bins=bins, **{f.name: getattr(settings, f.name) for f in fields(_Settings)})
        except ValueError as error:
            raise RequestError(f"data: {error}") from error

    def plan(
        self, corpus: Corpus, *, window: int, target: int, say: Callable[[str], None] = lambda line: None
    ) -> "PlannedMix":
        """The stream over a corpus, for a model's original window and the length it is extended to.

        say: gets the accounts, a line at a time. Raises RequestError for a bin that the corpus cannot fill.
        """
        total_share = sum(bin.share for bin in self.bins)
        planned = []
        for bin in self.bins:
            shape = Shape.of(
                bin,
                segment_length=self.segment_length,
                document_mask=self.document_mask,
                window=window,
                target=target,
            )
            asked = round(self.total_tokens * bin.share / total_share)
            n_groups = round(asked / (shape.segment_length * self.group_size))
            if not n_groups:
                raise RequestError(
                    f"bin '{bin.name}': its share is {asked:,} tokens, less than half a group of {self.group_size} "
                    f"segments of {shape.segment_length}: raise total_tokens or the share"
                )
            planned.append(
                PlannedBin(
                    bin=bin,
                    shape=shape,
                    corpus=corpus,
                    seed=self.seed,
                    n_tokens_asked=asked,
                    n_segments=n_groups * self.group_size,
                )
            )
        mix = PlannedMix(mix=self, bins=tuple(planned), corpus=corpus)
        for line in mix.table():
            say(line)
        for checked in planned:
            checked.check()
        return mix


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What `[data]` may say beside its tables."""

    total_tokens: int
    segment_length: Length = "target"
    document_mask: bool = False
    group_size: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedMix(Sequence[TrainingSegment]):
    """Every segment of a stream by number: a map-style data set that never changes."""

    mix: Mix
    bins: tuple[PlannedBin, ...]
    corpus: Corpus

    def __len__(self) -> int:
        return sum(bin.n_segments for bin in self.bins)

    def __getitem__(self, index: Any) -> Any:
        """The segment of a number; made anew each time."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"segment {index}: there are {len(self)}")
        bin, place = self.place(index % len(self))
        return bin.segment(place)

    def place(self, index: int) -> tuple[PlannedBin, int]:
        """The bin of a segment and its number there, without making it."""
        size = self.mix.group_size
        group = int(self._groups[index // size])
        n = bisect_right(self._first_groups, group) - 1
        return self.bins[n], (group - self._first_groups[n]) * size + index % size

    @cached_property
    def key(self) -> str:
        """The hash of everything the stream depends on: two streams of one key are the same."""
        bins = [[identity(bin.bin, bin.shape), bin.n_segments] for bin in self.bins]
        return content_hash([_VERSION, self.corpus.sha256, self.mix.seed, self.mix.group_size, bins])

    def counts(self) -> tuple[BinCount, ...]:
        """The accounts of each bin."""
        return tuple(bin.count() for bin in self.bins)

    def table(self) -> list[str]:
        """The accounts as lines of text, with what no bin takes."""
        rows: list[tuple[str, ...]] = [
            ("bin", "kind", "asked", "planned", "segments", "there", "documents", "cut off", "epochs")
        ]
        for n in self.counts():
            numbers = (n.n_tokens_asked, n.n_tokens_planned, n.n_segments, n.n_tokens_there, n.n_pieces, n.n_tokens_cut)
            rows.append((n.name, n.kind, *(f"{number:,}" for number in numbers), f"{n.epochs:.2f}"))
        taken = np.unique(np.concatenate([bin.documents_N for bin in self.bins]))
        lengths_N = np.delete(self.corpus.lengths_N, taken) + self.corpus.n_special
        rows.append(("in no bin", "", "", "", "", f"{int(lengths_N.sum()):,}", f"{len(lengths_N):,}", "", ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(_aligned(row, widths)).rstrip() for row in rows]

    @cached_property
    def _first_groups(self) -> list[int]:
        """The first group of each bin, where groups are numbered bin after bin."""
        return [0, *accumulate(bin.n_segments // self.mix.group_size for bin in self.bins[:-1])]

    @cached_property
    def _groups(self) -> NDArray[np.int64]:
        return shuffled(len(self) // self.mix.group_size, key_of(self.mix.seed, "mix"))


class MixStream(Iterator[TrainingSegment]):
    """One rank's part of a stream: of every `world_size` segments in the global order, the `rank`-th.

    All ranks get equally many; the last `len(mix) % world_size` segments are left out.
    """

    def __init__(self, mix: PlannedMix, *, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank = {rank}: it should be below the world size {world_size}")
        self.mix = mix
        self.rank, self.world_size = rank, world_size
        self.position = 0

    def __len__(self) -> int:
        """How many segments this rank still gets."""
        return (len(self.mix) - self.position) // self.world_size

    def __next__(self) -> TrainingSegment:
        if not len(self):
            raise StopIteration
        segment: TrainingSegment = self.mix[self.position + self.rank]
        self.position += self.world_size
        return segment

    def state(self) -> dict[str, JSON]:
        """Where the stream stands, over all ranks: the same on each, and good for any world size."""
        return {"mix": self.mix.key, "position": self.position}

    def restore(self, state: Mapping[str, JSON]) -> None:
        """Goes on where `state` was taken. Raises RequestError for the state of another stream."""
        if state.get("mix") != self.mix.key:
            raise RequestError(
                f"the checkpoint read another stream of data ({str(state.get('mix'))[:12]}, this one is "
                f"{self.mix.key[:12]}): resume with the corpus, the [data] table and the lengths it was made with"
            )
        self.position = int(state["position"])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for i, (text, width) in enumerate(zip(row, widths, strict=True)):
        yield text.ljust(width) if i < 2 else text.rjust(width)


def _named(entry: Mapping[str, JSON], number: int) -> str:
    return f"'{entry['name']}'" if isinstance(entry.get("name"), str) else str(number)
