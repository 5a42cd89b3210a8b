"""Rows of data sets: from a file, a folder of files, or the Hugging Face Hub at a pinned revision.

Whatever is wrong is a RequestError that names the file and the row, counted from 1.
"""

import gzip
import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import RequestError
from harness.types import JSON, canonical_json

_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")


@dataclass(frozen=True)
class Row:
    """One row, and where it stands, as a message says it. Reading a field raises RequestError for a wrong type."""

    where: str
    fields: Mapping[str, JSON]

    def text(self, name: str) -> str:
        """A field that should be a text."""
        return self._text(name, self._field(name), "a text")

    def texts(self, name: str) -> tuple[str, ...]:
        """A field that should be a list of at least one text."""
        found = self._field(name)
        if not isinstance(found, list | tuple) or not found:
            raise self.error(f"'{name}' should be a list of at least one text, it is {_shown(found)}")
        return tuple(self._text(name, item, "a list of texts") for item in found)

    def number(self, name: str) -> int:
        """A field that should be a whole number."""
        found = self._field(name)
        if not isinstance(found, int) or isinstance(found, bool):
            raise self.error(f"'{name}' should be a whole number, it is {_shown(found)}")
        return found

    def error(self, message: str) -> RequestError:
        """The error that says what is wrong with this row."""
        return RequestError(f"{self.where}: {message}")

    def _field(self, name: str) -> JSON:
        if name not in self.fields:
            raise self.error(f"there is no '{name}'; the row has {', '.join(self.fields) or 'nothing'}")
        return self.fields[name]

    def _text(self, name: str, found: JSON, wanted: str) -> str:
        if not isinstance(found, str):
            raise self.error(f"'{name}' should be {wanted}, it is {_shown(found)}")
        try:
            found.encode()
        except UnicodeEncodeError:
            raise self.error(f"'{name}' holds half a surrogate pair, which is no text") from None
        return found


def read_rows(path: Path) -> list[Row]:
    """The rows of a `.jsonl` file (a row a line), or of a `.json` file (a list of rows), plain or gzipped."""
    return parse_rows(read_bytes(path), name=str(path), lines=".jsonl" in path.suffixes)


def read_json(path: Path) -> JSON:
    """What a `.json` or `.json.gz` file holds."""
    return _parse(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """A file's bytes, unpacked where its name ends in `.gz`."""
    if not path.is_file():
        raise RequestError(f"{path}: there is no such file")
    try:
        return _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_zip_member(path: Path, member: str) -> bytes:
    """One file of a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)
    except KeyError:
        raise RequestError(f"{path}: holds no '{member}'") from None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise RequestError(f"{path}: cannot be unpacked ({error}): copy or download it again") from error


def parse_rows(data: bytes, *, name: str, lines: bool) -> list[Row]:
    """The rows that a file's bytes hold: JSON a line, or one JSON list. name: the file, as a message says it."""
    if lines:
        found = [_parse(line, f"{name}, row {i}") for i, line in enumerate(data.rstrip().splitlines(), start=1)]
    else:
        found = _parse(data, name)
        if not isinstance(found, list):
            raise RequestError(f"{name}: should hold a list of rows, it holds {_shown(found)}")
    if not found:
        raise RequestError(f"{name}: holds no rows")
    for i, fields in enumerate(found, start=1):
        if not isinstance(fields, dict):
            raise RequestError(f"{name}, row {i}: should be an object with named fields, it is {_shown(fields)}")
    return [Row(f"{name}, row {i}", fields) for i, fields in enumerate(found, start=1)]


def find_file(folder: Path, *names: str) -> Path:
    """The file of a folder with one of these names and an ending that `read_rows` knows; the first name that is there.

    Raises RequestError where none is, or one name has two files.
    """
    if not folder.is_dir():
        raise RequestError(f"data_dir = '{folder}': there is no such folder")
    for name in names:
        there = [folder / (name + ending) for ending in _ENDINGS if (folder / (name + ending)).is_file()]
        if len(there) > 1:
            raise RequestError(f"data_dir = '{folder}' holds {' and '.join(p.name for p in there)}: keep one of them")
        if there:
            return there[0]
    wanted = " or ".join(f"{name}.jsonl[.gz]" for name in names)
    raise RequestError(f"data_dir = '{folder}' lacks a file: it should hold {wanted}")


def rows_sha256(rows: Sequence[Row]) -> str:
    """The hash of what was read: the same for the same rows in the same order, however they are stored."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(dict(row.fields)).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def hub_file(repo: str, name: str, *, revision: str, instead: str) -> Path:
    """A file of a data set on the Hub, downloaded where the local cache lacks it.

    instead: what to do where it cannot be had, for the message. Raises RequestError.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, repo_type="dataset", revision=revision)
    if isinstance(found, str):
        return Path(found)
    try:
        return Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision))
    except Exception as error:  # the client raises its own, httpx's and the system's errors
        raise _unreachable(f"{name} of the data set {repo}", repo, revision, f" {name}", instead, error) from error


def hub_rows(repo: str, *, config: str | None = None, split: str, revision: str, instead: str) -> list[Row]:
    """A split of a data set on the Hub, read by the package `datasets`. instead: as for `hub_file`."""
    try:
        import datasets
    except ImportError:
        raise RequestError(
            f"the data set {repo} is read by the package datasets: pip install datasets, or {instead}"
        ) from None
    name = " ".join(filter(None, (repo, config, split)))
    try:
        table = datasets.load_dataset(repo, config, split=split, revision=revision)
    except Exception as error:
        raise _unreachable(f"the data set {name}", repo, revision, "", instead, error) from error
    return [Row(f"{name}, row {i}", dict(fields)) for i, fields in enumerate(table, start=1)]


def _unreachable(what: str, repo: str, revision: str, file: str, instead: str, error: Exception) -> RequestError:
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the Hugging Face Hub: {type(error).__name__}"
    return RequestError(
        f"{what} at revision {revision} is not in {constants.HF_HUB_CACHE} and cannot be fetched ({why}): run "
        f"`hf download {repo}{file} --repo-type dataset --revision {revision}` where there is a network, or {instead}"
    )


def _unpacked(path: Path) -> bytes:
    data = bytearray()
    try:
        with gzip.open(path) as file:
            while block := file.read1(1 << 20):
                data += block
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        row = data.count(b"\n") + 1
        raise RequestError(f"{path}, row {row}: the gzip file is cut short or broken: copy it again") from error
    return bytes(data)


def _parse(data: bytes, where: str) -> JSON:
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise RequestError(f"{where}: not UTF-8 ({error.reason} at byte {error.start + 1})") from error
    except json.JSONDecodeError as error:
        raise RequestError(f"{where}: not JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise RequestError(f"{where}: JSON that is nested too deep for a row") from error


def _shown(found: JSON) -> str:
    """A value as a message shows it."""
    if found is None:
        return "null"
    if isinstance(found, list | tuple):
        return "a list" if found else "an empty list"
    if isinstance(found, dict):
        return "an object"
    return f"the text {found[:40]!r}" if isinstance(found, str) else repr(found)
