"""Where training documents come from: text files, rows of JSON, the Hub, and the embedded model's own rows.

A source is a frozen dataclass whose fields are the settings of a `[[data.source]]` table. Shape letters: L tokens.
"""

import gzip
import importlib
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError, unknown
from harness.types import JSON
from tasks.base import Tokenizer
from tasks.data import Row
from tasks.texts import TEXTS, find_files, read_text, tidy
from tasks.tokens import encode_each

# A batch is tokenised at once: so many texts, and no more characters than this but for the last text.
_BATCH = 256
_BATCH_CHARACTERS = 1 << 20

_ROWS = (".jsonl", ".jsonl.gz")

CATALOGUE = {
    "texts": "methods.longrope.training.sources:TextFiles",
    "jsonl": "methods.longrope.training.sources:JsonLines",
    "hub": "methods.longrope.training.sources:HubRows",
    "tiny-llama": "methods.longrope.training.synthetic:TinyLlamaRows",
}


class Document(NamedTuple):
    """Token ids without special tokens, and the weight of each in the loss as a prediction; None is 1 for all."""

    token_ids_L: NDArray[np.integer]
    weights_L: NDArray[np.float32] | None = None


class Source(Protocol):
    """Documents in an order that never changes."""

    def identity(self) -> JSON:
        """Everything the documents depend on, but the tokenizer: other documents have another identity."""
        ...

    def documents(self, tokenizer: Tokenizer, start: int = 0) -> Iterator[Document]:
        """The documents from the `start`-th on; one without tokens stays in the count. Raises RequestError."""
        ...


def find_source(name: str) -> type:
    """The class of a kind of source. Raises RequestError."""
    if name not in CATALOGUE:
        raise unknown("data source", name, (*CATALOGUE, "shards"))
    module, _, attribute = CATALOGUE[name].partition(":")
    found: type = getattr(importlib.import_module(module), attribute)
    return found


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """A folder of .txt, .txt.xz and .txt.gz files in UTF-8, by name; each is a document."""

    path: str = field(metadata={"path": True})

    def identity(self) -> JSON:
        """The files as they lie there."""
        return _files_identity(self.path, TEXTS)

    def documents(self, tokenizer: Tokenizer, start: int = 0) -> Iterator[Document]:
        """A document a file."""
        files = find_files(Path(self.path), TEXTS, setting="path")
        return _encoded(tokenizer, (read_text(found.path) for found in files[start:]))


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """A .jsonl or .jsonl.gz file, or a folder of them, by name; each row's text is a document."""

    path: str = field(metadata={"path": True})
    text_field: str = "text"

    def identity(self) -> JSON:
        """The files as they lie there, and the field."""
        return {"files": _files_identity(self.path, _ROWS), "text_field": self.text_field}

    def documents(self, tokenizer: Tokenizer, start: int = 0) -> Iterator[Document]:
        """A document a row."""
        rows = (row for file in _row_files(self.path) for row in _read_lines(file))
        return _encoded(tokenizer, (tidy(_parsed(*row).text(self.text_field)) for row in islice(rows, start, None)))


@dataclass(frozen=True, kw_only=True)
class HubRows:
    """A data set on the Hugging Face Hub at a commit, streamed; each row's text is a document."""

    repo: str
    revision: str
    split: str = "train"
    config: str | None = None
    text_field: str = "text"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(f"revision = '{self.revision}': it should be a commit of 40 hex digits, which never moves")

    def identity(self) -> JSON:
        """The settings: a commit never changes."""
        return [self.repo, self.revision, self.config, self.split, self.text_field]

    def documents(self, tokenizer: Tokenizer, start: int = 0) -> Iterator[Document]:
        """A document a row."""
        return _encoded(tokenizer, (tidy(row.text(self.text_field)) for row in self._rows(start)))

    def _rows(self, start: int) -> Iterator[Row]:
        try:
            import datasets
            from huggingface_hub import HfApi
        except ImportError:
            raise RequestError(
                f"the data set {self.repo} is read by the package datasets: pip install 'longreach[suites]'"
            ) from None
        name = " ".join(filter(None, (self.repo, self.config, self.split)))
        try:
            # Asked once, without the retries and their warnings that the stream would make where nothing answers.
            HfApi().dataset_info(self.repo, revision=self.revision, timeout=30)
            stream = datasets.load_dataset(
                self.repo, self.config, split=self.split, revision=self.revision, streaming=True
            )
            for i, fields in enumerate(stream.skip(start), start=start + 1):
                yield Row(f"{name}, row {i}", dict(fields))
        except RequestError:
            raise
        except Exception as error:  # the client raises its own, httpx's, pyarrow's and the system's errors
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise RequestError(
                f"the data set {name} at revision {self.revision} cannot be streamed ({why}): "
                "connect to the Hub, or give its texts as a source 'texts' or 'jsonl'"
            ) from error


def _encoded(tokenizer: Tokenizer, texts: Iterator[str]) -> Iterator[Document]:
    batch: list[str] = []
    n_characters = 0
    for text in texts:
        batch.append(text)
        n_characters += len(text)
        if len(batch) == _BATCH or n_characters >= _BATCH_CHARACTERS:
            yield from _documents(tokenizer, batch)
            batch, n_characters = [], 0
    yield from _documents(tokenizer, batch)


def _documents(tokenizer: Tokenizer, texts: list[str]) -> Iterator[Document]:
    return (Document(np.array(ids, dtype=np.int64)) for ids in encode_each(tokenizer, texts))


def _files_identity(path: str, endings: tuple[str, ...]) -> JSON:
    place = Path(path)
    files = [place] if place.is_file() else [found.path for found in find_files(place, endings, setting="path")]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _row_files(path: str) -> list[Path]:
    place = Path(path)
    return [place] if place.is_file() else [found.path for found in find_files(place, _ROWS, setting="path")]


def _read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Each line that is not blank, and where it stands, for a message."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for i, line in enumerate(file, start=1):
                if not line.isspace():
                    yield f"{path}, row {i}", line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RequestError(f"'{path}': cut or damaged ({error}); it should unpack whole") from error
    except OSError as error:
        raise RequestError(f"'{path}': {error.strerror or error}") from error


def _parsed(where: str, line: bytes) -> Row:
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where}: {error}; it should be a JSON object") from error
    if not isinstance(fields, dict):
        raise RequestError(f"{where}: should be an object with named fields, it is {type(fields).__name__}")
    return Row(where, fields)
