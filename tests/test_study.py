"""The study of tiny-llama: its text says what its results say, and nothing that it measures on was learned from."""

import json
import re
from pathlib import Path

import pytest

import run_bench
from harness.config import preset_names, read_toml
from tests.scripts import imported

ROOT = Path(run_bench.__file__).parent
STUDY = ROOT / "docs" / "study"
PRESETS = ROOT / "harness" / "presets"
TEXT = (STUDY / "README.md").read_text(encoding="utf-8")
RUNS = {
    "study-tiny": "summary",
    "study-tiny-far": "far",
    "study-tiny-more": "more",
    "study-tiny-searched": "searched",
    "study-tiny-ablations": "ablations",
    "study-tiny-mixing": "mixing",
}


def learning(kind: str) -> dict[str, dict]:
    """The study's searches or trainings, what they take over from others included."""
    found = {}
    for name in preset_names(kind):
        if name.startswith(("study-tiny", "ablation")) or (kind, name) == ("search", "tiny-8192"):
            table = read_toml(PRESETS / kind / f"{name}.toml")
            if "like" in table:
                table = read_toml(PRESETS / kind / f"{table['like']}.toml") | table
            found[name] = table
    return found


@pytest.fixture(scope="module")
def fill():
    with imported(STUDY / "fill.py") as module:
        yield module


def test_every_table_and_every_marked_number_is_what_the_results_say(fill):
    texts = [path.read_text(encoding="utf-8") for path in fill.TEXTS]
    for text in texts:
        assert fill.filled(text) == text
    assert len(fill.MARKED.findall(TEXT)) > 20
    assert set(fill.TABLES) == {match["name"] for text in texts for match in fill.TABLE.finditer(text)}


def test_a_number_that_was_changed_by_hand_is_seen(fill):
    marked = next(match for match in fill.MARKED.finditer(TEXT) if match["value"].startswith("0."))
    changed = TEXT[: marked.start()] + "0.123" + TEXT[marked.end("value") :]
    assert fill.filled(changed) != changed


def test_no_other_number_of_the_text_is_a_result(fill):
    """Lengths, sample sizes and the like are; a decimal that stands alone must be a setting or the paper's."""
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", fill.TABLE.sub("", TEXT), flags=re.DOTALL)
    prose = fill.MARKED.sub("", prose)
    settings = {"0.9", "1.25", "1.5", "0.985"}
    paper = set(re.findall(r"\d+\.\d+", (ROOT / "reports" / "published" / "longrope2.toml").read_text()))
    alone = set(re.findall(r"\d+\.\d+", prose)) - settings
    assert alone <= paper, alone - paper


@pytest.mark.parametrize("run", RUNS)
def test_no_search_and_no_training_has_the_seed_that_is_measured_with(run):
    seed = read_toml(PRESETS / f"{run}.toml")["seed"]
    seeds = {table["seed"] for kind in ("search", "train") for table in learning(kind).values()}
    seeds |= {source["seed"] for table in learning("train").values() for source in table["data"]["source"]}
    assert seeds
    assert seed not in seeds


def test_no_search_and_no_training_reads_essays_or_topics_that_are_measured_on():
    for name, table in learning("search").items():
        assert set(table["objective"]["haystacks"]) <= {"docs", "noise", "book"}, name  # docs: other topics, see tasks
    for name, table in learning("train").items():
        assert {source["name"] for source in table["data"]["source"]} == {"tiny-llama"}, name
        assert not any("texts" in source for source in table["data"]["source"]), name
    suites = [suite for run in RUNS for suite in read_toml(PRESETS / f"{run}.toml")["suite"]]
    assert not any("book" in task for suite in suites for task in suite["tasks"])


def test_all_checkpoints_were_trained_on_the_same_tokens():
    tables = learning("train")
    assert len(tables) == 7
    first = tables["study-tiny"]
    for table in tables.values():
        assert table["data"] == first["data"]
        assert table["seed"] == first["seed"]
        assert set(table["training"]) - {"short_rope"} <= set(first["training"])


def test_the_committed_results_are_of_the_presets():
    for run, file in RUNS.items():
        table, data = read_toml(PRESETS / f"{run}.toml"), json.loads((STUDY / f"{file}.json").read_text())
        methods = {method.get("label", method["name"]) for method in table["method"]}
        assert {row["method"] for row in data["scores"]} == methods
        suites = {suite.get("label", suite["name"]) for suite in table["suite"]}
        assert {row["suite"] for row in data["scores"]} == suites
        assert all(row["n_ok"] == row["n_expected"] for row in data["scores"])
