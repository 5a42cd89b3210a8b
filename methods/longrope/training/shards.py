"""Token shards: a folder of arrays that are mapped, not loaded, and an index that says what they hold.

`index.json` names the finished shards; a shard is `NNNNN.tokens.npy` (uint16, or uint32 for larger vocabularies),
`NNNNN.ends.npy` (where each document ends) and, where a token does not always weigh 1, `NNNNN.weights.npy`
(float32). Documents are stored without special tokens; the index has those that belong around each.

Shape letters: L tokens, N documents of the shard.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.store import atomic, locked, write_atomically
from harness.types import JSON, content_hash
from methods.longrope.training.sources import Document, Source
from tasks.base import Tokenizer
from tasks.tokens import leading_ids

FORMAT = 1
INDEX = "index.json"
SHARD_TOKENS = 1 << 25


@dataclass(frozen=True)
class TokenizerFacts:
    """What shards must know of a tokenizer.

    leading_ids, trailing_ids: the special tokens around a document: what the tokenizer puts before a text (a BOS, or
    nothing), and its EOS (or nothing).
    """

    sha256: str
    n_tokens: int
    leading_ids: tuple[int, ...]
    trailing_ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "TokenizerFacts":
        """The facts of a transformers tokenizer."""
        leading = tuple(leading_ids(tokenizer))
        trailing = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
        if getattr(tokenizer, "is_fast", False):
            rules = json.loads(tokenizer.backend_tokenizer.to_str())
            rules = {key: value for key, value in rules.items() if key not in ("padding", "truncation")}
        else:
            rules = [type(tokenizer).__name__, tokenizer.get_vocab()]
        return cls(content_hash([rules, leading, trailing]), len(tokenizer), leading, trailing)


class Shard(NamedTuple):
    """A finished shard. n_read: documents of the source it took, those without tokens included."""

    name: str
    n_documents: int
    n_tokens: int
    n_read: int
    weighted: bool
    sha256: str


def write_shards(
    source: Source,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    max_tokens: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Tokenises a source into a folder; goes on behind the last finished shard, or does nothing where all are there.

    max_tokens: the first document that reaches it is the last; a source without end needs it.
    say: gets a line a shard. Raises RequestError, also where the folder holds something else.
    """
    facts = TokenizerFacts.of(tokenizer)
    head: dict[str, JSON] = {
        "format": FORMAT,
        "tokenizer": json.loads(json.dumps(asdict(facts))),
        "source": json.loads(json.dumps(source.identity())),
        "max_tokens": max_tokens,
        "shard_tokens": shard_tokens,
    }
    if _so_far(folder, head)["finished"]:
        return
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        index = _so_far(folder, head)
        shards = [Shard(*shard) for shard in index["shards"]]
        left = None if max_tokens is None else max_tokens - sum(shard.n_tokens for shard in shards)
        documents = source.documents(tokenizer, start=sum(shard.n_read for shard in shards))
        for part in _parts(documents, shard_tokens, left):
            if part.documents:
                shards.append(_write(folder, f"{len(shards):05d}", part, facts))
                say(f"{folder.name}: {sum(shard.n_tokens for shard in shards):,} tokens in {len(shards)} shards")
                _write_index(folder, {**head, "finished": False, "shards": shards})
        if not shards:
            raise RequestError(f"the source of '{folder}' holds no text: it should have at least one document")
        _write_index(folder, {**head, "finished": True, "shards": shards})


def read_index(folder: Path) -> dict[str, JSON]:
    """What `index.json` says. Raises RequestError where it is missing, of another format, or not finished."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"'{folder}' holds no token shards: there is no {INDEX}") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"'{path}': {error}; it should be a readable index of token shards") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        found = index.get("format") if isinstance(index, dict) else None
        raise RequestError(f"'{path}': format {found!r}: it should be {FORMAT}; write the shards again")
    return index


def check_tokenizer(folder: Path, index: Mapping[str, Any], facts: TokenizerFacts) -> None:
    """Raises RequestError where shards were made with another tokenizer."""
    made = index["tokenizer"]
    if made["sha256"] != facts.sha256:
        raise RequestError(
            f"'{folder}' holds shards of another tokenizer ({made['n_tokens']} tokens, sha256 {made['sha256'][:12]}; "
            f"the model's has {facts.n_tokens}, {facts.sha256[:12]}): give the texts, or another folder"
        )


class _Part(NamedTuple):
    documents: list[Document]
    n_read: int


def _parts(documents: Iterator[Document], shard_tokens: int, left: int | None) -> Iterator[_Part]:
    """The documents of one shard after another; stops once `left` tokens are there."""
    part, n_read, n_tokens = [], 0, 0
    if left is not None and left <= 0:
        return
    for document in documents:
        n_read += 1
        n_tokens += len(document.token_ids_L)
        if len(document.token_ids_L):
            part.append(document)
        is_last = left is not None and n_tokens >= left
        if n_tokens >= shard_tokens or is_last:
            yield _Part(part, n_read)
            left = None if left is None else left - n_tokens
            part, n_read, n_tokens = [], 0, 0
        if is_last:
            return
    if n_read:
        yield _Part(part, n_read)


def _write(folder: Path, name: str, part: _Part, facts: TokenizerFacts) -> Shard:
    documents = part.documents
    tokens_L = np.concatenate([document.token_ids_L for document in documents])
    dtype = np.uint16 if max(facts.n_tokens, tokens_L.max() + 1) <= 1 << 16 else np.uint32
    arrays: dict[str, NDArray[Any]] = {
        "tokens": tokens_L.astype(dtype),
        "ends": np.cumsum([len(document.token_ids_L) for document in documents], dtype=np.int64),
    }
    if any(document.weights_L is not None for document in documents):
        weights = [np.ones(len(d.token_ids_L)) if d.weights_L is None else d.weights_L for d in documents]
        arrays["weights"] = np.concatenate(weights).astype(np.float32)
        if len(arrays["weights"]) != len(tokens_L):
            raise ValueError("a document has as many weights as tokens")
    digest = hashlib.sha256()
    for kind, array in arrays.items():
        digest.update(array.tobytes())
        _save(folder / f"{name}.{kind}.npy", array)
    return Shard(name, len(documents), len(tokens_L), part.n_read, "weights" in arrays, digest.hexdigest())


def _save(path: Path, array: NDArray[Any]) -> None:
    with _writing(path), atomic(path) as file:
        np.save(file, array)


def _write_index(folder: Path, index: Mapping[str, JSON]) -> None:
    with _writing(folder / INDEX):
        write_atomically(folder / INDEX, json.dumps(index, indent=1) + "\n")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the system refuses, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RequestError(f"'{path}': the disk is full: free some space; finished shards are kept") from error
        raise RequestError(f"'{path}': {error.strerror or error}; it should be writable") from error


def _so_far(folder: Path, head: Mapping[str, JSON]) -> dict[str, JSON]:
    """The index so far. Raises RequestError where the folder was begun with something else."""
    if not (folder / INDEX).exists():
        return {**head, "finished": False, "shards": []}
    index = read_index(folder)
    for key, value in head.items():
        if index.get(key) != value:
            raise RequestError(
                f"'{folder}' holds token shards with another {key}: delete the folder, or give one of its own"
            )
    return index
