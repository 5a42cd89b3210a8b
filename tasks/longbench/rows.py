"""What both LongBenches do with rows: count and hash them once, and draw some."""

from collections.abc import Callable
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
