"""The papers' presets: every name and setting in them is one there is, whatever weights and data are at hand."""

import shutil
from pathlib import Path

import pytest

from harness import config
from harness.errors import RequestError
from methods.longrope import factors_file
from reports import published
from tests.presets import everything_at_hand, write_preset

PRESETS = [name for name in config.preset_names() if name.startswith("paper/")]


@pytest.fixture
def nothing_at_hand(monkeypatch, tmp_path):
    """Models and data sets count as there; searched factors and checkpoints are where the presets look."""
    everything_at_hand(monkeypatch)
    packaged = Path(factors_file.__file__).parent / "factors" / "llama3-8b-128k.json"
    for name in ("plain-ppl.json", "all-dims.json"):
        shutil.copy(packaged, tmp_path / name)
    for name in ("mixed", "long-only"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("LONGREACH_FACTORS", str(tmp_path))
    monkeypatch.setenv("LONGREACH_CHECKPOINTS", str(tmp_path))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_what_its_table_holds(name, nothing_at_hand):
    plan = config.load_plan(name)
    paper = published.load(plan.report.published)
    place = name.partition("table")[2].partition("-")[0]
    tables = [table for table in paper.tables.values() if table.place == f"Table {place}"]
    assert tables
    models = {str(model.label) for model in plan.models}
    if place != "7":  # checkpoints of our own training
        (model,) = models
        tables = [table for table in tables if table.model == model]
    for table in tables:
        for suite in plan.suites:
            assert all(suite.suite.metric(task) for task in suite.tasks if suite.name != "short")
            if suite.name == table.suite and table.by_length:
                assert set(suite.seq_lens) == set(table.columns)
            if suite.name == table.suite and not table.by_length:
                assert set(suite.tasks) >= {column for column in table.columns if column != "avg"}
    assert plan.cells


def test_there_is_a_preset_for_every_table_of_both_models():
    places = {name.partition("table")[2].partition("-")[0] for name in PRESETS}
    assert places == {"2", "3", "4", "5", "6", "7", "10"}


def test_the_papers_name_moves_neither_plan_nor_cells(tmp_path):
    plain = config.load_plan(write_preset(tmp_path))
    named = config.load_plan(write_preset(tmp_path, "named", report={"published": "longrope2"}))
    assert named.report.published == "longrope2"
    assert named.key == plain.key
    assert [c.cell.key for c in named.cells] == [c.cell.key for c in plain.cells]


def test_an_unknown_paper_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(RequestError, match="'longrope3': did you mean"):
        config.load_plan(write_preset(tmp_path, report={"published": "longrope3"}))
