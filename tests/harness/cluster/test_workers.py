"""`run --workers 2`: the cells of a run in several processes of one machine."""

from dataclasses import replace

import pytest

import run_bench
from harness.cluster import processes
from harness.environment import n_cores
from harness.plan import RunSettings
from harness.store import read_run
from tests.commands import refused
from tests.presets import write_preset

TIMES = {"prefill_s": None, "decode_s": None, "peak_memory_bytes": None}


@pytest.fixture(scope="module")
def preset(tmp_path_factory) -> str:
    methods = [{"name": "vanilla"}, {"name": "yarn"}, {"name": "ntk"}]
    suite = {"name": "needle", "tasks": ["keys1_noise"]}
    return write_preset(
        tmp_path_factory.mktemp("preset"), seq_lens=[256, 512], n_samples=2, method=methods, suite=[suite]
    )


@pytest.fixture(scope="module")
def made(preset, tmp_path_factory):
    """The folders of one run in this process, and of the same with two workers."""
    folder = tmp_path_factory.mktemp("runs")
    alone, shared = folder / "alone", folder / "shared"
    assert run_bench.main(["run", preset, "--out", str(alone)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        assert run_bench.main(["run", preset, "--out", str(shared), "--workers", "2"]) == 0
    return alone, shared


def test_the_records_are_those_of_one_process(made):
    alone, shared = (
        {key: [replace(record, **TIMES) for record in records] for key, records in read_run(folder).records.items()}
        for folder in made
    )
    assert sum(map(len, alone.values())) == 12
    assert shared == alone


@pytest.mark.parametrize(("n", "said"), [(1, None), (2, str(max(1, n_cores() // 2))), (10_000, "1")])
def test_each_of_several_has_its_share_of_the_cores(monkeypatch, n, said):
    """A stand-in for the worker's script says which threads it was told to use."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = []
    monkeypatch.setattr(processes.subprocess, "Popen", lambda command, *, env, **settings: seen.append(env))
    child = processes.ProcessPool(RunSettings(), device="cpu", n=n)._started(None)
    child.connection.close()
    child.output.close()
    assert seen[0].get("OMP_NUM_THREADS") == said


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--workers", "0"], "--workers 0: it should be at least 1"),
        (["--workers", "2", "--executor", "ray"], "on a cluster they follow from its cores and GPUs"),
    ],
)
def test_numbers_of_workers_that_make_no_sense_are_refused(preset, tmp_path, capsys, options, line):
    out = tmp_path / "out"
    assert line in refused(["run", preset, "--out", str(out), *options], capsys, out)
