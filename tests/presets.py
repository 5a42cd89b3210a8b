"""Small presets for tests, written as a user would write them."""

import json
from pathlib import Path

import pytest

from harness.models import request
from tasks.longbench.v1 import LongBench
from tasks.ruler.suite import AbstractRuler
from tasks.short.suite import LmEval

SMALL = {
    "title": "Small",
    "seq_lens": [256, 1024],
    "n_samples": 4,
    "model": {"name": "tiny-llama"},
    "method": [{"name": "vanilla"}, {"name": "yarn"}],
    "suite": [
        {"name": "needle", "tasks": ["keys1_noise"]},
        {"name": "perplexity", "tasks": ["docs_whole"], "n_samples": 2},
    ],
}


def everything_at_hand(patch: pytest.MonkeyPatch) -> None:
    """Models and data sets count as there, until the patch is undone."""
    for suite in (AbstractRuler, LongBench, LmEval):
        patch.setattr(suite, "check", lambda self, task: None)
        patch.setattr(suite, "artifacts", lambda self, task: {})
        patch.setattr(suite, "n_available", lambda self, task: 10**6, raising=False)
    models_at_hand(patch)


def models_at_hand(patch: pytest.MonkeyPatch) -> None:
    """Models count as there, until the patch is undone."""
    patch.setattr(request, "check", lambda found: None)
    patch.setattr(request, "identity", lambda found: {})


def write_preset(folder: Path, name: str = "small", **changes) -> str:
    """A preset file like SMALL with some top-level entries changed; None removes one."""
    preset = {key: value for key, value in (SMALL | changes).items() if value is not None}
    return write_toml(folder / f"{name}.toml", preset)


def write_toml(path: Path, table: dict) -> str:
    """A TOML file of this table."""
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in table.items()))
    return str(path)


def _toml(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)
