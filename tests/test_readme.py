"""What the README says stands in a committed summary, and names what exists."""

import json
import re
from pathlib import Path

import pytest

from harness.catalogue import names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SUMMARY = json.loads((ROOT / "docs" / "quickstart" / "summary.json").read_text(encoding="utf-8"))
DEMO = README[README.index("## What the demo finds") : README.index("## What the study finds")]
ROWS = re.findall(r"^\| `(\w+)` \| ((?:\d\.\d\d \| ){5})\[(\S+), (\S+)\] \| (.*) \|$", DEMO, re.MULTILINE)


def reached(text: str) -> int | None:
    return None if text.startswith("<") else int(text)


def test_there_is_a_row_for_every_method_of_the_summary():
    assert [row[0] for row in ROWS] == list(dict.fromkeys(score["method"] for score in SUMMARY["scores"]))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_number_of_a_row_is_the_summarys(row):
    method, scores, lower, point, retention = row
    ours = [r["score"] for r in SUMMARY["scores"] if (r["method"], r["suite"]) == (method, "needle_1_key")]
    assert [float(score) for score in scores.split(" | ") if score] == [round(score, 2) for score in ours]
    (reach,) = (r for r in SUMMARY["effective_length"] if (r["method"], r["group"]) == (method, "needle_1_key"))
    assert (reached(lower), reached(point)) == (reach["effective_length"], reach["point_rule"])
    kept = [r for r in SUMMARY["retention"] if (r["method"], r["group"]) == (method, "all")]
    if kept:
        percents = [f"{100 * kept[0][name]:.1f}" for name in ("retention", "low", "high")]
        assert retention == "{} % ({} to {}), ".format(*percents) + kept[0]["verdict"]
    else:
        assert retention == "base"


@pytest.mark.parametrize("kind", ["method", "suite"])
def test_every_catalogue_name_has_a_row(kind):
    for name in names(kind):
        assert f"`{name}`" in README, name


def test_the_tree_names_files_that_exist():
    tree = README[README.index("## The tree") :]
    for name in set(re.findall(r"\b\w+\.py\b", tree)):
        assert list(ROOT.rglob(name)), name
