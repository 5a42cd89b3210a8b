"""The benchmark of a training step's memory: its rows, its lines, and what a wrong request is told."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.errors import RequestError
from tests.scripts import imported

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training_memory.py"
ROW = {
    "model": "tiny-llama", "device": "cpu, 1 thread", "dtype": "float32", "attention": "flash", "seq_len": 1000,
    "seconds": 4.0, "cpu_seconds": 3.0, "tokens_per_s": 250.0, "before_bytes": 10**9, "peak_bytes": 3 * 10**9,
    "growth_bytes": 2 * 10**9, "estimate_bytes": 4 * 10**9,
}  # fmt: skip


@pytest.fixture(scope="module")
def benchmark():
    with imported(SCRIPT) as module:
        yield module


def test_a_step_is_measured_beside_its_estimate(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("resident memory is read from Linux's /proc")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--lengths", "768", "--device", "cpu", "--json", "rows.json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row.keys() == ROW.keys()
    assert (row["model"], row["dtype"], row["attention"], row["seq_len"]) == ("tiny-llama", "float32", "flash", 768)
    assert row["growth_bytes"] == row["peak_bytes"] - row["before_bytes"]
    moments_and_gradients = 3 * 4_458_752 * 4  # of as many weights
    assert moments_and_gradients < row["growth_bytes"] < 2 * row["estimate_bytes"]
    assert row["tokens_per_s"] == pytest.approx(768 / row["seconds"], rel=0.01)
    assert "| 768 | " in done.stdout


def test_what_was_freed_before_is_not_in_the_peak(benchmark):
    large = torch.ones(100_000_000)
    del large
    with benchmark.peak_memory(torch.device("cpu")) as memory:
        small = torch.ones(25_000_000)  # above 32 MB: never out of what glibc keeps
        del small
    assert 80_000_000 < memory["peak_bytes"] - memory["before_bytes"] < 200_000_000


def test_the_line_is_said_with_the_largest_distance_from_it(benchmark):
    slope, offset, distance = benchmark.line_through([1, 2, 4], [30, 50, 90])
    assert (slope, offset) == (pytest.approx(20), pytest.approx(10))
    assert distance < 1e-9
    assert benchmark.line_through([1, 2, 4], np.array([1, 4, 16]) * 100)[2] > 0.5  # a parabola is no line
    rows = [ROW | {"seq_len": n, "growth_bytes": n * 10**5 + 10**9} for n in (1000, 2000, 4000)]
    text = benchmark.markdown(rows)
    assert "| 1000 | 1.00 | 3.00 | 1.10 | 4.00 | 4 | 3 | 250 |" in text
    assert "growth: 100.0 kB a token + 1.00 GB, 0.0 % from it at most" in text
    assert "from it" not in benchmark.markdown(rows[:2])


def test_a_length_that_cannot_be_measured_is_one_line(benchmark, monkeypatch, capsys):
    def refused(args, seq_len):
        raise RequestError("the memory is too small")

    monkeypatch.setattr(benchmark, "_in_fresh_process", refused)
    monkeypatch.setattr(sys, "argv", ["training_memory.py", "--lengths", "4096"])
    assert benchmark.main() == 2
    assert capsys.readouterr().err == "4096 tokens: the memory is too small\n"
