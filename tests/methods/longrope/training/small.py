"""A small model for a window of 16 tokens, and mixes it trains on."""

import dataclasses
from pathlib import Path

from tests.methods.longrope.training.corpora import TARGET, WINDOW, Numbered, mix, tokenizer

N_TOKENS = 300  # of the vocabulary


def model_folder(folder: Path, *, tied: bool = True, **settings) -> Path:
    """A Llama of random weights on disk."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=N_TOKENS, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=WINDOW, bos_token_id=0, eos_token_id=1,
            initializer_range=0.2, tie_word_embeddings=tied, **settings,
        )
    )  # fmt: skip
    made.save_pretrained(folder)
    tokenizer(N_TOKENS).save_pretrained(folder)
    return folder


def loaded(folder: Path, **request):
    """The model, as a training loads it."""
    from harness.models.loading import load
    from harness.models.request import ModelRequest

    return load(ModelRequest(name=str(folder), **request), device="cpu")


def rescaled(model, attention_factor: float = 1.1):
    """What long segments are read under in these tests."""
    return model.rope.rescaled(4.0, attention_factor)


def small_mix(folder: Path, *bins, lengths=(6, 9, 14, 11, 60, 50, 4, 70, 8, 30), n_segments: int = 12, **settings):
    """A planned mix over a corpus whose tokens fit the vocabulary."""
    from methods.longrope.training.corpus import Corpus
    from methods.longrope.training.shards import write_shards

    if not (folder / "shards").exists():
        write_shards(Numbered(tuple(lengths)), tokenizer(N_TOKENS), folder / "shards", shard_tokens=150)
    corpus = Corpus.open({"numbered": folder / "shards"}, tokenizer(N_TOKENS))
    return mix(corpus, *bins, total_tokens=n_segments * TARGET, **settings)


def with_epochs(bin, **settings):
    """The bin, over documents that may repeat."""
    return dataclasses.replace(bin, max_epochs=300, **settings)
