"""The papers' own numbers: what follows from them, checked against what the papers say of themselves."""

import re

import pytest

from harness.errors import RequestError
from harness.types import RunData
from reports import published
from reports.beside import beside
from reports.files import write_published
from reports.html import render
from reports.published_page import published_figures, published_text, render_published
from reports.tables import analyse
from tests.reports.synthetic import entry, ok, run_data
from tests.reports.test_html import Page

PAPER = published.load("longrope2")
LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)


def row(rows, **fields):
    (found,) = [r for r in rows if all(r[name] == value for name, value in fields.items())]
    return found


@pytest.mark.parametrize(
    ("table", "method", "retention", "rounded"),
    [
        ("short-phi3", "LongRoPE2", 0.97588, 0.97627),  # the paper: 97.6 %
        ("short-llama3", "LongRoPE2", 0.98450, 0.98584),  # the paper: 98.6 %, "over 98.5 %"
        ("short-phi3", "YaRN", 0.85060, 0.84810),
        ("short-phi3", "NTK", 0.90673, 0.90665),
        ("short-llama3", "Meta LLaMA3.1-8B", 1.01245, 1.01239),
    ],
)
def test_retention(table, method, retention, rounded):
    found = row(published.summary("longrope2")["retention"], table=table, row=method)
    assert found["retention"] == pytest.approx(retention, abs=6e-6)
    assert found["from_rounded_averages"] == pytest.approx(rounded, abs=6e-6)


@pytest.mark.parametrize(
    ("table", "method", "reached", "passes_by"),
    [
        ("ruler-llama3", "LongRoPE2", 65536, 0.02),
        ("ruler-llama3", "NTK", 32768, 1.73),
        ("ruler-llama3", "LongRoPE", 32768, 1.00),
        ("ruler-llama3", "YaRN", 8192, 2.27),
        ("ruler-phi3", "LongRoPE2", 8192, 1.62),
        ("ruler-phi3", "YaRN", 4096, 0.14),
        ("ablation-6-llama3", "plain PPL", 32768, 4.68),
    ],
)
def test_effective_length_by_rulers_rule(table, method, reached, passes_by):
    found = row(published.summary("longrope2")["effective_length"], table=table, row=method)
    assert (found["effective_length"], found["passes_by"]) == (reached, pytest.approx(passes_by))


def test_longrope2_misses_128k():
    found = row(published.summary("longrope2")["effective_length"], table="ruler-llama3", row="LongRoPE2")
    assert found["misses_by"] == pytest.approx(3.57)


def test_a_score_equal_to_the_threshold_is_not_above_it():
    table = published.PublishedTable(id="t", place="", caption="", columns=(4096,), rows={"a": [85.6], "b": [85.61]})
    found = published.effective_lengths(PAPER, table)
    assert [r["effective_length"] for r in found] == [None, 4096]


def test_every_slip_of_the_paper_is_found_and_nothing_else():
    found = {(s["table"], s["row"], s["column"]): round(s["mean"], 2) for s in published.summary("longrope2")["slips"]}
    assert found == {
        ("real-llama3", "YaRN", "avg of six"): 53.81,  # printed 51.81
        ("short-phi3", "YaRN", "avg"): 53.8,  # printed 53.6
        ("tasks-phi3", "8192", "mean in Table 2"): 87.34,  # printed 87.22
        ("tasks-llama3", "4096", "mean in Table 2"): 94.64,  # printed 94.61
    }


def test_row_averages_of_the_tasks_reproduce_table_2():
    for model in ("phi3", "llama3"):
        tasks, means = PAPER.tables[f"tasks-{model}"], PAPER.tables[f"ruler-{model}"]
        assert len(tasks.columns) == 13
        for length in LENGTHS:
            mean = published.mean_of(tasks, str(length), tasks.columns)
            assert mean == pytest.approx(means.number("LongRoPE2", length), abs=0.13)


def test_rulers_readme_states_what_its_rule_gives():
    (found,) = published.summary("ruler")["effective_length"]
    assert (found["row"], found["effective_length"], found["stated"]) == ("Llama3.1-8B-Instruct", 32768, 32768)
    assert published.load("ruler").threshold == 85.6


