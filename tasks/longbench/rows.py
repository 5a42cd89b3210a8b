"""What both LongBenches do with rows: count and hash them once, and draw some."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from harness.errors import RequestError
from harness.types import JSON, content_hash
from tasks import data


class Facts(NamedTuple):
    """How many rows a task has, and the hash of what they say."""

    n_rows: int
    sha256: str

    @classmethod
    def of(cls, rows: list[data.Row]) -> "Facts":
        """The facts of these rows."""
        return cls(len(rows), data.rows_sha256(rows))


@dataclass(frozen=True, kw_only=True)
class AbstractRowTasks(ABC):
    """Tasks that are rows of a file, of which a suite keeps the facts alone."""

    def artifacts(self, task: str) -> Mapping[str, str]:
        """The hash of the task's rows."""
        return {"rows": self._facts_of(task).sha256}

    def n_available(self, task: str) -> int:
        """How many rows the task has."""
        return self._facts_of(task).n_rows

    @abstractmethod
    def _rows(self, task: str) -> list[data.Row]:
        """The task's rows, each of them checked. Raises RequestError."""

    @cached_property
    def _facts(self) -> dict[str, Facts]:
        return {}

    def _facts_of(self, task: str) -> Facts:
        if task not in self._facts:
            self._facts[task] = Facts.of(self._rows(task))
        return self._facts[task]


def checked(rows: list[data.Row], check: Callable[[data.Row], None]) -> list[data.Row]:
    """The rows, when `check` raises for none of them and no two have the same `_id`. Raises RequestError."""
    seen: dict[str, str] = {}
    for row in rows:
        check(row)
        name = row.text("_id")
        if name in seen:
            raise row.error(f"'_id' = '{name}' is also that of {seen[name]}")
        seen[name] = row.where
    return rows


def drawn(rows: list[data.Row], *, n: int, key: JSON, what: str) -> list[data.Row]:
    """`n` rows in an order that `key` and each one's place decide, so that fewer are a prefix of more.

    what: the task, for the message. Raises RequestError when there are fewer rows.
    """
    if n > len(rows):
        raise RequestError(f"{what} has {len(rows)} rows, n_samples = {n}: it should be at most {len(rows)}")
    order = sorted(range(len(rows)), key=lambda place: content_hash([key, place]))
    return [rows[place] for place in order[:n]]
