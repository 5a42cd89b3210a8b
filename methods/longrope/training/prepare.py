"""From a preset's table `[data]` to a stream of segments: shards that are not yet there are written first."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.catalogue import build
from harness.config import resolve_paths
from harness.errors import RequestError
from harness.types import JSON
from methods.longrope.training.corpus import Corpus
from methods.longrope.training.mix import Mix, PlannedMix
from methods.longrope.training.shards import write_shards
from methods.longrope.training.sources import Source, find_source
from methods.longrope.training.synthetic import TinyLlamaRows
from tasks.base import Tokenizer

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PlannedSource:
    """A `[[data.source]]` table. folder: token shards that are there already, instead of a source."""

    label: str
    source: Source | None
    folder: Path | None
    max_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """The table `[data]`, validated; nothing is read yet."""

    sources: tuple[PlannedSource, ...]
    mix: Mix

    @classmethod
    def from_table(cls, table: Mapping[str, JSON], *, relative_to: Path) -> "DataPlan":
        """The plan of a table `[data]`. relative_to: the preset's folder. Raises RequestError."""
        tables = table.get("source", [])
        if not isinstance(tables, list) or not tables or not all(isinstance(entry, dict) for entry in tables):
            raise RequestError("data has no source: write a table [[data.source]]")
        sources = tuple(_source(entry, relative_to) for entry in tables)
        labels = [source.label for source in sources]
        for label in labels:
            if labels.count(label) > 1:
                raise RequestError(f"two data sources are called '{label}': give each its own label = \"...\"")
        return cls(sources=sources, mix=Mix.from_table(table))

    def open(
        self, tokenizer: Tokenizer, folder: Path, *, window: int, target: int, say: Say = lambda line: None
    ) -> PlannedMix:
        """The stream of segments, its shards under `folder`, a folder a source; those that are there are used.

        window: the model's original window. target: the length it is extended to. say: gets progress and the accounts,
        a line at a time. One process writes: the others call this when it is done. Raises RequestError.
        """
        folders = {source.label: source.folder or folder / source.label for source in self.sources}
        for planned in self.sources:
            if planned.source is not None:
                write_shards(planned.source, tokenizer, folders[planned.label], max_tokens=planned.max_tokens, say=say)
        return self.mix.plan(Corpus.open(folders, tokenizer), window=window, target=target, say=say)


@dataclass(frozen=True, kw_only=True)
class _Common:
    """What every source's table may say."""

    name: str
    label: str | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.label is not None and (not self.label or "/" in self.label or self.label[0] == "."):
            raise ValueError(f"label = '{self.label}': it names a folder, it should have no / and no dot in front")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens = {self.max_tokens}: it should be at least 1")


@dataclass(frozen=True, kw_only=True)
class _Shards:
    """A folder of token shards that is there already."""

    path: str = field(metadata={"path": True})


def _source(table: Mapping[str, Any], folder: Path) -> PlannedSource:
    where = f"data source '{table.get('name', '')}'"
    ours = ("name", "label", "max_tokens")
    common: _Common = build(_Common, {key: table[key] for key in ours if key in table}, where=where)
    settings = {key: value for key, value in table.items() if key not in ours}
    source, shards = None, None
    if common.name == "shards":
        found: _Shards = build(_Shards, resolve_paths(_Shards, settings, folder, where), where=where)
        shards = folder / found.path
        if common.max_tokens is not None:
            raise RequestError(f"{where}: max_tokens = {common.max_tokens}: shards are taken whole; leave it out")
    else:
        cls = find_source(common.name)
        source = build(cls, resolve_paths(cls, settings, folder, where), where=where)
    if isinstance(source, TinyLlamaRows) and common.max_tokens is None:
        raise RequestError(f"{where}: it has no end: add max_tokens = N")
    return PlannedSource(label=common.label or common.name, source=source, folder=shards, max_tokens=common.max_tokens)
