"""SQuAD and HotpotQA as questions over one list of documents, from local files or the Hub.

Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/qa.py, read_squad and read_hotpotqa.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from harness.errors import RequestError
from harness.types import JSON, content_hash

Kind = Literal["squad", "hotpotqa"]


@dataclass(frozen=True)
class Question:
    """A question and the documents that belong to it, as places in the list of documents.

    own: documents that come with the question; needed: those of them that its answer rests on.
    more: other documents of the same article.
    """

    query: str
    answers: tuple[str, ...]
    own: tuple[int, ...]
    needed: tuple[int, ...]
    more: tuple[int, ...] = ()


@dataclass(frozen=True)
class QaData:
    """Questions in the order of their file, and the different documents in sorted order."""

    questions: tuple[Question, ...]
    documents: tuple[str, ...]

    @cached_property
    def n_chars(self) -> int:
        """Characters of all documents."""
        return sum(map(len, self.documents))

    @property
    def sha256(self) -> str:
        """The hash of what the samples are made from, the same from a file and from the Hub."""
        return content_hash([list(self.documents), [asdict(question) for question in self.questions]])


@dataclass(frozen=True)
class _Source:
    """Where the rows of a data set come from."""

    title: str
    official: str  # file name
    patterns: tuple[str, ...]
    extra: str  # file of further documents, without its ending
    repo: str
    config: str
    revision: str


SOURCES: Mapping[Kind, _Source] = {
    "squad": _Source(
        title="SQuAD 2.0 dev",
        official="dev-v2.0.json",
        patterns=("dev-v2.0.json", "squad*.json"),
        extra="squad_documents",
        repo="rajpurkar/squad_v2",
        config="squad_v2",
        revision="3ffb306f725f7d2ce8394bc1873b24868140c412",
    ),
    "hotpotqa": _Source(
        title="HotpotQA dev (distractor)",
        official="hotpot_dev_distractor_v1.json",
        patterns=("hotpot*.json",),
        extra="wikipedia_passages",
        repo="hotpotqa/hotpot_qa",
        config="distractor",
        revision="1908d6afbbead072334abe2965f91bd2709910ab",
    ),
}


def load(kind: Kind, folder: str | None) -> QaData:
    """The data set from a folder, or from the Hub without one. Raises RequestError naming file and row."""
    source = SOURCES[kind]
    extra: list[str] = []
    if folder is None:
        name = f"{source.repo} at {source.revision}"
        rows = _squad_from_hub(source) if kind == "squad" else _hotpot_from_hub(source)
    else:
        file = _data_file(source, Path(folder))
        name, rows = str(file), _read_json(file)
        extra = _extra_documents(kind, source, Path(folder))
    return _squad(rows, name, extra) if kind == "squad" else _hotpot(rows, name, extra)


# The two schemas


class _Rows:
    """Checks rows; an error names the file and the row."""

    def __init__(self, name: str) -> None:
        self.name = name

    def get(self, row: JSON, key: str, kind: type[str] | type[list[JSON]], where: str) -> Any:
        found = row.get(key) if isinstance(row, dict) else None
        if not isinstance(found, kind):
            wanted = "a text" if kind is str else "a list"
            raise self.error(where, f"'{key}' should be {wanted}, found {type(found).__name__}")
        return found

    def texts(self, found: JSON, where: str, what: str) -> list[str]:
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise self.error(where, f"{what} should be a list of texts")
        return found

    def error(self, where: str, what: str) -> RequestError:
        return RequestError(f"{self.name}: {where}: {what}")


def _articles(rows: JSON, check: _Rows) -> Iterator[tuple[str, list[tuple[str, list[JSON]]]]]:
    """Each article's place in the file, and its paragraphs: context and questions."""
    for a, article in enumerate(check.get(rows, "data", list, "the file")):
        paragraphs = []
        for p, paragraph in enumerate(check.get(article, "paragraphs", list, f"data[{a}]")):
            where = f"data[{a}].paragraphs[{p}]"
            context = check.get(paragraph, "context", str, where)
            paragraphs.append((context, check.get(paragraph, "qas", list, where)))
        yield f"data[{a}]", paragraphs


def _squad(rows: JSON, name: str, extra: Sequence[str]) -> QaData:
    check = _Rows(name)
    articles = list(_articles(rows, check))
    documents = sorted({context for _, paragraphs in articles for context, _ in paragraphs}.union(extra))
    place = {document: i for i, document in enumerate(documents)}
    questions = []
    for where, paragraphs in articles:
        article = [place[context] for context, _ in paragraphs]
        for p, (context, qas) in enumerate(paragraphs):
            own = place[context]
            more = tuple(i for i in article if i != own)
            for q, row in enumerate(qas):
                found = _squad_question(row, f"{where}.paragraphs[{p}].qas[{q}]", check)
                if found is not None:
                    questions.append(Question(*found, own=(own,), needed=(own,), more=more))
    return _whole(questions, documents, check)


def _squad_question(row: JSON, where: str, check: _Rows) -> tuple[str, tuple[str, ...]] | None:
    query = check.get(row, "question", str, where)
    if row.get("is_impossible", False):
        return None
    answers = check.get(row, "answers", list, where)
    texts = [check.get(answer, "text", str, f"{where}.answers[{i}]") for i, answer in enumerate(answers)]
    if not any(texts):
        raise check.error(where, "an answerable question without answers")
    return query, tuple(dict.fromkeys(text for text in texts if text))


