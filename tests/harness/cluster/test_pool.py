"""What is said of a cluster that cannot be had, or has no room: without Ray."""

import sys
from types import ModuleType

import pytest

from harness.cluster import pool
from harness.errors import RequestError
from harness.plan import RunSettings
from run_bench import main
from tests.presets import write_preset


@pytest.fixture
def nodes(monkeypatch) -> list[dict[str, float]]:
    """The resources of a cluster's nodes, behind something that is called ray."""
    found: list[dict[str, float]] = []
    ray = ModuleType("ray")
    ray.init = ray.shutdown = lambda **_: None
    ray.nodes = lambda: [{"Alive": True, "Resources": resources} for resources in found]
    monkeypatch.setitem(sys.modules, "ray", ray)
    return found


def test_an_address_where_nobody_answers(tmp_path, nodes, capsys):
    preset = write_preset(tmp_path)
    out = tmp_path / "out"
    assert main(["run", preset, "--out", str(out), "--executor", "ray", "--address", "127.0.0.1:1"]) == 2
    assert "Ray cluster '127.0.0.1:1': nobody answers there" in capsys.readouterr().err
    assert not out.exists()


def test_what_the_cluster_lacks_is_said_before_anything_runs(tmp_path, nodes, capsys):
    nodes += [{"CPU": 1.0}] * 3
    preset, out = write_preset(tmp_path, run={"gpus": 0.5}), tmp_path / "out"
    assert main(["run", preset, "--out", str(out), "--executor", "ray", "--address", "auto"]) == 2
    says = "each of 8 cells needs 1 CPU and 0.5 GPUs ([run] gpus), the cluster has 3 nodes"
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


@pytest.mark.parametrize("address", ["localhost", "http://head:6379", "head:port"])
def test_an_address_that_is_none(nodes, address):
    with pytest.raises(RequestError, match=r"it should be HOST:PORT of a Ray cluster's head, or auto"):
        pool.connect(address)


def test_without_ray_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RequestError, match=r"Ray is not installed: pip install 'longreach\[ray\]'"):
        pool.connect(None)


@pytest.mark.parametrize(
    ("gpus", "device", "found"),
    [
        (None, "auto", (1.0, "cuda")),
        (0.25, "auto", (0.25, "cuda")),
        (2.0, "auto", (2.0, "cuda")),
        (None, "cpu", (0.0, "cpu")),
        (0.0, "auto", (0.0, "cpu")),
    ],
)
def test_workers_take_the_gpus_that_the_preset_states(nodes, gpus, device, found):
    nodes += [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}]
    assert pool.gpus_and_device(RunSettings(gpus=gpus), device, 8) == found


@pytest.mark.parametrize(
    ("resources", "gpus", "device", "says"),
    [
        (
            {"CPU": 1.0},
            0.5,
            "auto",
            r"each of 8 cells needs 1 CPU and 0.5 GPUs \(\[run\] gpus\), the cluster has 1 node",
        ),
        ({"CPU": 8.0}, None, "cuda", r"needs 1 CPU and 1 GPUs .*the most on one are 8 CPUs and 0 GPUs"),
        ({"CPU": 8.0, "GPU": 2.0}, 4.0, "auto", r"needs 1 CPU and 4 GPUs .*the most on one are 8 CPUs and 2 GPUs"),
        ({"CPU": 0.0, "GPU": 8.0}, None, "auto", r"the most on one are 0 CPUs and 8 GPUs"),
        ({"CPU": 8.0, "GPU": 1.0}, None, "cuda:1", r"device 'cuda:1': a cluster's workers choose theirs"),
        ({"CPU": 8.0, "GPU": 1.0}, 0.0, "cuda", r"device 'cuda': the preset says \[run\] gpus = 0"),
    ],
)
def test_what_a_cluster_lacks_is_named(nodes, resources, gpus, device, says):
    nodes.append(resources)
    with pytest.raises(RequestError, match=says):
        pool.gpus_and_device(RunSettings(gpus=gpus), device, 8)


@pytest.mark.parametrize(
    ("resources", "gpus", "n"),
    [
        ({"CPU": 3.0}, 0.0, 3),
        ({"CPU": 16.0, "GPU": 8.0}, 1.0, 8),
        ({"CPU": 16.0, "GPU": 2.0}, 0.5, 4),
        ({"CPU": 4.0, "GPU": 8.0}, 1.0, 4),
        ({"CPU": 16.0, "GPU": 7.0}, 2.0, 3),
    ],
)
def test_room_on_a_node(resources, gpus, n):
    assert pool.workers_of(resources, gpus) == n
