"""A search's folder: its state in one file that is written whole or not at all, and locked while it runs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.checked_file import CheckedFile
from harness.errors import RequestError
from harness.store import locked
from harness.types import JSON
from methods.longrope.search.archive import Archive
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Draw, Unit
from methods.longrope.search.outcome import CurvePoint, Judged, SearchFacts, SearchOutcome, Tried

STATE = "state.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Ending:
    """What the last measurements of a search gave; see `SearchOutcome`."""

    best: Judged
    references: Mapping[str, Judged]
    held_out: Draw
    test: Draw
    splits: Mapping[str, str]
    environment: Mapping[str, JSON]


@dataclass(kw_only=True, eq=False)
class SearchState:
    """How far a search is.

    searcher: its state before the question that is being answered; None before the first.
    seconds: worked so far, pauses left out. ending: None while it goes on.
    """

    archive: Archive
    searcher: dict[str, Any] | None = None
    curve: list[CurvePoint] = field(default_factory=list)
    seconds: float = 0.0
    ending: Ending | None = None

    def outcome(self, facts: SearchFacts) -> SearchOutcome | None:
        """The finished search, or None while it goes on."""
        if self.ending is None:
            return None
        tried = tuple(
            Tried(
                candidate=entry.candidate,
                loss=entry.measured.loss,
                draw=entry.draw,
                measure=entry.measure,
                forward_equivalents=entry.spent,
            )
            for entry in self.archive
            if entry.paid
        )
        ending = self.ending
        return SearchOutcome(
            facts=facts,
            best=ending.best,
            references=ending.references,
            curve=tuple(self.curve),
            tried=tried,
            held_out=ending.held_out,
            test=ending.test,
            splits=ending.splits,
            spent=self.archive.spent,
            unpaid=self.archive.unpaid,
            seconds=self.seconds,
            environment=ending.environment,
        )

    def as_json(self) -> dict[str, Any]:
        """All of it, as `restored` takes it; floats survive to the last bit."""
        return {
            "searcher": self.searcher,
            "archive": self.archive.as_json(),
            "curve": [asdict(point) for point in self.curve],
            "seconds": self.seconds,
            "ending": self.ending and asdict(self.ending),
        }

    @classmethod
    def restored(cls, table: Mapping[str, Any]) -> "SearchState":
        """The state that `as_json` gave."""
        return cls(
            archive=Archive.restored(table["archive"]),
            searcher=table["searcher"],
            curve=[
                CurvePoint(**{**point, "candidate": Candidate.from_json(point["candidate"])})
                for point in table["curve"]
            ],
            seconds=table["seconds"],
            ending=table["ending"] and _ending(table["ending"]),
        )


class SearchFolder:
    """Where a search keeps its state. Reading needs no lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = CheckedFile(path=folder / STATE, name="state", work="search", schema=SCHEMA, may_hold_nan=True)
        self.path = self._file.path

    def read(self, facts: SearchFacts, unit: Unit | None = None) -> SearchState | None:
        """The state of this search, or None where there is none.

        unit: what this process counts in, where it means to go on.
        Raises RequestError for a file that is damaged or of another search, and for a folder of something else.
        """
        table = self._file.read()
        if table is None:
            return None
        if table["facts"]["key"] != facts.key:
            differing = [name for name, value in _facts_json(facts).items() if table["facts"].get(name) != value]
            what = ", ".join(name for name in differing if name not in ("key", "preset", "title")) or "version"
            raise RequestError(
                f"{self.path} is the state of another search ('{table['facts']['title']}'; other: {what}): "
                "give --out a folder of its own"
            )
        state = SearchState.restored(table["state"])
        if unit is not None and state.ending is None and state.archive.unit != unit:
            raise RequestError(
                f"{self.path} was begun where a gradient costs {state.archive.unit.gradient_passes} forward passes, "
                f"here it costs {unit.gradient_passes}: go on where it began, or set checkpointing under [objective]"
            )
        return state

    def write(self, facts: SearchFacts, state: SearchState) -> None:
        """The state in place of the one before."""
        self._file.write(state.as_json(), facts=_facts_json(facts))

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The folder, made and locked for this process."""
        with locked(self.folder):
            yield


def _facts_json(facts: SearchFacts) -> dict[str, JSON]:
    """What names a search, as text and numbers; the model's RoPE is in its identity."""
    table = {name: getattr(facts, name) for name in facts.__dataclass_fields__ if name != "rope"}
    found: dict[str, JSON] = json.loads(json.dumps(table))
    return found


def _judged(table: Mapping[str, Any]) -> Judged:
    candidate, losses = Candidate.from_json(table["candidate"]), tuple(table["test_losses"])
    return Judged(**{**table, "candidate": candidate, "test_losses": losses})


def _ending(table: Mapping[str, Any]) -> Ending:
    return Ending(
        best=_judged(table["best"]),
        references={name: _judged(reference) for name, reference in table["references"].items()},
        held_out=Draw(**table["held_out"]),
        test=Draw(**table["test"]),
        splits=table["splits"],
        environment=table["environment"],
    )
