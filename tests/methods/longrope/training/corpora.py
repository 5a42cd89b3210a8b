"""Corpora whose every token says where it comes from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from methods.longrope.training.bins import Bin
from methods.longrope.training.corpus import Corpus
from methods.longrope.training.mix import Mix, PlannedMix
from methods.longrope.training.shards import write_shards
from methods.longrope.training.sources import Document

BOS, EOS, FIRST = 0, 1, 10
WINDOW, TARGET = 16, 64


@lru_cache(maxsize=4)
def tokenizer(n_tokens: int = 6_000, bos: bool = True, eos: bool = True):
    """A tokenizer of `n_tokens` words, with a BOS before a text or not, and an EOS or not."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<unk>", "a", *(f"w{i}" for i in range(4, n_tokens))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", unk_token="<unk>", **({"eos_token": "</s>"} if eos else {})
    )


@dataclass(frozen=True)
class Numbered:
    """Documents of some lengths; their tokens count on from FIRST through all of them, and weigh what they are."""

    lengths: tuple[int, ...]
    weighted: bool = False
    first: int = FIRST

    def identity(self):
        return [list(self.lengths), self.weighted, self.first]

    def documents(self, tokenizer, start: int = 0) -> Iterator[Document]:
        stops = np.cumsum(self.lengths) + self.first
        for stop, n in list(zip(stops, self.lengths, strict=True))[start:]:
            ids = np.arange(stop - n, stop)
            yield Document(ids, ids.astype(np.float32) if self.weighted else None)


def corpus(folder: Path, lengths: Sequence[int], *, bos=True, eos=True, weighted=False, shard_tokens=150) -> Corpus:
    """A corpus of documents with these lengths, special tokens not counted, in several shards."""
    known = tokenizer(bos=bos, eos=eos)
    write_shards(Numbered(tuple(lengths), weighted), known, folder, shard_tokens=shard_tokens)
    return Corpus.open({"numbered": folder}, known)


def mix(corpus: Corpus, *bins: Bin, total_tokens: int, say=lambda line: None, **settings) -> PlannedMix:
    """A planned mix for a window of 16 tokens and a target of 64."""
    made = Mix(bins=bins, total_tokens=total_tokens, **settings)
    return made.plan(corpus, window=WINDOW, target=TARGET, say=say)


SHORT = Bin(name="short", kind="short", share=1, max_length="window")
LONG = Bin(name="long", kind="long", share=1, above_length="window", max_length=200)
