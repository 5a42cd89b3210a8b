"""The documents of token shards: where each lies, and its tokens when they are asked for.

Shape letters: N documents, L tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.types import content_hash
from methods.longrope.training.shards import Shard, TokenizerFacts, check_tokenizer, read_index
from tasks.base import Tokenizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Documents by number, those of the first source first; their tokens stay on disk.

    lengths_N: without special tokens. source_N: the index of each document's label in `labels`.
    leading_ids, trailing_ids: the special tokens before and behind a document.
    sha256: of all that is there, labels and order included.
    """

    lengths_N: NDArray[np.int64]
    source_N: NDArray[np.int16]
    labels: tuple[str, ...]
    leading_ids: NDArray[np.int64]
    trailing_ids: NDArray[np.int64]
    sha256: str
    _shard_N: NDArray[np.int32]
    _start_N: NDArray[np.int64]
    _tokens: tuple[NDArray[np.integer], ...]
    _weights: tuple[NDArray[np.float32] | None, ...]

    @classmethod
    def open(cls, folders: Mapping[str, Path], tokenizer: Tokenizer) -> "Corpus":
        """The shards of some folders, each by the label of its source.

        Raises RequestError for shards that are unfinished, damaged, or of another tokenizer.
        """
        facts = TokenizerFacts.of(tokenizer)
        opened = [(i, *_open(folder, facts)) for i, folder in enumerate(folders.values())]
        arrays = [(i, *shard) for i, shards, _ in opened for shard in shards]
        ends = [ends_N for _, _, ends_N, _ in arrays]
        starts = [np.concatenate(([0], ends_N[:-1])) for ends_N in ends]
        sizes = [len(ends_N) for ends_N in ends]
        return cls(
            lengths_N=np.concatenate(ends) - np.concatenate(starts),
            source_N=np.repeat(np.array([i for i, *_ in arrays], dtype=np.int16), sizes),
            labels=tuple(folders),
            leading_ids=np.array(facts.leading_ids, dtype=np.int64),
            trailing_ids=np.array(facts.trailing_ids, dtype=np.int64),
            sha256=content_hash([facts.sha256, list(zip(folders, [digests for _, _, digests in opened], strict=True))]),
            _shard_N=np.repeat(np.arange(len(arrays), dtype=np.int32), sizes),
            _start_N=np.concatenate(starts),
            _tokens=tuple(tokens_L for _, tokens_L, _, _ in arrays),
            _weights=tuple(weights_L for *_, weights_L in arrays),
        )

    @property
    def n_special(self) -> int:
        """How many special tokens stand around a document."""
        return len(self.leading_ids) + len(self.trailing_ids)

    def read(self, document: int, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The tokens of a part of a document, without special ones, and the weight of each in the loss."""
        shard, first = self._shard_N[document], self._start_N[document]
        part = slice(first + start, first + stop)
        weights_L = self._weights[shard]
        tokens_L = self._tokens[shard][part].astype(np.int64)
        return tokens_L, np.ones(len(tokens_L), dtype=np.float32) if weights_L is None else np.array(weights_L[part])


_Arrays = tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.float32] | None]


def _open(folder: Path, facts: TokenizerFacts) -> tuple[list[_Arrays], list[str]]:
    """The mapped arrays of a folder's shards, and their hashes."""
    index = read_index(folder)
    check_tokenizer(folder, index, facts)
    if not index["finished"]:
        raise RequestError(f"'{folder}' holds unfinished token shards: let the run that writes them finish")
    shards = [Shard(*shard) for shard in index["shards"]]
    return [_arrays(folder, shard) for shard in shards], [shard.sha256 for shard in shards]


def _arrays(folder: Path, shard: Shard) -> _Arrays:
    try:
        tokens_L = np.load(folder / f"{shard.name}.tokens.npy", mmap_mode="r")
        ends_N = np.load(folder / f"{shard.name}.ends.npy")
        weights_L = np.load(folder / f"{shard.name}.weights.npy", mmap_mode="r") if shard.weighted else None
    except (OSError, ValueError) as error:
        raise RequestError(f"shard {shard.name} of '{folder}' cannot be read ({error}): delete the folder") from error
    whole = len(tokens_L) == shard.n_tokens == ends_N[-1] and len(ends_N) == shard.n_documents
    if not whole or (weights_L is not None and len(weights_L) != len(tokens_L)):
        raise RequestError(f"shard {shard.name} of '{folder}' is not what its index says: delete the folder")
    return tokens_L, ends_N, weights_L
