"""Segments: the rows a training step reads, each under one RoPE.

Shape letters: L tokens of the segment, D documents in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.types import Regime
from methods.longrope.training.corpus import Corpus

Kind = Literal["short", "long", "pose"]
REGIMES: dict[Kind, Regime] = {"short": "original", "long": "rescaled", "pose": "rescaled"}


class Piece(NamedTuple):
    """A part of a document, from token `start` to `stop`; its EOS stands behind it where the document ends."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSegment:
    """Token ids and what a forward pass needs beside them.

    position_ids_L: from 0 in each document where `cu_seqlens` is given; else from 0 through the segment, with one
        skip where `skips_positions`.
    cu_seqlens: where documents begin, and the length (D + 1): attention stays inside a document. None: full causal
        attention over the segment.
    loss_weights_L: how much each token counts *as the one to be predicted*; 0 for the first token of every document,
        so that no document predicts the next.
    regime: the RoPE the segment is read under, whatever its positions are.
    skips_positions: the positions jump although nothing is packed: pass an attention mask of ones, for transformers
        reads a jump without one as the border of a document.
    """

    input_ids_L: NDArray[np.int64]
    position_ids_L: NDArray[np.int64]
    cu_seqlens: NDArray[np.int32] | None
    loss_weights_L: NDArray[np.float32]
    regime: Regime
    bin: str
    skips_positions: bool = False

    @property
    def n_tokens(self) -> int:
        """The length of the segment."""
        return len(self.input_ids_L)

    @cached_property
    def document_ids_L(self) -> NDArray[np.int32]:
        """The number of each token's document, from 0; all 0 under full attention."""
        if self.cu_seqlens is None:
            return np.zeros(self.n_tokens, dtype=np.int32)
        return np.repeat(np.arange(len(self.cu_seqlens) - 1, dtype=np.int32), np.diff(self.cu_seqlens))

    def targets(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What each place predicts: the token behind it, and that token's weight; (0, 0) at the last place.

        The loss is the sum of weight times cross-entropy over the sum of weights; no further shift is due.
        """
        labels_L = np.append(self.input_ids_L[1:], 0)
        return labels_L, np.append(self.loss_weights_L[1:], np.float32(0))


def build_segment(
    corpus: Corpus,
    pieces: Sequence[Piece],
    *,
    kind: Kind,
    bin: str,
    n_tokens: int,
    document_mask: bool,
    target_length: int,
    seed: int,
) -> TrainingSegment:
    """A full segment of the pieces one behind the other; what is left of the last one is dropped.

    document_mask: `long` segments keep attention inside each document, as `short` ones always do.
    target_length, seed: for `pose`, how far the positions may reach, and what the skips are drawn by.
    """
    if kind == "pose":
        return _skipping(_delimited(corpus, pieces[0]), bin, n_tokens, target_length, seed)
    ids, weights, starts, filled = [], [], [], 0
    for piece in pieces:
        ids_L, weights_L = _delimited(corpus, piece, n_tokens - filled)
        starts.append(filled)
        filled += len(ids_L)
        ids.append(ids_L)
        weights.append(weights_L)
    if filled != n_tokens:
        raise ValueError(f"the pieces of a segment of {n_tokens} tokens hold {filled}")
    masked = kind == "short" or document_mask
    cu_seqlens = np.array([*starts, n_tokens], dtype=np.int32) if masked else None
    position_ids_L = np.arange(n_tokens)
    if cu_seqlens is not None:
        position_ids_L -= np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
    return TrainingSegment(
        input_ids_L=np.concatenate(ids),
        position_ids_L=position_ids_L,
        cu_seqlens=cu_seqlens,
        loss_weights_L=np.concatenate(weights),
        regime=REGIMES[kind],
        bin=bin,
    )


_Delimited = tuple[NDArray[np.int64], NDArray[np.float32]]


def _delimited(corpus: Corpus, piece: Piece, room: int | None = None) -> _Delimited:
    """At most `room` tokens of a piece between its special tokens; the first is predicted by nothing."""
    stop = piece.stop if room is None else min(piece.stop, piece.start + room)
    ids_L, weights_L = corpus.read(piece.document, piece.start, stop)
    trailing = corpus.trailing_ids if stop == corpus.lengths_N[piece.document] else corpus.trailing_ids[:0]
    ids_L = np.concatenate((corpus.leading_ids, ids_L, trailing))[:room]
    # An EOS is to be learnt like any token; a BOS is never predicted, and the tokens it may be made of neither.
    before, behind = np.zeros(len(corpus.leading_ids), np.float32), np.ones(len(trailing), np.float32)
    weights_L = np.concatenate((before, weights_L, behind))[:room]
    weights_L[0] = 0
    return ids_L, weights_L


def _skipping(whole: _Delimited, bin: str, n_tokens: int, target_length: int, seed: int) -> TrainingSegment:
    """Two parts of a document, the second from a later place, its positions shifted by anything that fits.

    Source: arXiv:2309.10400 section 3; dwzhu-pku/PoSE 43b43b3, src/train_pose.py.
    """
    rng = np.random.RandomState(seed)  # its streams are frozen for good
    ids_L, weights_L = whole
    first = int(rng.randint(1, (n_tokens + 1) // 2 + 1))
    second = int(rng.randint(n_tokens, len(ids_L) + 1)) - (n_tokens - first)
    taken = np.r_[0:first, second : second + n_tokens - first]
    position_ids_L = np.arange(n_tokens)
    position_ids_L[first:] += rng.randint(0, target_length - n_tokens + 1)
    return TrainingSegment(
        input_ids_L=ids_L[taken],
        position_ids_L=position_ids_L,
        cu_seqlens=None,
        loss_weights_L=weights_L[taken],
        regime="rescaled",
        bin=bin,
        skips_positions=True,
    )
