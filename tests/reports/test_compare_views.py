"""What a reader, a pull request and a CI get from a comparison, whatever stands in the runs."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from harness.types import RunData
from reports import compare_views as views
from reports.compare import RULES, compare
from tests.reports import hostile
from tests.reports.synthetic import entry, failed, ok, rich, run_data
from tests.reports.test_compare import CHANGES, changed, likelihood, needle
from tests.reports.test_html import Page


@pytest.fixture(scope="module")
def regressed():
    places = {("keys1", 256): 10, ("keys1", 512): 10, ("keys1", 1024): 10}
    base = needle(places, lengths=(256, 512, 1024))
    return compare(base, needle(places | {("keys1", 512): 60, ("keys1", 1024): 15}, lengths=(256, 512, 1024)))


@pytest.fixture(scope="module")
def refused():
    return compare(needle(0), changed(needle(0), CHANGES["dtype"]))


def nasty():
    """Runs in which every text is hostile."""

    def run(right):
        cells = [entry(hostile.TEXT + m, "needle", "keys1", n, 8, model=hostile.TEXT) for m in "ab" for n in (256, 512)]
        made = run_data(
            cells,
            lambda cell, i: ok(cell, i, right, output=hostile.LONG) if i else failed(cell, i, "error", hostile.LONG),
            title=hostile.LONG,
            preset=hostile.TEXT,
            environment={hostile.TEXT: hostile.TEXT + str(right), "git_revision": hostile.TEXT},
        )
        text = json.dumps({"suites": made.manifest["suites"], "metrics": made.manifest["metrics"], "cells": cells})
        renamed = json.loads(
            text.replace('"needle"', json.dumps(hostile.TEXT)).replace('"keys1"', json.dumps("t" + hostile.TEXT))
        )
        return RunData(manifest={**made.manifest, **renamed}, records=made.records)

    return run(1.0), run(0.0)


def test_the_text_leads_with_the_outcome_and_the_worst(regressed):
    lines = views.render_text(regressed).splitlines()
    assert lines[0] == "regressed: 1 regressed, 1 inconclusive, 1 untouched of 3 cells; margin 2 %"
    rows = [line for line in lines if "tiny/yarn/needle" in line]
    assert [line.split()[0] for line in rows] == ["regressed", "inconclusive", "regressed"]
    assert "-10.0" in rows[0]
    assert "tiny/yarn/needle (3 cells)" in rows[2]
    assert "50 lost and 0 gained of 500 pairs" in views.render_text(regressed)
    assert re.search(r"about \d+ samples would decide", views.render_text(regressed))


def test_a_pass_is_short():
    text = views.render_text(compare(rich(), rich()))
    assert re.match(r"pass: (\d+) untouched of \1 cells; margin 2 %", text)
    assert len(text.splitlines()) < 40


def test_likelihoods_read_as_perplexity():
    text = views.render_text(compare(likelihood(lambda i: 600 + i), likelihood(lambda i: 620 + i)))
    assert "-9.5 %" in text
    assert "perplexity 20.44 to 22.59" in text


def test_a_refusal_names_what_differs(refused):
    text = views.render_text(refused)
    assert text.startswith("not comparable: the runs differ in dtype; --allow-mismatch KIND")
    assert "differs: dtype is float32 in base, bfloat16 in new" in text
    assert (
        "dtype is float32 in base" in views.render_html(refused) or "bfloat16" in Page(views.render_html(refused)).text
    )
    root = ElementTree.fromstring(views.render_junit(refused))
    assert root.find("testsuite").get("errors") == "1"
    none = views.render_text(compare(needle(0), needle(0, tasks=("keys4",))))
    assert none.startswith("not comparable: the runs have no answered cell in common")


def test_junit_fails_where_the_gate_fails(regressed):
    root = ElementTree.fromstring(views.render_junit(regressed))
    (suite,) = root.findall("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "2", "0")
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases == {"keys1/256": [], "keys1/512": ["failure"], "keys1/1024": ["skipped"], "all cells": ["failure"]}
    blocked = ElementTree.fromstring(views.render_junit(compare(needle(0, n=20), needle(2, n=20))))
    assert [child.tag for child in blocked.iter("testcase") for child in child] == ["error", "error"]


def test_the_json_holds_everything(regressed):
    found = json.loads(json.dumps(views.as_json(regressed), allow_nan=False))
    assert (found["outcome"], found["exit_code"], found["margin"]) == ("regressed", 1, 0.02)
    assert [row["verdict"] for row in found["cells"]] == ["untouched", "regressed", "inconclusive"]
    assert found["cells"][1]["change"] == -0.1
    assert found["rules"] == RULES
    assert found["counts"] == {"regressed": 1, "inconclusive": 1, "improved": 0, "untouched": 1}


def test_the_page_is_whole_and_tells_the_rules(regressed):
    html = views.render_html(regressed)
    page = Page(html)
    assert page.open == []
    assert all(table["caption"] and table["headers"] for table in page.tables)
    assert all(text in " ".join(page.text.split()) for text in RULES.values())
    assert "https://" not in html
    assert html == views.render_html(regressed)


def test_hostile_text_breaks_no_format():
    base, new = nasty()
    found = compare(base, new)
    assert found.outcome == "regressed"
    shown = {
        "html": views.render_html(found),
        "text": views.render_text(found),
        "markdown": views.render_markdown(found),
        "junit": views.render_junit(found),
    }
    for text in shown.values():
        text.encode()
        assert not set(text) & hostile.FORBIDDEN
        assert len(text) < 200_000
    page = Page(shown["html"])
    assert page.open == []
    assert [tag for tag, _ in page.tags].count("script") == 1  # ours
    assert not [tag for tag, attributes in page.tags if tag == "img" or "onerror" in attributes]
    assert "{{ 7*7 }}" in page.text
    ElementTree.fromstring(shown["junit"])
    json.dumps(views.as_json(found), allow_nan=False).encode()


def test_markdown_keeps_its_table_and_mentions_nobody():
    text = views.render_markdown(compare(*nasty()))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) >= 4
    assert {line.count("|") for line in rows} == {6}
    for live in ("<script", "<img", "@someone", " #1", "](", "https://", "`", "&amp;"):
        assert live not in text
    assert not [line for line in text.splitlines() if line.startswith("# ")]


def test_a_comment_fits_into_a_pull_request():
    places = {(f"t{i}", n): 0 for i in range(40) for n in (256, 512)}
    tasks, lengths = tuple(f"t{i}" for i in range(40)), (256, 512)

    def run(wrong):
        cells = [entry("m" * 200, "needle", task, n, 30) for task in tasks for n in lengths]
        made = run_data(cells, lambda cell, i: ok(cell, i, float(i >= wrong), output=str(i >= wrong)))
        metrics = {
            **made.manifest["metrics"],
            "needle": {t: {"name": "e", "kind": "binary", "chance": 0.0} for t in tasks},
        }
        return RunData(manifest={**made.manifest, "metrics": metrics}, records=made.records)

    assert len(places) == 80
    text = views.render_markdown(compare(run(0), run(20)))
    assert len(text) < 65_536
    assert "and 41 more" in text
