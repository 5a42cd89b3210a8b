"""What `search --executor ray` refuses, in one line, before anything is written. Ray itself is a fake here."""

import sys
from types import SimpleNamespace

import pytest

import run_bench
from harness.cluster import pool
from tests.methods.longrope.search.test_config import write_search


def fake_ray(*resources: dict) -> SimpleNamespace:
    """A cluster of nodes with these resources."""
    nodes = [{"Resources": node, "Alive": True} for node in resources]
    return SimpleNamespace(nodes=lambda: nodes, init=lambda **options: None, shutdown=lambda: None)


@pytest.mark.parametrize(
    ("ray", "arguments", "says"),
    [
        (None, (), "--executor ray: Ray is not installed: pip install 'longreach[ray]'"),
        (fake_ray(), ("--address", "127.0.0.1:1"), "Ray cluster '127.0.0.1:1': nobody answers there"),
        (fake_ray({"CPU": 0.5}), (), "each worker of the search needs 1 CPUs, one a thread (OMP_NUM_THREADS)"),
        (fake_ray({"CPU": 8.0}), ("--device", "cuda"), "each worker of the search needs 1 CPU and 1 GPU: the cluster"),
        (fake_ray({"CPU": 8.0}), ("--device", "cuda:1"), "device 'cuda:1': a cluster's workers choose theirs"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_one_line_and_no_folder(ray, arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    monkeypatch.setattr("harness.models.loading.load", lambda *args, **settings: pytest.fail("the model was loaded"))
    command = ["search", write_search(tmp_path), "--out", str(tmp_path / "out"), "--executor", "ray", *arguments]
    assert run_bench.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (tmp_path / "out").exists()


def test_an_executor_that_there_is_not(tmp_path, capsys):
    assert run_bench.main(["search", write_search(tmp_path), "--executor", "slurm"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "slurm" in line
    assert "local" in line


@pytest.mark.parametrize(
    ("nodes", "device", "n_threads", "on_gpu", "n_workers"),
    [
        ([{"CPU": 8.0}, {"CPU": 3.0}], "auto", 2, False, 5),
        ([{"CPU": 8.0, "GPU": 4.0}, {"CPU": 64.0}], "auto", 8, True, 4),
        ([{"CPU": 8.0, "GPU": 4.0}, {"CPU": 64.0}], "cpu", 8, False, 9),
        ([{"CPU": 2.0, "GPU": 4.0}], "cuda", 8, True, 2),
    ],
)
def test_a_worker_takes_a_gpu_or_as_many_cpus_as_it_has_threads(
    nodes, device, n_threads, on_gpu, n_workers, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ray", fake_ray(*nodes))
    assert pool.measures_on_gpu(device, n_threads) is on_gpu
    cpus = 1 if on_gpu else n_threads
    assert sum(pool.workers_of(node, float(on_gpu), cpus) for node in nodes) == n_workers
