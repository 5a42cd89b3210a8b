"""Where a task's documents come from: a folder of local files, or the Hugging Face Hub at a pinned revision."""

import gzip
import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.models.hashes import file_sha256
from harness.types import JSON, content_hash
from tasks.short.index import FUNCTION, LeafTask

Rows = list[tuple[int, dict[str, Any]]]  # documents, each with the line it stands on
SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")

# The commit each data set is read at.
REVISIONS = {
    "EleutherAI/lambada_openai": "900124bf3b8235c6daf21033af9948b3f07346c4",
    "EleutherAI/wikitext_document_level": "647234772b9554e208af6c826f23b99e3cac88c8",
    "Rowan/hellaswag": "218ec52e09a7e7462a5400043bb9a69a41d06b76",
    "TIGER-Lab/MMLU-Pro": "b189ec765aa7ed75c8acfea42df31fdae71f97be",
    "allenai/ai2_arc": "210d026faf9955653af8916fad021475a3f00453",
    "allenai/winogrande": "01e74176c63542e6b0bcb004dcdea22d94fb67b5",
    "aps/super_glue": "3de24cf8022e94f4ee4b9d55a6f539891524d646",
    "baber/piqa": "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1",
    "cais/mmlu": "c30699e8356da336a370243923dbaf21066bb9fe",
    "openai/gsm8k": "740312add88f781978c0658806c59bc2815b9866",
    "truthfulqa/truthful_qa": "741b8276f2d1982aa3d5b832d3ee81ed3b896490",
}

# Folders of `data_dir` with a shorter name than `<data set>/<configuration>`.
_FOLDERS = {
    ("EleutherAI/lambada_openai", "default"): "short/lambada_openai",
    ("Rowan/hellaswag", None): "short/hellaswag",
    ("TIGER-Lab/MMLU-Pro", None): "short/mmlu_pro",
    ("allenai/ai2_arc", "ARC-Challenge"): "short/arc_challenge",
    ("allenai/ai2_arc", "ARC-Easy"): "short/arc_easy",
    ("allenai/winogrande", "winogrande_xl"): "short/winogrande",
    ("aps/super_glue", "boolq"): "short/boolq",
    ("baber/piqa", None): "short/piqa",
    ("openai/gsm8k", "main"): "short/gsm8k",
    ("truthfulqa/truthful_qa", "generation"): "short/truthfulqa_gen",
    ("truthfulqa/truthful_qa", "multiple_choice"): "short/truthfulqa_mc",
}
_MMLU = "cais/mmlu"  # its configurations are subjects; locally a column of one file for each split


def eval_split(config: Mapping[str, JSON]) -> str:
    """The split whose documents are asked: the test split where there is one, as lm-eval chooses."""
    split = config.get("test_split") or config.get("validation_split")
    if not split:
        raise RequestError(f"lm_eval task '{config['task']}' has neither a test nor a validation split")
    return str(split)


def fewshot_split(config: Mapping[str, JSON]) -> str | None:
    """The split whose documents stand before the question, or None where the configuration lists them itself."""
    own = config.get("fewshot_config") or {}
    if own.get("samples") is not None and not config.get("fewshot_split") and not own.get("split"):
        return None
    chosen = own.get("split") or config.get("fewshot_split")
    return str(chosen or config.get("training_split") or config.get("validation_split") or config.get("test_split"))


@dataclass(frozen=True, kw_only=True)
class HubData:
    """A data set of the Hub at a commit."""

    name: str
    configuration: str | None
    revision: str

    def digest(self) -> str:
        """sha256 that names the contents."""
        return content_hash([self.name, self.configuration, self.revision])

    def check(self, task: str) -> None:
        """Raises RequestError when there is no network and no copy in the cache."""
        from huggingface_hub import constants

        prepared = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
        copies = prepared.glob(f"{self.name.replace('/', '___')}/*/*/{self.revision}")
        if constants.HF_HUB_OFFLINE and not self._snapshot.is_dir() and not any(copies):
            raise self.unreachable(task, "HF_HUB_OFFLINE is set and the cache has no copy")

    def documents(self, task: str, settings: Mapping[str, Any]) -> Any:
        """The splits, fetched where they are not cached. Raises RequestError.

        settings: what the task's definition passes to `datasets`.
        """
        import datasets
        from huggingface_hub import constants

        options = {key: value for key, value in settings.items() if key != "trust_remote_code"}
        if constants.HF_HUB_OFFLINE and self._snapshot.is_dir():
            builder = datasets.load_dataset_builder(str(self._snapshot), self.configuration, **options)
        else:
            builder = datasets.load_dataset_builder(self.name, self.configuration, revision=self.revision, **options)
            if builder.hash != self.revision:  # without a network, `datasets` takes whatever it prepared last
                raise self.unreachable(task, f"the cache has commit {builder.hash} of it")
        builder.download_and_prepare()
        return builder.as_dataset()

    @property
    def _snapshot(self) -> Path:
        """Where `hf download` puts this commit."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE) / f"datasets--{self.name.replace('/', '--')}" / "snapshots" / self.revision

    def unreachable(self, task: str, why: str) -> RequestError:
        """What would be fetched, and where to put it instead."""
        return RequestError(
            f"lm_eval task '{task}' reads {self.name} at revision {self.revision[:10]} from the Hugging Face Hub "
            f"({why}): run `hf download --repo-type dataset {self.name} --revision {self.revision}` where there is a "
            f"network, or set data_dir to a folder that has {folder_of(self.name, self.configuration)}/<split>.jsonl.gz"
        )


@dataclass(frozen=True, kw_only=True)
class LocalData:
    """Files with one JSON document a line, a file for each split that is read. subject: the rows to keep, of MMLU."""

    files: Mapping[str, Path]
    subject: str | None = None

    def digest(self) -> str:
        """sha256 that names the contents."""
        return content_hash([self.subject, {split: file_sha256(path) for split, path in self.files.items()}])

    def chosen(self, split: str, rows: Rows) -> Rows:
        """Of a split's rows, those that belong to the task."""
        if self.subject is None:
            return rows
        found = [(line, row) for line, row in rows if row.get("subject") == self.subject]
        if not found:
            raise RequestError(f"{self.files[split]} has no row whose subject is '{self.subject}'")
        return found


