"""What docs/training.md says of the embedded model stands in the committed summary and in the measured memory."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

import run_bench

DOCS = Path(run_bench.__file__).parent / "docs"
SUMMARY = json.loads((DOCS / "training" / "summary.json").read_text(encoding="utf-8"))
MEMORY = json.loads((DOCS / "training" / "memory.json").read_text(encoding="utf-8"))
TEXT = (DOCS / "training.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXT, re.MULTILINE)
SHORT, LONG = (128, 256, 512), (512, 2048, 4096)


def score(method: str, suite: str, task: str, seq_len: int) -> float:
    (found,) = (
        row["score"]
        for row in SUMMARY["scores"]
        if (row["method"], row["suite"], row["task"], row["seq_len"]) == (method, suite, task, seq_len)
    )
    return found


def test_there_is_a_row_for_every_method_of_the_summary():
    assert [name for name, _ in ROWS] == list(dict.fromkeys(row["method"] for row in SUMMARY["scores"]))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_number_of_a_row_is_the_summarys(row):
    method, cells = row
    found = []
    for task in ("keys4_docs", "keys4_noise"):
        found += [f"{score(method, 'needle_4_keys', task, n):.2f}" for n in LONG]
    for task in ("docs_whole", "essay_whole"):
        found += [f"{1 / score(method, 'perplexity_short', task, n):.0f}" for n in SHORT]
    assert [cell for group in cells.split(" | ") for cell in group.split()] == found


def test_training_with_mixing_finds_four_keys_at_the_target_and_loses_nothing_on_short_texts():
    for task in ("keys4_docs", "keys4_noise"):
        assert score("trained_mixed", "needle_4_keys", task, 4096) >= 0.95
    for task in ("docs_whole", "essay_whole"):
        for n in SHORT:
            mixed, base = (score(name, "perplexity_short", task, n) for name in ("trained_mixed", "vanilla"))
            assert 1 / mixed <= 1.02 / base


def test_without_mixing_short_texts_are_read_worse_however_they_are_served():
    for other in ("trained_without_mixing", "trained_without_mixing_original_inside"):
        for task in ("docs_whole", "essay_whole"):
            for n in SHORT:
                mixed, unmixed = (score(name, "perplexity_short", task, n) for name in ("trained_mixed", other))
                assert unmixed < 0.98 * mixed


def test_the_table_of_memory_is_what_was_measured():
    section = TEXT.partition("## Memory by length")[2].partition("\n## ")[0]
    said = [line.strip("| ").split(" | ") for line in section.splitlines() if re.match(r"\| \d", line)]
    assert said == [
        [
            str(row["seq_len"]),
            *(f"{row[name] / 1e9:.2f}" for name in ("growth_bytes", "estimate_bytes")),
            f"{row['growth_bytes'] / row['seq_len'] / 1e3:.1f}",
            f"{row['cpu_seconds']:.0f}",
            f"{row['seq_len'] / row['cpu_seconds']:.0f}",
        ]
        for row in MEMORY
    ]
    lengths, growths = (np.array([row[name] for row in MEMORY]) for name in ("seq_len", "growth_bytes"))
    line = np.polyfit(lengths, growths, 1)
    assert f"a line of {line[0] / 1e3:.1f} kB a token, to less than 0.1 %" in " ".join(section.split())
    assert np.abs(np.polyval(line, lengths) / growths - 1).max() < 0.001


def test_the_memory_of_a_step_grows_no_faster_than_its_length_and_stays_below_the_estimate():
    assert [row["seq_len"] for row in MEMORY][-1] >= 2 * MEMORY[0]["seq_len"]
    for row, longer in itertools.pairwise(MEMORY):
        assert longer["growth_bytes"] / row["growth_bytes"] < 1.1 * longer["seq_len"] / row["seq_len"]
    assert all(row["growth_bytes"] < row["estimate_bytes"] for row in MEMORY)
