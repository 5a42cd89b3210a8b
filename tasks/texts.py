"""Text files, plain or packed. Whatever is wrong is a RequestError that names the file."""

import gzip
import lzma
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import RequestError

_OPENERS: dict[str, Callable[..., Any]] = {".txt": open, ".txt.xz": lzma.open, ".txt.gz": gzip.open}
TEXTS = tuple(_OPENERS)


class FoundFile(NamedTuple):
    """A file as it was when it was found: once it is changed, it is another one."""

    path: Path
    size: int
    changed_ns: int


def find_files(folder: Path, endings: Sequence[str], *, setting: str) -> tuple[FoundFile, ...]:
    """The files of a folder with one of these endings, by name. setting: what names the folder, for the message."""
    try:
        files = sorted(file for file in folder.iterdir() if file.name.endswith(tuple(endings)))
        found = tuple(FoundFile(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    except OSError as error:
        raise RequestError(
            f"{setting} = '{folder}': {error.strerror or error}; it should be a folder of texts"
        ) from error
    if not found:
        raise RequestError(f"{setting} = '{folder}': no {', '.join(endings[:-1])} or {endings[-1]} file is there")
    return found


def read_text(file: Path) -> str:
    """A whole file in UTF-8, with plain line ends and nothing blank around it."""
    opener = next(opener for ending, opener in _OPENERS.items() if file.name.endswith(ending))
    try:
        with opener(file, "rb") as stream:
            data: bytes = stream.read()
        text = tidy(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RequestError(f"'{file}': byte {error.start} is not UTF-8") from error
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise RequestError(f"'{file}': cut or damaged ({error}); it should unpack whole") from error
    except OSError as error:
        raise RequestError(f"'{file}': {error.strerror or error}") from error
    if not text:
        raise RequestError(f"'{file}': holds no text")
    return text


def tidy(text: str) -> str:
    """Plain line ends, and nothing blank around the text: the same text hashes alike from any store."""
    return text.replace("\r\n", "\n").strip()
