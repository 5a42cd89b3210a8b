"""sha256 of files, remembered between runs by path, size and modification time."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness.types import content_hash


def cache_file() -> Path:
    """Where hashes are remembered: in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "longreach" / "hashes.json"


def file_sha256(path: Path) -> str:
    """sha256 in hex of a file's bytes; read again only when its size or modification time changed."""
    path = path.resolve()
    stat = path.stat()
    known = _remembered()
    match known.get(str(path)):
        case [stat.st_size, stat.st_mtime_ns, str(digest)]:
            return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A cache that cannot be written costs time, never a result.
    with contextlib.suppress(OSError):
        _remember({**_remembered(), str(path): [stat.st_size, stat.st_mtime_ns, digest]})
    return digest


def combined(digests: Mapping[str, str]) -> str:
    """The hash of a group of files: of one file its own, of several that of name -> hash."""
    return next(iter(digests.values())) if len(digests) == 1 else content_hash(dict(digests))


def _remembered() -> dict[str, list]:
    try:
        found = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(known: Mapping[str, list]) -> None:
    target = cache_file()
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(known, file)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
