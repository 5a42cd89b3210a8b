"""Two tokenizers that differ in all that matters here, and a folder of books."""

import gzip
import json
import lzma
import string
from pathlib import Path

import pytest

from tasks.haystack import prose, training_topics

TINY_LLAMA = Path(__file__).parents[2] / "harness" / "assets" / "tiny-llama"


@pytest.fixture(scope="session")
def byte_tokenizer():
    """The embedded model's: bytes, digits one by one, no BOS."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY_LLAMA)


@pytest.fixture(scope="session")
def bos_tokenizer():
    """One that marks spaces, merges digits, and puts a BOS before and an EOS behind."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    text = [prose(topics[name]) for name in training_topics()] + ["0 1 2 3 4 5 6 7 8 9 10 12 34 99 123 456 777"] * 50
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, initial_alphabet=list(string.printable))
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session", params=["byte", "bos"])
def tokenizer(request):
    return request.getfixturevalue(f"{request.param}_tokenizer")


@pytest.fixture(scope="session")
def books(tmp_path_factory) -> str:
    """A folder with a book of each kind of file."""
    from pydoc_data.topics import topics

    folder = tmp_path_factory.mktemp("books")
    pages = [prose(topics[name]) for name in training_topics()]
    (folder / "a.txt").write_text("\r\n\r\n".join(pages[:10]), encoding="utf-8")
    (folder / "b.txt.xz").write_bytes(lzma.compress("\n\n".join(pages[10:25]).encode()))
    (folder / "c.txt.gz").write_bytes(gzip.compress("\n\n".join(pages[25:]).encode()))
    (folder / "SOURCES.md").write_text("not a book")
    return str(folder)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory) -> str:
    """A folder with PG19 and Proof-pile in miniature."""
    from pydoc_data.topics import topics

    folder = tmp_path_factory.mktemp("corpora")
    pages = [prose(topics[name]) for name in training_topics()]
    (folder / "pg19").mkdir()
    (folder / "pg19" / "a.txt").write_text("\n\n".join(pages), encoding="utf-8")
    (folder / "pg19" / "b.txt.xz").write_bytes(lzma.compress("\n\n".join(pages[25:]).encode()))
    (folder / "proofpile").mkdir()
    rows = [{"text": "\n\n".join(pages), "meta": "{}"}, {"text": "Short. ", "meta": "{}"}, {"text": "", "meta": "{}"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "proofpile" / "test.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return str(folder)
