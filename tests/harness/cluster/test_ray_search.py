"""A search on a simulated cluster finds what one process finds, a worker killed on the way or not."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cluster.conftest import started
from tests.presets import write_toml

pytest.importorskip("ray", reason="Ray is not installed: pip install 'longreach[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]
ROOT = Path(__file__).parents[3]
SEARCH = {
    "target_length": 640,
    "model": {"name": "tiny-llama"},
    "objective": {"haystacks": ["noise"], "n_documents": 2, "documents": "fixed"},
    "search": {
        "algorithm": "longrope2",
        "budget": 20,
        "population": 6,
        "iterations": 1,
        "n_parents": 3,
        "n_mutations": 2,
        "n_crossovers": 1,
        "n_final": 1,
    },
    "report": {"test_documents": 2, "curve_points": 2},
}
JOINED = re.compile(r"worker (\d+) measures: \S+:(\d+)")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with started(2) as made:
        yield made.address


def search(folder: Path, *arguments: str) -> subprocess.Popen:
    folder.mkdir()
    config = write_toml(folder / "small.toml", SEARCH)
    command = [sys.executable, str(ROOT / "run_bench.py"), "search", config, "--out", str(folder / "out"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def found(folder: Path) -> dict:
    """The factors file without what depends on the time and the machine."""
    table = json.loads((folder / "out" / "factors.json").read_text())
    del table["environment"], table["search"]["seconds"]
    return table


def test_a_search_that_loses_a_worker_finds_the_factors_of_one_process(address, tmp_path):
    alone = search(tmp_path / "alone")
    process = search(tmp_path / "many", "--executor", "ray", "--address", address)
    joined, lines, victim = [], [], None
    for line in process.stderr:
        lines.append(line)
        joined += JOINED.findall(line)
        if victim is None and len(joined) == 2 and "question" in line:  # it measures one of its candidates now
            victim = joined[0]
            os.kill(int(victim[1]), signal.SIGKILL)
    process.communicate()
    said = "".join(lines)
    assert process.returncode == 0, said
    assert "2 workers, " in said
    assert re.search(f"worker {victim[0]} was lost: .*; its candidate is measured again", said), said
    _, stderr = alone.communicate()
    assert alone.returncode == 0, stderr
    assert found(tmp_path / "many") == found(tmp_path / "alone")
