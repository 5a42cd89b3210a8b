"""A folder of a few real rows of each task, and a tokenizer."""

import gzip
import shutil
from pathlib import Path

import pytest

ROWS = 40


@pytest.fixture(scope="session", autouse=True)
def offline():
    """Nothing is fetched, and no data set is kept in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session")
def few_rows(data_dir, tmp_path_factory) -> Path:
    """The first rows of every local file, so that whole tasks are quick to build."""
    folder = tmp_path_factory.mktemp("few")
    for source in [*data_dir.glob("short/*/*.jsonl.gz")]:
        target = folder / source.relative_to(data_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(source, "rb") as file:
            lines = [line for line, _ in zip(file, range(ROWS), strict=False)]
        target.write_bytes(gzip.compress(b"".join(lines)))
    shutil.copytree(data_dir / "mmlu", folder / "mmlu")
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    from harness.models.loading import load_tokenizer
    from harness.models.request import ModelRequest

    return load_tokenizer(ModelRequest(name="tiny-llama"))
