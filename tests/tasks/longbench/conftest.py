"""Folders of real rows, and the tokenizers that prompts are rendered with."""

import json
from pathlib import Path

import pytest

from tasks.longbench.table import TASKS
from tests.tasks.longbench.rows import first_rows, with_chat, write_rows

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def few_rows(data_dir, tmp_path_factory) -> Path:
    """The first real rows of all 21 tasks."""
    folder = tmp_path_factory.mktemp("longbench")
    for task in TASKS:
        write_rows(folder / f"{task}.jsonl", first_rows(data_dir / "longbench" / f"{task}.jsonl.gz"))
    return folder


@pytest.fixture(scope="session")
def few_rows_v2(data_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("longbench_v2")
    write_rows(folder / "short.jsonl", first_rows(data_dir / "longbench_v2" / "short.jsonl.gz"))
    return folder


@pytest.fixture(scope="session")
def tokenizer_of():
    """The tokenizer of a model, with Llama-2's chat wrapper; skipped where the model is not there."""
    from harness.errors import RequestError
    from harness.models.loading import load_tokenizer
    from harness.models.request import ModelRequest

    found = {}

    def get(name: str):
        if name not in found:
            try:
                found[name] = with_chat(load_tokenizer(ModelRequest(name=name)))
            except RequestError as error:
                pytest.skip(str(error))
        return found[name]

    return get


@pytest.fixture(scope="session")
def golden():
    """A file of golden values."""

    def read(name: str):
        return json.loads((GOLDEN / name).read_text(encoding="utf-8"))

    return read
