"""What a reader of the report gets: one file, well formed, the same each time, whatever a model wrote."""

import base64
import dataclasses
import hashlib
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from harness.types import Record
from reports.files import write_figures
from reports.html import render
from reports.model_view import model_view
from reports.samples import MOST_SAMPLES, sample_rows
from reports.selection import MOST_METHODS, shown_methods
from reports.tables import analyse
from tests.reports import hostile
from tests.reports.large import large
from tests.reports.outline import outline
from tests.reports.synthetic import entry, failed, ok, rich, run_data

GOLDEN = Path(__file__).with_name("golden_outline.txt")

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7*7 }}\u202eevil\x00\x1b[31m\ud800"
VOID = {"meta", "br", "img", "link", "hr", "wbr", "input"}


class Page(HTMLParser):
    """Checks nesting while it reads, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.tables, self.text = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append({"caption": False, "headers": []})
        if tag == "caption":
            self.tables[-1]["caption"] = True
        if tag == "th":
            self.tables[-1]["headers"].append(dict(attrs).get("scope"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report() -> str:
    return render(rich())


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report)


@pytest.mark.parametrize(("lengths", "said"), [((256,), ", 256 tokens;"), ((256, 1024), ", 256 to 1024 tokens;")])
def test_the_first_line_says_the_lengths(lengths, said):
    cells = [entry("vanilla", "needle", "keys1", n, 1) for n in lengths]
    assert said in Page(render(run_data(cells, lambda cell, i: ok(cell, i, 1.0)))).text


def test_tags_are_balanced(page):
    assert page.open == []


def test_every_table_has_a_caption_and_scopes(page):
    assert len(page.tables) > 10
    for table in page.tables:
        assert table["caption"]
        assert table["headers"]
        assert set(table["headers"]) <= {"col", "row", "colgroup"}


def test_nothing_is_fetched(report, page):
    assert set(re.findall(r"https?://[^\"]*", report)) <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "@import" not in report
    assert not [tag for tag, _ in page.tags if tag in {"link", "iframe", "object", "img", "form"}]
    for _, attributes in page.tags:
        assert attributes.get("src", "#").startswith("#")
        assert attributes.get("href", "#").startswith(("#", "data:"))


def test_exactly_one_script_runs_and_the_policy_names_it(report, page):
    scripts = re.findall(r"<script>(.*?)</script>", report, re.DOTALL)
    assert len(scripts) == len([tag for tag, _ in page.tags if tag == "script"]) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not [a for _, a in page.tags for name in a if name.startswith("on")]


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")]
    clips = [m for _, a in page.tags for value in a.values() for m in re.findall(r"url\(#([^)]+)\)", value or "")]
    assert targets
    assert clips
    assert set(targets + clips) <= set(ids)


def test_the_same_records_give_the_same_bytes(report):
    assert render(rich()).encode() == report.encode()
    assert len(report.encode()) < 2_000_000


def test_the_users_matplotlib_settings_move_nothing():
    cells = [entry("vanilla", "needle", "keys1", n, 3) for n in (256, 1024)]
    run = run_data(cells, lambda cell, i: ok(cell, i, 1.0, metadata={"depth_fraction": 0.5}))
    report, before = render(run), dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert render(run) == report
    assert dict(matplotlib.rcParams) == before


def test_the_numbers_and_their_definitions_are_there(page):
    text = " ".join(page.text.split())
    assert "[1024, 1024]" in text
    assert "retained: the whole interval is at or above the margin 0.985" in text
    assert "74 of 80" in text
    assert "This run is not complete" in text
    assert "2.13.0" in text
    assert "undecided" in text


def test_failures_show_counts_and_the_first_error(report):
    section = report[report.index('id="failures"') :]
    assert "ValueError: &lt;script&gt;alert(1)&lt;/script&gt;" in section
    assert "out of memory" in section


def test_hostile_text_is_only_text():
    cells = [
        entry(method, "needle", "keys1", n, 2, model=HOSTILE) for method in ("vanilla", HOSTILE) for n in (256, 1024)
    ]

    def answer(cell, index):
        if index:
            return failed(cell, index, "error", HOSTILE * 100)
        record = ok(cell, index, 1.0, metadata={"depth_fraction": 0.5}, output=HOSTILE)
        return record if cell["seq_len"] == 256 else failed(cell, index, "error", "$\\frac{1}{")

    run = run_data(cells, answer, title=HOSTILE, environment={HOSTILE: HOSTILE, "list": [HOSTILE]})
    report = render(run)
    report.encode()  # no lone surrogate is left
    page = Page(report)
    assert page.open == []
    assert [tag for tag, _ in page.tags if tag in {"script", "img"}] == ["script"]
    assert not [a for _, a in page.tags if "onerror" in a]
    assert "{{ 7*7 }}" in page.text
    assert not set(report) & {"\x00", "\x1b", "\u202e"}
    assert len(report) < 200_000  # the error text is cut


@pytest.mark.parametrize(
    "name", ["$x_1$", "_hidden", "$\\frac{", "a" * 300, "日本語 \N{GRINNING FACE}", "#1a1d21", "50% & <b>"]
)
def test_a_method_may_have_any_name(name):
    cells = [entry(method, "needle", "keys1", n, 3) for method in ("vanilla", name) for n in (256, 1024)]
    report = render(run_data(cells, lambda cell, i: ok(cell, i, 1.0, metadata={"depth_fraction": i / 2})))
    figure = re.search(r"<svg.*?</svg>", report, re.DOTALL)[0]
    assert Page(figure).text.count("vanilla") == 1
    assert name[:25].lstrip("\u200b") in Page(figure).text


@pytest.mark.parametrize("field", ["output", "answers", "excerpt", "error", "example_id"])
def test_ten_megabytes_in_a_record_do_not_reach_the_page(field):
    cells = [entry(m, "needle", "keys1", 256, 2) for m in ("vanilla", "yarn")]
    values = {
        "answers": (hostile.LONG, hostile.TEXT),
        "excerpt": dict.fromkeys(("head", "needle", "tail"), hostile.LONG),
    }

    def answer(cell, index):
        if field == "error":
            return failed(cell, index, "error", hostile.LONG)
        changes = {field: values.get(field, hostile.LONG)}
        record = ok(cell, index, float(index), metadata={"depth_fraction": 0.5})
        return dataclasses.replace(record, **changes) if field != "example_id" or index else record

    report = render(run_data(cells, answer))
    page = Page(report)
    assert page.open == []
    assert [tag for tag, _ in page.tags if tag in {"script", "img"}] == ["script"]
    assert not set(report) & hostile.FORBIDDEN
    assert len(report.encode()) < 200_000


def test_samples_show_prompt_needle_answer_and_score(report, page):
    section = report[report.index('id="m0-samples"') : report.index('id="failures"')]
    assert "calm-otter is: <mark>4301297</mark>. The sun" in section
    assert "yarn, needle/keys1 at 2048: score 0 %" in section
    assert "240 prompt and 9 new tokens" in section
    assert section.count('<details class="sample"') <= MOST_SAMPLES


def test_wrong_answers_come_first_when_there_are_too_many():
    cells = [entry(f"m{i:03d}", "needle", "keys1", 256, 2) for i in range(MOST_SAMPLES)]
    analysis = analyse(run_data(cells, lambda cell, i: ok(cell, i, float(i)), report={"base": "m000"}))
    rows = sample_rows("tiny", analysis, methods=list(analysis.manifest["methods"]))
    assert {row["score"] for row in rows} == {0.0}
    assert len(rows) == MOST_SAMPLES


def test_the_verdict_says_who_reaches_how_far_and_what_was_lost(report):
    verdict = " ".join(Page(report[report.index('<dl class="verdict"') : report.index("<nav")]).text.split())
    assert "Reach in needleyarn to 1024, 2 times the window; vanilla: 512" in verdict
    assert "1 retained, 1 undecided, 1 lost of 3 methods; least: position_interpolation" in verdict
    assert "74 of 80 cells, 2512 of 2688 samples answered; out of memory: 80" in verdict


def test_differences_are_adjusted_for_every_method_of_the_run():
    names = [f"m{i}" for i in range(20)]
    cells = [entry(m, "needle", "keys1", 256, 40) for m in names]
    run = run_data(cells, lambda cell, i: ok(cell, i, float(cell["method"] != "m0" or i < 30)), report={"base": "m0"})
    view = model_view("tiny", analyse(run))
    rows = view["differences"]["rows"]
    assert len(view["methods"]) == MOST_METHODS
    assert view["hidden"]
    assert len(rows) == MOST_METHODS - 1
    assert rows[0]["gained"] == 10
    assert rows[0]["p_value"] == pytest.approx(2 * 0.5**10, rel=1e-5)
    assert rows[0]["p_holm"] == pytest.approx(19 * 2 * 0.5**10, rel=1e-5)


def test_the_base_is_shown_whatever_its_score():
    cells = [entry(f"m{i}", "needle", "keys1", 256, 2) for i in range(MOST_METHODS + 5)]
    run = run_data(cells, lambda cell, i: ok(cell, i, float(cell["method"] != "m3")), report={"base": "m3"})
    assert "m3" in shown_methods("tiny", analyse(run))


def test_a_cell_can_be_linked_to(report):
    run = rich()
    ids = {a["id"] for _, a in Page(report).tags if "id" in a}
    keys = [cell["key"][:8] for cell in run.manifest["cells"] if cell["suite"] == "needle"]
    assert {f"cell={key}" for key in keys} <= ids


def test_the_report_matches_its_golden_outline(report):
    """What the page says apart from drawn and drawn-by-chance numbers: headings, tables, rows, verdicts."""
    assert outline(report) == GOLDEN.read_text(encoding="utf-8")


def test_a_large_run_is_capped_and_says_so():
    run = large(n_methods=40, n_lengths=2, n_tasks=18, n_samples=2)
    began = time.process_time()
    report = render(run)
    assert time.process_time() - began < 20  # of about 3; `benchmarks/large_report.py` measures the full size
    text = " ".join(Page(report).text.split())
    assert "The sections below show 12 of 40 methods: vanilla and the best others by mean score" in text
    assert report.count('id="m0-method-') == 40
    assert report.count('<th scope="row" id="m0-group0-') == MOST_METHODS
    assert len(report.encode()) < 1_000_000


def test_figures_and_tables_as_files(tmp_path):
    cells = [entry(m, "needle", t, n, 3) for m in ("vanilla", "yarn") for t in ("keys1", "keys4") for n in (256, 1024)]
    run = run_data(cells, lambda cell, i: ok(cell, i, 1.0, metadata={"depth_fraction": i / 2}))
    written = write_figures(run, tmp_path / "one")
    again = write_figures(run, tmp_path / "two")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]
    names = {path.name for path in written}
    assert {"m0-group0-figure.svg", "m0-group0-figure.pdf", "m0-methods.csv", "m0-depths0-0.pdf"} <= names
    for path in written:
        if path.suffix == ".svg":
            assert ElementTree.fromstring(path.read_text()).tag == "{http://www.w3.org/2000/svg}svg"
            assert "var(" not in path.read_text()
        if path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF-")


def test_a_run_without_any_record_is_a_report_too():
    cells = [
        entry(m, s, t, n, 3)
        for m in ("vanilla", "yarn")
        for s, t in (("needle", "keys1"), ("perplexity", "docs"))
        for n in (256, 1024)
    ]
    page = Page(render(run_data(cells, lambda *_: None)))
    assert "0 of 24" in page.text
    assert "the base method has no score" in page.text


def test_a_run_without_its_base_method_is_a_report_too():
    cells = [entry("yarn", "needle", "keys1", 256, 3)]
    page = Page(render(run_data(cells, lambda cell, i: ok(cell, i, 1.0))))
    assert "The threshold is unknown" in page.text


def test_a_complete_run_has_no_failures():
    cells = [entry("vanilla", "needle", "keys1", 256, 3)]
    page = Page(render(run_data(cells, lambda cell, i: ok(cell, i, 1.0))))
    assert "every planned sample was answered" in page.text
    assert "not complete" not in page.text


def test_several_models_have_sections_of_their_own():
    cells = [entry(m, "needle", "keys1", 256, 3, model=model) for model in ("one", "two") for m in ("vanilla", "yarn")]
    report = render(run_data(cells, lambda cell, i: ok(cell, i, 1.0, metadata={"depth_fraction": 0.5})))
    ids = [a["id"] for _, a in Page(report).tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert "two: scores by length" in Page(report).text


def test_an_error_record_without_text_is_shown():
    cells = [entry("vanilla", "needle", "keys1", 256, 1)]
    run = run_data(cells, lambda cell, i: Record(cell_key=cell["key"], example_id="0", status="timeout"))
    assert "Timed out" in Page(render(run)).text