def hub_data(leaf: LeafTask, revisions: Mapping[str, str]) -> HubData:
    """A task's data set at its pinned commit. Raises RequestError where none is known."""
    name, configuration = leaf.config.get("dataset_path"), leaf.config.get("dataset_name")
    if not isinstance(name, str) or ("/" not in name and name not in revisions):
        raise RequestError(
            f"lm_eval task '{leaf.name}' reads its documents through '{name}', which has no revision to pin: "
            "put its files in a folder and set data_dir"
        )
    revision = revisions.get(name) or REVISIONS.get(name)
    if revision is None:
        raise RequestError(
            f"lm_eval task '{leaf.name}' reads {name}, and no revision of it is pinned: write "
            f'revisions = {{"{name}" = "<commit>"}} with a commit of that data set'
        )
    return HubData(name=name, configuration=configuration, revision=revision)


def local_data(leaf: LeafTask, data_dir: str, *, num_fewshot: int) -> LocalData:
    """The files of a task under a folder: those it needs, all there. Raises RequestError."""
    name, configuration = str(leaf.config.get("dataset_path")), leaf.config.get("dataset_name")
    folder = Path(data_dir) / folder_of(name, configuration)
    asked, shown = eval_split(leaf.config), fewshot_split(leaf.config)
    files = {asked: _file(folder, asked)}
    if files[asked] is None:
        raise RequestError(f"lm_eval task '{leaf.name}': there is no {folder / asked}.jsonl.gz (documents of {name})")
    if shown is not None:
        files[shown] = _file(folder, shown)
        if files[shown] is None and num_fewshot:
            raise RequestError(
                f"lm_eval task '{leaf.name}': there is no {folder / shown}.jsonl.gz for its {num_fewshot} few-shot "
                f"examples (documents of {name}); num_fewshot = {{{leaf.name} = 0}} asks without"
            )
    return LocalData(
        files={split: path for split, path in files.items() if path is not None},
        subject=configuration if name == _MMLU else None,
    )


def folder_of(name: str, configuration: str | None) -> str:
    """The folder below `data_dir` that holds a data set's splits."""
    if name == _MMLU:
        return "mmlu"
    return _FOLDERS.get((name, configuration)) or (f"{name}/{configuration}" if configuration else name)


def _file(folder: Path, split: str) -> Path | None:
    for path in (folder / f"{split}.jsonl.gz", folder / f"{split}.jsonl"):
        if path.is_file():
            return path
    return None


def read_rows(path: Path) -> Rows:
    """The documents of a JSON-lines file with their line numbers, all with the columns of the first.

    Raises RequestError naming the file and the row that is wrong.
    """
    rows: Rows = []
    for number, line in enumerate(_bytes(path).splitlines(), start=1):
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(f"{path}: row {number} is no valid UTF-8 (byte {error.start})") from error
        except ValueError as error:
            raise RequestError(f"{path}: row {number} is no JSON document: {error}") from error
        if not isinstance(row, dict):
            raise RequestError(f"{path}: row {number} is {type(row).__name__}, it should be a JSON object")
        if rows and row.keys() != rows[0][1].keys():
            odd = sorted(row.keys() ^ rows[0][1].keys())
            verb = "lacks" if odd[0] in rows[0][1] else "has"
            raise RequestError(
                f"{path}: row {number} {verb} '{odd[0]}', unlike row 1: each should have the same fields"
            )
        rows.append((number, row))
    if not rows:
        raise RequestError(f"{path} is empty: it should hold one JSON document a line")
    return rows


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RequestError(f"{path} is no whole gzip file ({error}): copy it again") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error}") from error


def check_fields(leaf: LeafTask, path: Path, rows: Rows) -> None:
    """Raises RequestError where a field that the task reads is null. (A prompt would read "None".)"""
    templates = [leaf.config.get(key) for key in ("doc_to_text", "doc_to_target", "doc_to_choice")]
    code = any(
        isinstance(text, str) and text.startswith(FUNCTION) for text in [*templates, leaf.config.get("process_docs")]
    )
    words = set(re.findall(r"\w+", " ".join(str(text) for text in templates)))
    for number, row in rows:
        for name, value in row.items():
            if value is None and (code or name in words):
                raise RequestError(f"{path}: row {number} has no '{name}': it is null, and the task reads it")
