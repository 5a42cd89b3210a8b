"""The benchmark of the engine runs as it stands, and its engines agree."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.scripts import imported

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def machine():
    with imported(BENCHMARKS / "machine.py") as module:
        yield module


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / "engine.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)


def test_all_engines_give_the_same_score_on_the_same_prompts(tmp_path):
    pytest.importorskip("lm_eval")
    done = run(
        "--device", "cpu", "--lengths", "512", "--samples", "2", "--tasks", "niah_single_1", "--batch", "2",
        "--new-tokens", "10", "--json", "rows.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["engine"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert set(rows) == {
        "longreach", "longreach, no early stop", "forward pass alone", "generate", "HFLM, batch 2"
    }  # fmt: skip
    assert {row["score"] for row in rows.values()} == {1.0, None}
    assert rows["forward pass alone"]["score"] is None
    for row in rows.values():
        assert (row["model"], row["task"], row["seq_len"]) == ("tiny-llama", "niah_single_1", 512)
        assert row["device"].startswith("cpu")
        assert row["seconds_per_sample"] > 0
        assert row["peak_memory_bytes"] > 10**8
    assert "| niah_single_1 | 512 | longreach |" in done.stdout


def test_a_wrong_request_is_one_line(tmp_path):
    done = run("--device", "cpu", "--suite", "ruller-nvidia", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "did you mean 'ruler-nvidia'?" in done.stderr


def test_the_operations_of_a_prompt(machine, tiny_llama):
    """Against a count by hand: four layers, 256 wide, 768 between, four heads of 64."""
    matrices = 4 * (4 * 256 * 256 + 3 * 256 * 768)
    attention = 4 * 4 * 64 * 100 * 100 * 2
    assert machine.prefill_flops(tiny_llama.hf, 100) == 2 * matrices * 100 + attention


def test_the_peak_of_memory_is_that_of_the_block(machine):
    with machine.peak_memory(torch.device("cpu")) as before:
        pass
    with machine.peak_memory(torch.device("cpu")) as during:
        held = torch.ones(64 * 2**20)
        del held
    assert during[0] - before[0] > 200 * 2**20
