"""Settings of a run that move no score: early stop, and how many samples go together."""

import json

import pytest

import run_bench
from harness.models import memory
from tests.presets import write_preset

SUITES = [
    {"name": "ruler-nvidia", "tasks": ["niah_single_1", "vt"]},
    {"name": "needle", "tasks": ["keys4_noise"]},
    {"name": "passkey"},
]


def scores(folder, **changes):
    """Scores and outputs of a run, by cell and sample."""
    folder.mkdir()
    preset = write_preset(folder, seq_lens=[512], suite=SUITES, n_samples=3, **changes)
    assert run_bench.main(["run", preset, "--out", str(folder / "out"), "--device", "cpu"]) == 0
    records = [
        json.loads(line)
        for path in sorted((folder / "out" / "cells").glob("*/records.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(records) == 2 * 4 * 3
    return {(r["cell_key"], r["example_id"]): r for r in records}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return scores(tmp_path_factory.mktemp("runs") / "plain")


def same_scores(a, b) -> bool:
    return {k: (r["score"], r["measures"]) for k, r in a.items()} == {
        k: (r["score"], r["measures"]) for k, r in b.items()
    }


def test_early_stop_moves_no_score_and_no_key(plain, tmp_path):
    whole = scores(tmp_path / "whole", run={"early_stop": False})
    assert same_scores(plain, whole)
    assert {record["stopped"] for record in plain.values()} >= {"settled", "length"}
    assert "settled" not in {record["stopped"] for record in whole.values()}
    for key, record in plain.items():
        assert whole[key]["output"].startswith(record["output"].rstrip("\ufffd"))
        assert record["attention"] == "flash"


def test_one_sample_at_a_time_gives_the_same_outputs(plain, tmp_path, monkeypatch):
    monkeypatch.setitem(memory.BATCH, "cpu", 1)
    alone = scores(tmp_path / "alone")
    assert {k: r["output"] for k, r in alone.items()} == {k: r["output"] for k, r in plain.items()}
