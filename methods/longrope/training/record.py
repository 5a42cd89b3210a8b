"""A training's folder: `training.json`, which says what is trained there, how far it is and what came out of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.checked_file import CheckedFile
from harness.errors import RequestError
from harness.store import locked
from harness.types import JSON, Regime
from methods.longrope.training.config import TrainingFacts
from methods.longrope.training.settings import StepReport

RECORD, DATA, CHECKPOINT = "training.json", "data", "checkpoint"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """The loss on segments of a bin that are never trained on, the weighted mean over their tokens, in nats."""

    bin: str
    regime: Regime
    n_segments: int
    n_tokens: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished training did.

    n_tokens_by_regime: by the RoPE that segments were read under. seconds: in steps. attention: the kernels that ran.
    """

    steps: int
    n_tokens: int
    n_tokens_by_bin: Mapping[str, int]
    n_tokens_by_regime: Mapping[str, int]
    seconds: float
    tokens_per_s: float
    peak_memory_bytes: int
    attention: str


@dataclass(kw_only=True, eq=False)
class Record:
    """How far a training is.

    mix: the accounts of each bin, asked for and given. before, after: held-out losses of the model as it came and of
    the exported checkpoint; None where they are not measured yet. result: None while it goes on.
    """

    facts: Mapping[str, JSON]
    mix: Sequence[Mapping[str, JSON]] = ()
    before: tuple[HeldOutLoss, ...] | None = None
    after: tuple[HeldOutLoss, ...] | None = None
    result: Result | None = None
    history: tuple[StepReport, ...] = ()
    environment: Mapping[str, JSON] = field(default_factory=dict)


class TrainingFolder:
    """Where a training keeps what it makes. Reading needs no lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = CheckedFile(path=folder / RECORD, name="record", work="training", schema=SCHEMA, indent=1)
        self.path = self._file.path

    @property
    def data(self) -> Path:
        """Token shards."""
        return self.folder / DATA

    @property
    def checkpoint(self) -> Path:
        """The exported model."""
        return self.folder / CHECKPOINT

    def read(self, facts: TrainingFacts) -> Record | None:
        """The record of this training, or None where nothing was begun.

        Raises RequestError for a damaged one, for that of another training, and for a folder of something else.
        """
        table = self._file.read()
        if table is None:
            return None
        found = _record(table["record"])
        if found.facts["key"] == facts.key:
            return found
        if not any((self.folder / "checkpoints").glob("step-*")):
            return None  # nothing was trained: what was wrong in the configuration may be put right
        ours = _plain(asdict(facts))
        differing = [name for name, value in _flat(ours) if dict(_flat(found.facts)).get(name, value) != value]
        what = ", ".join(name for name in differing if name not in ("key", "preset", "title", "model")) or "version"
        raise RequestError(
            f"{self.path} is the record of another training ('{found.facts['title']}'; other: {what}): "
            "give --out a folder of its own"
        )

    def begin(self, facts: TrainingFacts) -> Record:
        """The record of a training that begins."""
        record = Record(facts=_plain(asdict(facts)))
        self.write(record)
        return record

    def write(self, record: Record) -> None:
        """The record in place of the one before."""
        self._file.write(asdict(record))

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The folder, made and locked for this process."""
        with locked(self.folder):
            yield


def _record(body: Mapping[str, Any]) -> Record:
    return Record(
        **{
            **body,
            "before": _losses(body["before"]),
            "after": _losses(body["after"]),
            "result": body["result"] and Result(**body["result"]),
            "history": tuple(StepReport(**row) for row in body["history"]),
        }
    )


def _losses(rows: Sequence[Mapping[str, Any]] | None) -> tuple[HeldOutLoss, ...] | None:
    return None if rows is None else tuple(HeldOutLoss(**row) for row in rows)


def _flat(table: Mapping[str, Any]) -> list[tuple[str, JSON]]:
    """A table with the entries of its tables, `training.learning_rate` by name; sources and bins stay whole."""
    found: list[tuple[str, JSON]] = []
    for name, value in table.items():
        is_settings = isinstance(value, Mapping) and name in ("training", "method_params", "data")
        found += [(f"{name}.{key}", item) for key, item in value.items()] if is_settings else [(name, value)]
    return found


def _plain(table: Mapping[str, Any]) -> dict[str, JSON]:
    found: dict[str, JSON] = json.loads(json.dumps(table))
    return found
