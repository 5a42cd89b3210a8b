"""On a simulated cluster of three nodes a run's records are those of one process, and survive kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.presets import write_preset

pytest.importorskip("ray", reason="Ray is not installed: pip install 'longreach[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]
ROOT = Path(__file__).parents[3]
TIMES = ("prefill_s", "decode_s", "peak_memory_bytes", "check")


@pytest.fixture(scope="module")
def started_local(tmp_path_factory) -> Iterator[tuple[Path, subprocess.Popen]]:
    """The same run in one process, while the cluster starts."""
    folder = tmp_path_factory.mktemp("local")
    write_preset(folder)
    with bench(folder, "run", "small.toml", "--out", "out") as process:
        yield folder, process
        process.kill()


def bench(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "run_bench.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def records(out: Path) -> dict[str, list[str]]:
    """Each cell's lines without what a clock, or the lines' order, decides."""
    found = {}
    for path in out.glob("cells/*/records.jsonl"):
        assert (path.parent / "cell.json").exists()
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = sorted(json.dumps({k: v for k, v in row.items() if k not in TIMES}) for row in rows)
    return found


def pids(out: Path) -> list[int]:
    """The processes of the workers that do something now."""
    try:
        rows = json.loads((out / "status.json").read_text())["workers"]
    except FileNotFoundError:
        return []
    return [int(row["host"].rpartition(":")[2]) for row in rows if row["host"]]


def on(cluster, folder: Path) -> subprocess.Popen:
    return bench(folder, "run", "small.toml", "--out", "out", "--executor", "ray", "--address", cluster.address)


def test_the_records_are_those_of_one_process_whatever_is_killed(started_local, cluster, tmp_path):
    write_preset(tmp_path)
    process, killed = on(cluster, tmp_path), 0
    while process.poll() is None and not killed:
        time.sleep(0.1)
        if found := pids(tmp_path / "out"):
            killed = random.Random(0).choice(found)
            os.kill(killed, signal.SIGKILL)
            time.sleep(1)
    assert killed
    process.kill()
    process.communicate()
    again = on(cluster, tmp_path)
    _, stderr = again.communicate()
    assert again.returncode == 0, stderr
    folder, local = started_local
    _, stderr = local.communicate()
    assert local.returncode == 0, stderr
    assert records(tmp_path / "out") == records(folder / "out")
