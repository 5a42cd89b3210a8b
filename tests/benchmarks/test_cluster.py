"""The benchmark of the executor: what counts as a difference, and what its overhead is of."""

import json
from pathlib import Path

import pytest

from tests.scripts import imported

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cluster.py"


@pytest.fixture(scope="module")
def benchmark():
    with imported(SCRIPT) as module:
        yield module


def written(out: Path, rows: list[dict]) -> Path:
    (out / "cells" / "key").mkdir(parents=True)
    (out / "cells" / "key" / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


ROWS = [{"example_id": f"t-{i}", "output": str(i), "prefill_s": 0.1 * i, "check": "a"} for i in range(3)]


@pytest.mark.parametrize(
    ("theirs", "n"),
    [
        ([row | {"prefill_s": 9.0, "decode_s": 1.0, "check": "b"} for row in reversed(ROWS)], 0),
        ([ROWS[0], ROWS[1] | {"output": "other"}, ROWS[2]], 2),
        (ROWS[:2], 1),
    ],
    ids=["times and order", "an output", "a record"],
)
def test_records_differ_by_what_is_no_time(benchmark, tmp_path, theirs, n):
    ours = benchmark.records(written(tmp_path / "ours", ROWS))
    assert benchmark.n_different(ours, benchmark.records(written(tmp_path / "theirs", theirs))) == n
    assert benchmark.n_different(ours, {}) == 3


def test_overhead_is_of_the_local_run_with_as_many_threads(benchmark):
    chosen = [benchmark.modes(3)[name] for name in ("one", "nodes")]
    seconds = {"local, 1 thread": 100.0, "local, all cores": 60.0, "1 worker": 110.0, "3 nodes of 1 CPU": 57.0}
    rows = [
        benchmark.Row(mode=name, seconds=each, start_s=4.0, answers_s=each - 5, end_s=1.0, n_records=8)
        for name, each in seconds.items()
    ]
    found = benchmark.summary(rows, chosen, {"1 worker": 0, "3 nodes of 1 CPU": 0}, preset="p")
    assert found["overhead"] == pytest.approx({"1 worker": 0.1, "3 nodes of 1 CPU": -0.05})
    lines = benchmark.table(found).splitlines()
    assert len(lines) == 5
    assert "+10.0 %" in lines[3] and "-5.0 %" in lines[4]
    assert json.loads(json.dumps(found))["rows"][0]["mode"] == "local, 1 thread"