def _hotpot(rows: JSON, name: str, extra: Sequence[str]) -> QaData:
    check = _Rows(name)
    if not isinstance(rows, list):
        raise check.error("the file", "should be a list of questions")
    contexts = [_hotpot_context(row, f"row {r}", check) for r, row in enumerate(rows)]
    documents = sorted({document for context in contexts for _, document in context}.union(extra))
    place = {document: i for i, document in enumerate(documents)}
    questions = []
    for r, (row, context) in enumerate(zip(rows, contexts, strict=True)):
        where = f"row {r}"
        query, answer = (check.get(row, key, str, where) for key in ("question", "answer"))
        if not answer.strip():
            raise check.error(where, "a question without an answer")
        titles = {fact[0] for fact in check.get(row, "supporting_facts", list, where) if isinstance(fact, list)}
        own = tuple(place[document] for _, document in context)
        needed = tuple(place[document] for title, document in context if title in titles)
        questions.append(Question(query, (answer,), own=own, needed=needed or own))
    return _whole(questions, documents, check)


def _hotpot_context(row: JSON, where: str, check: _Rows) -> list[tuple[str, str]]:
    """Title and text of the documents that come with a question."""
    documents = []
    for d, document in enumerate(check.get(row, "context", list, where)):
        if not (isinstance(document, list) and len(document) == 2 and isinstance(document[0], str)):
            raise check.error(where, f"context[{d}] should be a title and a list of sentences")
        sentences = check.texts(document[1], where, f"the sentences of context[{d}]")
        documents.append((document[0], f"{document[0]}\n{''.join(sentences)}"))
    return documents


def _whole(questions: list[Question], documents: list[str], check: _Rows) -> QaData:
    if not questions:
        raise check.error("the file", "holds no answerable question")
    return QaData(tuple(questions), tuple(documents))


# Files


def _data_file(source: _Source, folder: Path) -> Path:
    if not folder.is_dir():
        raise RequestError(f"data_dir = '{folder}': there is no such folder")
    for pattern in source.patterns:
        found = sorted(file for end in ("", ".gz") for file in folder.glob(pattern + end))
        found = [file for file in found if not file.name.startswith(source.extra)]
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise RequestError(f"data_dir = '{folder}': {names} all hold {source.title}: one of them should be there")
        if found:
            return found[0]
    wanted = " or ".join(f"{pattern}[.gz]" for pattern in source.patterns)
    raise RequestError(f"data_dir = '{folder}': {source.title} is missing there; it should be a file {wanted}")


def _extra_documents(kind: Kind, source: _Source, folder: Path) -> list[str]:
    """Documents without questions, where the folder has a file of them."""
    files = [file for end in (".json", ".json.gz") if (file := folder / (source.extra + end)).is_file()]
    if not files:
        return []
    check, rows = _Rows(str(files[0])), _read_json(files[0])
    if kind == "squad":
        return [context for _, paragraphs in _articles(rows, check) for context, _ in paragraphs]
    if not isinstance(rows, list):
        raise check.error("the file", "should be a list of passages")
    parts = [[check.get(row, key, str, f"row {r}") for key in ("title", "text")] for r, row in enumerate(rows)]
    return ["\n".join(part) for part in parts]


def _read_json(file: Path) -> JSON:
    try:
        data = file.read_bytes()
        if file.suffix == ".gz":
            data = gzip.decompress(data)
        return json.loads(data.decode("utf-8-sig"))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RequestError(f"{file}: cut or damaged ({error}); it should unpack whole") from error
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise RequestError(f"{file}: line {row}: byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise RequestError(f"{file}: line {error.lineno}: not JSON ({error.msg}, column {error.colno})") from error
    except OSError as error:
        raise RequestError(f"{file}: {error.strerror}") from error


# The Hub


def _squad_from_hub(source: _Source) -> JSON:
    """The rows of the Hub's table, as the official file nests them."""
    articles: dict[str, dict[str, list[JSON]]] = {}
    for row in _from_hub(source):
        answers = [{"text": text} for text in row["answers"]["text"]]
        qa = {"question": row["question"], "answers": answers, "is_impossible": not answers}
        articles.setdefault(row["title"], {}).setdefault(row["context"], []).append(qa)
    return {
        "data": [
            {"title": title, "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs.items()]}
            for title, paragraphs in articles.items()
        ]
    }


def _hotpot_from_hub(source: _Source) -> JSON:
    rows = []
    for row in _from_hub(source):
        context = [list(pair) for pair in zip(row["context"]["title"], row["context"]["sentences"], strict=True)]
        facts = [[title] for title in row["supporting_facts"]["title"]]
        rows.append(
            {"question": row["question"], "answer": row["answer"], "context": context, "supporting_facts": facts}
        )
    return rows


def _from_hub(source: _Source) -> Any:
    where = f"{source.title} ({source.repo} at {source.revision} of the Hugging Face Hub)"
    instead = f'put {source.official} into a folder and set data_dir = "path"'
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise RequestError(f"{where} needs the package datasets: pip install datasets, or {instead}") from error
    try:
        return load_dataset(source.repo, source.config, split="validation", revision=source.revision)
    except Exception as error:  # the client raises its own, httpx's and the system's errors
        raise RequestError(f"{where} cannot be fetched ({type(error).__name__}): {instead}") from error
