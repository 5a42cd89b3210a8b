"""Every measurement of a search: nothing is measured twice, and what was spent is counted here."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Ask, Draw, Gradient, Measured, Unit

_Key = tuple[str, Draw, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One candidate, measured on one draw.

    spent: forward-equivalents of the whole search once this was measured. paid: whether the budget bore it.
    """

    candidate: Candidate
    draw: Draw
    measure: str
    measured: Measured
    spent: float
    paid: bool


class Archive:
    """The measurements in the order they were made, found again by candidate, draw and measure."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.spent = 0.0
        self.unpaid = 0.0
        self._entries: dict[_Key, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def cost(self, ask: Ask) -> float:
        """What a question takes, in forward-equivalents."""
        return ask.cost(self.unit)

    def get(self, candidate: Candidate, ask: Ask) -> Measured | None:
        """What was found for a candidate on the draw of `ask`, or None."""
        entry = self._entries.get((candidate.key, ask.draw, ask.measure))
        return None if entry is None else entry.measured

    def missing(self, ask: Ask) -> Ask:
        """The question without what is known, each candidate once."""
        left = {candidate.key: candidate for candidate in ask.candidates if self.get(candidate, ask) is None}
        return replace(ask, candidates=tuple(left.values()))

    def answers(self, ask: Ask) -> list[Measured]:
        """The answers to a question that has nothing missing, in its order."""
        return [self._entries[candidate.key, ask.draw, ask.measure].measured for candidate in ask.candidates]

    def add(self, ask: Ask, measured: Sequence[Measured], *, paid: bool) -> None:
        """The answers to a question, in its order."""
        for candidate, found in zip(ask.candidates, measured, strict=True):
            cost = self.cost(replace(ask, candidates=(candidate,)))
            if paid:
                self.spent += cost
            else:
                self.unpaid += cost
            self._put(candidate, ask.draw, ask.measure, found, self.spent, paid)

    def _put(
        self, candidate: Candidate, draw: Draw, measure: str, measured: Measured, spent: float, paid: bool
    ) -> None:
        self._entries[candidate.key, draw, measure] = Entry(
            candidate=candidate, draw=draw, measure=measure, measured=measured, spent=spent, paid=paid
        )

    def as_json(self) -> dict[str, Any]:
        """All of it, as `restored` takes it; draws are named by their place in a list."""
        draws: dict[Draw, int] = {}
        rows = [
            [
                entry.candidate.as_json(),
                draws.setdefault(entry.draw, len(draws)),
                entry.measure,
                _measured_json(entry.measured),
                entry.spent,
                entry.paid,
            ]
            for entry in self
        ]
        return {
            "unit": asdict(self.unit),
            "spent": self.spent,
            "unpaid": self.unpaid,
            "draws": [asdict(draw) for draw in draws],
            "rows": rows,
        }

    @classmethod
    def restored(cls, table: Mapping[str, Any]) -> "Archive":
        """The archive that `as_json` gave."""
        archive = cls(Unit(**table["unit"]))
        draws = [Draw(**draw) for draw in table["draws"]]
        for candidate, draw, measure, measured, spent, paid in table["rows"]:
            archive._put(Candidate.from_json(candidate), draws[draw], measure, _measured(measured), spent, paid)
        archive.spent, archive.unpaid = table["spent"], table["unpaid"]
        return archive


def _measured_json(measured: Measured) -> dict[str, Any]:
    table: dict[str, Any] = {"loss": measured.loss, "losses": list(measured.losses)}
    if measured.gradient is not None:
        table["log_rescale_factors"] = measured.gradient.log_rescale_factors_P.tolist()
        table["log_attention_factor"] = measured.gradient.log_attention_factor
    return table


def _measured(table: Mapping[str, Any]) -> Measured:
    gradient = None
    if "log_attention_factor" in table:
        gradient = Gradient(
            log_rescale_factors_P=np.array(table["log_rescale_factors"], dtype=np.float64),
            log_attention_factor=table["log_attention_factor"],
        )
    return Measured(loss=table["loss"], losses=tuple(table["losses"]), gradient=gradient)


def plain(measured: Measured) -> Measured:
    """A measurement as it is after a resume: Python floats, and NaN for everything that is not finite."""
    loss = float(measured.loss) if math.isfinite(measured.loss) else math.nan
    gradient = measured.gradient and Gradient(
        log_rescale_factors_P=np.array(measured.gradient.log_rescale_factors_P, dtype=np.float64),
        log_attention_factor=float(measured.gradient.log_attention_factor),
    )
    return Measured(loss=loss, losses=tuple(map(float, measured.losses)), gradient=gradient)
