"""Fixtures shared by all rooms."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of test data: `LONGREACH_DATA`, else `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("LONGREACH_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data: {folder} is not there; set LONGREACH_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_llama():
    """The embedded model in float32 on the CPU, with its tokenizer and RoPE facts."""
    from harness.models.loading import load
    from harness.models.request import ModelRequest

    return load(ModelRequest(name="tiny-llama"), device="cpu")
