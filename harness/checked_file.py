"""What a folder keeps of its work: a JSON file that is written whole or not at all, and known when it was changed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.store import write_atomically
from harness.types import JSON, content_hash

_WAY_OUT = "give --out a new folder, or delete it to begin again"


@dataclass(frozen=True, kw_only=True)
class CheckedFile:
    """Where it stands, and how.

    name: the key of the contents, and with `work` what messages call the file: the `state` of a `search`.
    schema: raised when its form changes. indent: of the contents, for a file that people read.
    may_hold_nan: contents are JSON but for NaN and infinities; else they raise ValueError.
    """

    path: Path
    name: str
    work: str
    schema: int
    indent: int | None = None
    may_hold_nan: bool = False

    def write(self, contents: JSON, **beside: JSON) -> None:
        """The contents in place of those before. beside: more keys in front of them, outside the check."""
        body = self._body(contents)
        head = json.dumps({"schema": self.schema, **beside, "check": content_hash(body.encode())})
        write_atomically(self.path, f'{head[:-1]}, "{self.name}": {body}}}\n')

    def read(self) -> Mapping[str, Any] | None:
        """All that was written, or None where the folder is new or empty.

        Raises RequestError for a file that is damaged, of another version or changed, and for a folder of other things.
        """
        folder = self.path.parent
        if not self.path.exists():
            if folder.exists() and any(path.name[0] != "." for path in folder.iterdir()):
                raise RequestError(f"{folder} is not empty and holds no {self.work}: give --out a new or empty folder")
            return None
        try:
            table: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            schema, check, contents = table["schema"], table["check"], table[self.name]
            whole = schema != self.schema or check == content_hash(self._body(contents).encode())
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"{self.path} is no readable {self.name} of a {self.work} ({error!r})"
            raise RequestError(f"{what}: {_WAY_OUT}") from error
        if schema != self.schema:
            raise RequestError(f"{self.path} has schema {schema!r}, this version reads {self.schema}: {_WAY_OUT}")
        if not whole:
            raise RequestError(f"{self.path} was changed after it was written: {_WAY_OUT}")
        return table

    def _body(self, contents: JSON) -> str:
        return json.dumps(contents, indent=self.indent, allow_nan=self.may_hold_nan)
