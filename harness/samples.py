"""Samples, built once for each (suite, task, length, tokenizer) and kept on disk, shared by all methods and runs.

A file is named by the hash of everything that decides its contents, the suite's source code included, so nothing
in it can be stale. Token ids lie in one int32 array; the rest of an example is JSON.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from harness.environment import n_cores
from harness.models.request import ModelRequest
from harness.plan import PlannedCell
from harness.types import JSON, Example, Segment, content_hash

_WORTH_A_POOL = 2_000_000  # tokens: starting processes costs seconds


class SampleCache:
    """Builds what is missing and reads the rest."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or _cache_folder()

    def prepare(self, cells: Sequence[PlannedCell], *, processes: int | None = None) -> None:
        """Build the samples of these cells that are not there yet, in several processes where it pays."""
        missing = {_key(p): p for p in reversed(cells) if not self._has(_key(p), p.cell.n_samples)}
        n_tokens = sum(p.cell.n_samples * p.cell.seq_len for p in missing.values())
        work = sorted(missing.values(), key=lambda p: -p.cell.n_samples * p.cell.seq_len)
        processes = min(processes or n_cores(), len(work))
        if processes < 2 or n_tokens < _WORTH_A_POOL:
            tokenizers: dict[str, Any] = {}
            for planned in work:
                self._build(planned, tokenizers)
            return
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for _ in pool.map(_build_in_worker, [self._folder] * len(work), work):
                pass

    def of(self, planned: PlannedCell) -> Iterator[Example]:
        """The planned samples of a cell, in order."""
        entries, path = self._entries(planned)
        token_ids = np.load(path.with_suffix(".npy"), mmap_mode="r")
        for entry in entries:
            yield _example(entry, token_ids)

    def ids(self, planned: PlannedCell) -> list[str]:
        """The ids of a cell's planned samples, in order."""
        return [entry["id"] for entry in self._entries(planned)[0]]

    def sha256(self, planned: PlannedCell) -> str:
        """Of everything in a cell's planned samples."""
        entries, path = self._entries(planned)
        end = max((place[1] for e in entries for place in (e["prompt"], *e["segments"])), default=0)
        token_ids = np.load(path.with_suffix(".npy"), mmap_mode="r")[:end]
        return content_hash([entries, content_hash(token_ids.tobytes())])

    def _entries(self, planned: PlannedCell) -> tuple[list[dict[str, JSON]], Path]:
        key = _key(planned)
        if not self._has(key, planned.cell.n_samples):
            self._build(planned, {})
        path = self._path(key)
        entries = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return entries[: planned.cell.n_samples], path

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _has(self, key: str, n: int) -> bool:
        mark = self._path(key).with_suffix(".json")
        return mark.exists() and len(json.loads(mark.read_text(encoding="utf-8"))) >= n

    def _build(self, planned: PlannedCell, tokenizers: dict[str, Any]) -> None:
        cell = planned.cell
        if cell.model not in tokenizers:
            tokenizers[cell.model] = _tokenizer(planned.model)
        examples = planned.suite.suite.examples(
            cell.task, seq_len=cell.seq_len, n=cell.n_samples, seed=cell.seed, tokenizer=tokenizers[cell.model]
        )
        entries, token_ids = _packed(examples)
        path = self._path(_key(planned))
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        with scratch.open("wb") as file:
            np.save(file, token_ids)
        scratch.replace(path.with_suffix(".npy"))
        scratch.write_text(json.dumps(entries), encoding="utf-8")
        scratch.replace(path.with_suffix(".json"))


def _build_in_worker(folder: Path, planned: PlannedCell) -> None:
    SampleCache(folder)._build(planned, _WORKER_TOKENIZERS)


_WORKER_TOKENIZERS: dict[str, Any] = {}  # of this worker process


def _tokenizer(request: ModelRequest) -> Any:
    from harness.models.loading import load_tokenizer

    return load_tokenizer(request)


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "longreach" / "samples"


def _key(planned: PlannedCell) -> str:
    cell, suite = planned.cell, planned.suite.suite
    tokenizer = {name: value for name, value in cell.artifacts.items() if name in ("tokenizer", "commit")}
    texts = dict(suite.artifacts(cell.task))
    identity = [cell.suite, cell.versions[1], cell.suite_params, cell.task, cell.seq_len, cell.seed]
    return content_hash([identity, tokenizer, texts, _source_hash(type(suite).__module__)])


@cache
def _source_hash(module: str) -> str:
    """The hash of a module's file, its neighbours, and those of the packages above it."""
    names = module.split(".")
    sources: dict[str, str] = {}
    for depth in range(len(names), 0, -1):
        file = Path(str(sys.modules[".".join(names[:depth])].__file__))
        neighbours = file.parent.glob("*.py") if depth > 1 or file.name == "__init__.py" else [file]
        sources |= {str(path): content_hash(path.read_bytes()) for path in neighbours}
    return content_hash(sorted(sources.values()))


def _packed(examples: Iterator[Example]) -> tuple[list[dict[str, JSON]], np.ndarray]:
    arrays: list[np.ndarray] = []
    entries: list[dict[str, JSON]] = []
    end = 0

    def place(ids: Sequence[int]) -> list[int]:
        nonlocal end
        arrays.append(np.asarray(ids, dtype=np.int32))
        end += len(ids)
        return [end - len(ids), end]

    for example in examples:
        entries.append(
            {
                "id": example.id,
                "prompt": place(example.prompt_ids),
                "max_new_tokens": example.max_new_tokens,
                "stop": list(example.stop),
                "segments": [[*place(segment.token_ids), segment.n_context] for segment in example.segments],
                "answers": list(example.answers),
                "metadata": dict(example.metadata),
            }
        )
    return entries, np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)


def _example(entry: Mapping[str, Any], token_ids: np.ndarray) -> Example:
    start, stop = entry["prompt"]
    return Example(
        id=entry["id"],
        prompt_ids=token_ids[start:stop].tolist() or (),
        max_new_tokens=entry["max_new_tokens"],
        stop=tuple(entry["stop"]),
        segments=tuple(
            Segment(token_ids=token_ids[first:last].tolist(), n_context=n_context)
            for first, last, n_context in entry["segments"]
        ),
        answers=tuple(entry["answers"]),
        metadata=entry["metadata"],
    )
