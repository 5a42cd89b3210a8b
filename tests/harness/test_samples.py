"""Samples are built once and come back from disk exactly as they were built."""

from dataclasses import replace

import pytest

from harness.config import load_plan
from harness.models.loading import load_tokenizer
from harness.samples import SampleCache
from tests.presets import write_preset


@pytest.fixture
def cells(tmp_path):
    return load_plan(write_preset(tmp_path)).cells


def rebuilt(planned):
    cell = planned.cell
    return list(
        planned.suite.suite.examples(
            cell.task, seq_len=cell.seq_len, n=cell.n_samples, seed=cell.seed, tokenizer=load_tokenizer(planned.model)
        )
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_what_comes_from_the_cache_is_what_the_suite_builds(cells, tmp_path, processes, monkeypatch):
    monkeypatch.setattr("harness.samples._WORTH_A_POOL", 0)
    cache = SampleCache(tmp_path / "samples")
    cache.prepare(cells, processes=processes)
    for planned in cells:
        assert list(cache.of(planned)) == rebuilt(planned)


def test_methods_share_samples_and_a_second_run_builds_none(cells, tmp_path, monkeypatch):
    cache = SampleCache(tmp_path / "samples")
    cache.prepare(cells)
    assert len(list((tmp_path / "samples").rglob("*.npy"))) == 4  # two tasks at two lengths, whatever the method
    monkeypatch.setattr(SampleCache, "_build", lambda *_: pytest.fail("built again"))
    cache.prepare(cells)
    assert len(list(cache.of(cells[0]))) == 4


def test_more_samples_begin_with_the_fewer(cells, tmp_path):
    cache, few = SampleCache(tmp_path / "samples"), cells[0]
    many = replace(few, cell=replace(few.cell, n_samples=9))
    cache.prepare([few])
    before = list(cache.of(few))
    cache.prepare([many])
    assert list(cache.of(many))[:4] == before
    assert list(cache.of(few)) == before


def test_another_seed_or_text_or_tokenizer_is_another_file(cells, tmp_path):
    cache, planned = SampleCache(tmp_path / "samples"), cells[0]
    other_seed = replace(planned, cell=replace(planned.cell, seed=1))
    other_tokenizer = replace(planned, cell=replace(planned.cell, artifacts={"tokenizer": "another"}))
    cache.prepare([planned, other_seed, other_tokenizer])
    assert len(list((tmp_path / "samples").rglob("*.npy"))) == 3
    assert list(cache.of(other_seed)) != list(cache.of(planned))
