"""The long texts that papers measure perplexity on: PG19's test books and Proof-pile's test documents.

And PG19's validation books, on which LongRoPE2 searches, and which nothing is measured on.
From a folder, or from the Hub: one file each, never a training split.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness.errors import RequestError
from tasks.data import hub_file, read_rows
from tasks.haystack import Haystack
from tasks.texts import TEXTS, FoundFile, find_files, read_text, tidy

_ROWS = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class _Corpus:
    """Where a corpus lies on the Hub, and how its file is read."""

    title: str
    repo: str
    revision: str
    file: str
    read: Callable[[Path], list[str]]


def load_corpus(name: str, data_dir: str | None) -> Haystack:
    """`pg19`, `proofpile` or `pg19_validation`: from the folder of this name in `data_dir`, or the Hub.

    Their documents are read alone.
    Raises RequestError; without a network it says what would be fetched and where to put it.
    """
    if data_dir is None:
        return _from_hub(name)
    return _from_files(name, find_files(Path(data_dir) / name, (*TEXTS, *_ROWS), setting=f"data_dir/{name}"))


def _parquet_texts(path: Path) -> list[str]:
    import pandas as pd

    try:
        texts: list[str] = pd.read_parquet(path, columns=["text"])["text"].tolist()
    except ImportError:
        raise RequestError(f"{path} is read by the package pyarrow: pip install pyarrow") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read ({error}): remove it and download it again") from error
    return texts


def _row_texts(path: Path) -> list[str]:
    return [row.text("text") for row in read_rows(path)]


CORPORA = {
    "pg19": _Corpus(
        title="PG19",
        # The test split of deepmind/pg19, which is a script that datasets no longer runs, as one file of 25 MB.
        repo="emozilla/pg19-test",
        revision="c5e39bf32e33f9111323aa68d7d9000d22722035",
        file="data/test-00000-of-00001-29a571947c0b5ccc.parquet",
        read=_parquet_texts,
    ),
    "proofpile": _Corpus(
        title="Proof-pile",
        repo="hoskinson-center/proof-pile",
        revision="490b980249446f2f3bd2df3a8cf085d0f2de240a",
        file="test/proofpile_test.jsonl.gz",
        read=_row_texts,
    ),
}

# For a search, which should not see what is measured on.
SEARCH_CORPORA = {
    "pg19_validation": _Corpus(
        title="PG19's validation split",
        # The splits of deepmind/pg19 as files; this one has 50 books, 11 MB.
        repo="emozilla/pg19",
        revision="c021754c8e01c5b1cc83a1f549c1f97fbbb756b8",
        file="data/validation-00000-of-00001-0f92e2337f79aeac.parquet",
        read=_parquet_texts,
    ),
}


@lru_cache(maxsize=2)
def _from_hub(name: str) -> Haystack:
    corpus = (CORPORA | SEARCH_CORPORA)[name]
    instead = (
        f"put {corpus.title}'s texts (.txt or .jsonl) into a folder {name} and name the folder above it as data_dir"
    )
    path = hub_file(corpus.repo, corpus.file, revision=corpus.revision, instead=instead)
    return _haystack(name, corpus.read(path), str(path))


@lru_cache(maxsize=2)
def _from_files(name: str, files: tuple[FoundFile, ...]) -> Haystack:
    texts: list[str] = []
    for path, _, _ in files:
        texts += _row_texts(path) if path.name.endswith(_ROWS) else [read_text(path)]
    return _haystack(name, texts, str(files[0].path.parent))


def _haystack(name: str, texts: list[str], where: str) -> Haystack:
    documents = [text for text in map(tidy, texts) if text]
    if not documents:
        raise RequestError(f"{where}: holds no text")
    return Haystack.of(name, documents, keeps_apart=True)
