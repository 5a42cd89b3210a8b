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
def cluster() -> Iterator:
    import warnings

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    write_preset(folder)
    done = bench(folder, "run", "small.toml", "--out", "out")
    _, stderr = done.communicate()
    assert done.returncode == 0, stderr
    return folder


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


def test_the_records_are_those_of_one_process(cluster, local, tmp_path):
    write_preset(tmp_path)
    process = on(cluster, tmp_path)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert records(tmp_path / "out") == records(local / "out")
    assert len(pids(tmp_path / "out")) == 3


def test_killed_workers_and_a_killed_driver_lose_nothing(cluster, local, tmp_path):
    write_preset(tmp_path)
    process, chance, killed = on(cluster, tmp_path), random.Random(0), []
    while process.poll() is None and len(killed) < 2:
        time.sleep(0.2)
        if found := [pid for pid in pids(tmp_path / "out") if pid not in killed]:
            killed.append(chance.choice(found))
            os.kill(killed[-1], signal.SIGKILL)
            time.sleep(1)
    assert killed
    process.kill()
    process.communicate()
    again = on(cluster, tmp_path)
    _, stderr = again.communicate()
    assert again.returncode == 0, stderr
    assert records(tmp_path / "out") == records(local / "out")


@pytest.mark.parametrize(
    ("preset", "arguments", "says"),
    [
        ({"run": {"gpus": 0.5}}, (), "each of 8 cells needs 1 CPU and 0.5 GPUs ([run] gpus), the cluster has 3 nodes"),
        ({}, ("--device", "cuda:1"), "device 'cuda:1': a cluster's workers choose theirs"),
    ],
)
def test_what_the_cluster_lacks_is_said_before_anything_runs(cluster, tmp_path, preset, arguments, says):
    write_preset(tmp_path, **preset)
    command = ("run", "small.toml", "--out", "out", "--executor", "ray", "--address", cluster.address, *arguments)
    process = bench(tmp_path, *command)
    _, stderr = process.communicate()
    assert process.returncode == 2
    assert says in stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_an_address_where_nobody_answers(tmp_path):
    write_preset(tmp_path)
    process = bench(tmp_path, "run", "small.toml", "--out", "out", "--executor", "ray", "--address", "127.0.0.1:1")
    _, stderr = process.communicate()
    assert process.returncode == 2
    assert "Ray cluster '127.0.0.1:1': nobody answers there" in stderr
