"""The gate that comes along: its preset can be planned, and its page says what the code does."""

import importlib.util
from pathlib import Path

import pytest

from harness.config import load_plan
from reports.comparable import MISMATCH_KINDS, NOT_ALLOWED
from reports.compare import ERROR, EXIT_CODES, MARGIN

GUIDE = (Path(__file__).parents[2] / "docs" / "gate.md").read_text()


@pytest.mark.skipif(importlib.util.find_spec("needlehaystack") is None, reason="needlehaystack is not installed")
def test_the_preset_is_small_and_the_same_everywhere():
    plan = load_plan("ci")
    assert sum(p.cell.n_samples * p.cell.seq_len for p in plan.cells) < 400_000  # tokens: under a minute on two cores
    assert {(p.cell.model, p.cell.dtype, p.cell.attention) for p in plan.cells} == {("tiny-llama", "float32", "sdpa")}
    lengths = {p.cell.seq_len for p in plan.cells}
    assert min(lengths) < 512 < max(lengths)  # inside and beyond the window
    assert len(plan.methods) > 1
    assert not [p.path for p in plan.cells if "docs" in p.cell.task]  # a text of the Python that runs


def test_the_guide_says_what_the_code_does():
    for outcome, code in EXIT_CODES.items():
        assert f"| {code} | {outcome} |" in GUIDE
    assert f"{MARGIN:g} by default" in GUIDE
    assert f"at most {('two' if ERROR == 0.02 else '?')} are called regressed" in GUIDE
    assert ", ".join(f"`{kind}`" for kind in MISMATCH_KINDS if kind not in NOT_ALLOWED) in GUIDE
    assert all(kind in GUIDE for kind in NOT_ALLOWED)
    assert "run ci --out" in GUIDE
