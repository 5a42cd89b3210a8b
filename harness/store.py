"""A results folder that only grows: `run.json`, `cells/<key>/records.jsonl`, and `cell.json` once a cell is done.

Every line of a records file carries a check value over itself and the line before, so that a line torn by a
crash is told from one changed by hand: the first is dropped and its sample runs again, the second is refused.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from harness.errors import RequestError
from harness.types import JSON, Record, RunData, canonical_json, content_hash

MANIFEST = "run.json"
_CHECK_LENGTH = 16


class Store:
    """One run's folder. Writing needs `opened_for`; reading does not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def manifest(self) -> dict[str, JSON] | None:
        """What `run.json` says, or None where there is none. Raises RequestError when it cannot be read."""
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        try:
            manifest: dict[str, JSON] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(f"{path}: not a readable manifest ({error})") from error
        return manifest

    def check_plan(self, plan_key: str) -> bool:
        """Whether the folder already holds this plan. Raises RequestError when it holds another one."""
        manifest = self.manifest()
        if manifest is None:
            if self.folder.exists() and any(path.name[0] != "." for path in self.folder.iterdir()):
                raise RequestError(f"{self.folder} is not empty and holds no run: give --out a new or empty folder")
            return False
        if manifest.get("plan") != plan_key:
            title = manifest.get("title")
            raise RequestError(f"{self.folder} holds another run ('{title}'): give --out a folder of its own")
        return True

    @contextmanager
    def opened_for(self, manifest: Mapping[str, JSON]) -> Iterator[None]:
        """The folder, made and locked for this process, with its manifest written if it is new."""
        with locked(self.folder):
            if not self.check_plan(manifest["plan"]):
                write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
            yield

    def is_finished(self, key: str) -> bool:
        """Whether every planned sample of a cell has its record."""
        return (self._cell(key) / "cell.json").exists()

    def records(self, key: str) -> list[Record]:
        """The records of a cell so far; a torn last line is left out.

        Raises RequestError for a line that was changed, or a finished cell that lost lines.
        """
        records, check, _ = self._read(key)
        mark = self._cell(key) / "cell.json"
        if mark.exists() and json.loads(mark.read_text(encoding="utf-8")).get("check") != check:
            raise RequestError(f"{self._path(key)} is not the file its cell.json was written for: delete {mark.parent}")
        return records

    @contextmanager
    def appending(self, key: str) -> Iterator["CellWriter"]:
        """A writer that goes on after the last whole record of a cell."""
        _, check, size = self._read(key)
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.truncate(size)
            yield CellWriter(file.fileno(), check, path.parent / "cell.json")

    def _cell(self, key: str) -> Path:
        return self.folder / "cells" / key

    def _path(self, key: str) -> Path:
        return self._cell(key) / "records.jsonl"

    def _read(self, key: str) -> tuple[list[Record], str, int]:
        """The whole records of a cell, the check value of the last one, and the bytes they fill."""
        path, records, check, size = self._path(key), [], key[:_CHECK_LENGTH], 0
        data = path.read_bytes() if path.exists() else b""
        seen = set()
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break  # torn by a crash
            try:
                fields = json.loads(line)
                given = fields.pop("check")
                expected = _check(check, fields)
            except (ValueError, KeyError, TypeError, AttributeError):
                given, expected, fields = None, "", {}
            if given != expected or fields.get("cell_key") != key or fields.get("example_id") in seen:
                raise RequestError(f"{path}: line {number} was changed after it was written: delete {path.parent}")
            scored = tuple((logprob, best) for logprob, best in fields.get("scored", ()))
            records.append(Record(**{**fields, "answers": tuple(fields["answers"]), "scored": scored}))
            seen.add(fields["example_id"])
            check, size = given, size + len(line)
        return records, check, size


class CellWriter:
    """Appends records one by one; each is on disk when `append` returns."""

    def __init__(self, descriptor: int, check: str, mark: Path) -> None:
        self._descriptor, self._check, self._mark = descriptor, check, mark

    def append(self, record: Record) -> None:
        """Write one record and flush it to the disk."""
        fields = json.loads(json.dumps(asdict(record), allow_nan=False))
        check = _check(self._check, fields)
        line = (json.dumps({**fields, "check": check}, allow_nan=False) + "\n").encode()
        while line:
            line = line[os.write(self._descriptor, line) :]
        os.fsync(self._descriptor)
        self._check = check

    def finish(self, facts: Mapping[str, JSON]) -> None:
        """Write the finished mark, last of all."""
        write_atomically(self._mark, json.dumps({**facts, "check": self._check}, indent=1, sort_keys=True) + "\n")


def read_run(folder: Path) -> RunData:
    """A results folder as a report reads it. Raises RequestError when it is none, or was changed by hand."""
    store = Store(folder)
    manifest = store.manifest()
    if manifest is None:
        raise RequestError(f"{folder} holds no run: there is no {MANIFEST} in it")
    records = {cell["key"]: tuple(store.records(cell["key"])) for cell in manifest["cells"]}
    return RunData(manifest=manifest, records=records)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder, made and kept for this process until the block ends. Raises RequestError where another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(f"{folder} is in use by another process: wait for it, or stop it") from None
        yield


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees either the old one or the whole new one."""
    with atomic(path) as file:
        file.write(text.encode())


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` when the block ends, on the disk by then, or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _check(previous: str, fields: Mapping[str, JSON]) -> str:
    return content_hash(previous + canonical_json(fields))[:_CHECK_LENGTH]
