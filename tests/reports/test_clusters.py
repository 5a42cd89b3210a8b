"""Samples that share a document are resampled together, everywhere a score has an interval."""

import random

import pytest

from reports import tables
from reports.compare import compare
from tests.reports.synthetic import entry, ok, run_data


def run(document, methods=("vanilla",), n=200, **fields):
    cells = [entry(m, "needle", "keys1", 256, n) for m in methods]

    def answer(cell, i):
        shared = random.Random(f"{cell['method']}{i // 20}{fields}").random() < 0.5
        return ok(cell, i, float(shared), metadata={"document": f"d{i // 20}"} if document else {}, output=str(shared))

    return run_data(cells, answer)


def width(row):
    return row["high"] - row["low"]


def test_a_score_of_few_documents_is_less_sure():
    (alone,), (together,) = (tables.summary(run(document))["scores"] for document in (False, True))
    assert alone["score"] == together["score"]
    assert (alone["n_ok"], together["n_ok"]) == (200, 200)
    assert width(together) > 3 * width(alone)


def test_clusters_cover_their_level():
    """12 documents of 10 samples that are all right or all wrong: samples alone would cover about half as often."""
    covered = {True: 0, False: 0}
    for seed in range(100):
        rng = random.Random(seed)
        right = [rng.random() < 0.7 for _ in range(12)]
        for document in covered:
            cells = [entry("vanilla", "needle", "keys1", 256, 120, model=f"m{seed}")]
            data = run_data(
                cells,
                lambda cell, i, right=right, document=document: ok(
                    cell, i, float(right[i // 10]), metadata={"document": i // 10} if document else {}
                ),
            )
            (row,) = tables.summary(data)["scores"]
            covered[document] += row["low"] <= 0.7 <= row["high"]
    assert covered[True] >= 88
    assert covered[False] < 65


def test_retention_is_less_sure_too():
    rows = [
        next(r for r in tables.summary(run(document, ("vanilla", "yarn")))["retention"] if r["group"] == "needle")
        for document in (False, True)
    ]
    assert rows[0]["retention"] == rows[1]["retention"]
    assert width(rows[1]) > 2 * width(rows[0])
    assert rows[1]["mcnemar"] is None  # its exact test is of independent samples


def test_a_comparison_is_less_sure_too():
    found = [compare(run(document, seed=0), run(document, seed=1)).cells[0].change for document in (False, True)]
    assert found[0].value == pytest.approx(found[1].value)
    assert found[1].high - found[1].low > 2 * (found[0].high - found[0].low)
    assert found[1].tails.worse > found[0].tails.worse or found[1].tails.better > found[0].tails.better


def test_documents_of_one_sample_each_change_nothing():
    cells = [entry("vanilla", "needle", "keys1", 256, 20)]
    plain = run_data(cells, lambda cell, i: ok(cell, i, float(i % 3 > 0)))
    named = run_data(cells, lambda cell, i: ok(cell, i, float(i % 3 > 0), metadata={"document": i}))
    assert tables.summary(plain)["scores"] == tables.summary(named)["scores"]