@pytest.mark.parametrize("name", published.names())
def test_every_paper_has_a_page_and_a_text(name):
    page = Page(render_published(name))
    assert page.open == []
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")} <= set(ids)
    assert published.load(name).title in published_text(name)


def test_the_text_says_what_the_paper_rounds_away():
    text = published_text("longrope2")
    assert re.search(r"short-llama3 +LongRoPE2 +98\.45 +98\.58", text)
    assert "64k, by 0.02; the next length misses by 3.57" in text


def test_the_papers_figures_are_there():
    names = [drawing.name for drawing in published_figures("longrope2")]
    assert {"figure-ruler-llama3", "figure-tasks-phi3", "figure-ablation-llama3-8b"} <= set(names)
    assert names[-1] == "figure-factors-llama3-8b-128k"


def test_the_papers_figures_and_tables_as_files(tmp_path):
    names = {path.name for path in write_published("ruler", tmp_path)}
    assert names == {
        "figure-readme.svg",
        "figure-readme.pdf",
        *(f"published-readme.{end}" for end in ("csv", "json", "tex")),
    }


def test_an_unknown_paper_is_refused_by_name():
    with pytest.raises(RequestError, match="'longrop2': did you mean 'longrope2'"):
        published.find("longrop2")


def test_a_row_with_a_missing_value_is_refused():
    with pytest.raises(ValueError, match="row 'a': 1 of 2 values"):
        published.PublishedTable(id="t", place="", caption="", columns=(1, 2), rows={"a": [1.0]})


def ruler_run(*, model="llama3-8b", name="ruler-nvidia", n=100, tasks=13) -> RunData:
    metrics = {f"t{i}": {"name": "m", "kind": "binary", "chance": 0.0} for i in range(tasks)}
    cells = [
        entry(method, "ruler", task, length, n, model=model)
        for method in ("vanilla", "yarn", "longrope2")
        for task in metrics
        for length in LENGTHS[:2]
    ]
    report = {"published": "longrope2", "threshold": "ruler"}
    run = run_data(cells, lambda cell, i: ok(cell, i, float(i < 0.9 * n)), report=report, metrics={"ruler": metrics})
    return RunData(
        manifest=run.manifest | {"suites": {"ruler": {"name": name, "version": 1, "params": {}}}}, records=run.records
    )


def test_ours_stands_beside_theirs_with_the_difference():
    found = beside(analyse(ruler_run()), "longrope2")
    (part,) = [part for part in found["tables"] if part["table"].id == "ruler-llama3"]
    ours = row(part["rows"], row="LongRoPE2", column=8192)
    assert ours["theirs"] == 93.68
    assert ours["ours"] == pytest.approx(90.0)
    assert ours["difference"] == pytest.approx(-3.68)
    assert part["why"] == ["Model: llama3-8b on both sides by name; what was trained further is in the notes."]


def test_what_differs_is_said():
    found = beside(analyse(ruler_run(model="tiny-llama", name="ruler-fixed", n=20, tasks=2)), "longrope2")
    (why,) = {tuple(part["why"]) for part in found["tables"] if part["table"].id == "ruler-llama3"}
    assert why == (
        "Model: theirs is llama3-8b, this run's tiny-llama: levels cannot be compared.",
        "Variant: theirs is ruler-nvidia, this run's ruler-fixed.",
        "Samples: theirs about 100 a task and length, this run's 20.",
        "Tasks: theirs is the mean of 13, this run's of 2.",
    )


def test_the_report_prints_both():
    text = " ".join(Page(render(ruler_run(n=20, tasks=2))).text.split())
    assert "Beside the paper: LongRoPE2" in text
    assert "Table 2: RULER, mean of 13 tasks, LLaMA3-8B" in text


def test_a_run_of_other_suites_says_there_is_nothing_to_compare():
    cells = [entry("vanilla", "needle", "keys1", 256, 2)]
    run = run_data(cells, lambda cell, i: ok(cell, i, 1.0), report={"published": "longrope2"})
    assert "This run has no number that stands in a table of this paper" in Page(render(run)).text
