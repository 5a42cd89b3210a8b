"""What a reader of the report gets: one file, well formed, the same each time, whatever a model wrote."""

import re
from html.parser import HTMLParser

import matplotlib
import pytest

from harness.types import Record
from reports.html import render, write_report
from tests.reports.synthetic import entry, failed, ok, rich, run_data

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


def test_tags_are_balanced(page):
    assert page.open == []


def test_every_table_has_a_caption_and_scopes(page):
    assert len(page.tables) > 10
    for table in page.tables:
        assert table["caption"]
        assert table["headers"]
        assert set(table["headers"]) <= {"col", "row", "colgroup"}


def test_nothing_is_fetched(report, page):
    assert "http://" not in report
    assert "https://" not in report
    assert "@import" not in report
    assert not [tag for tag, _ in page.tags if tag in {"script", "link", "iframe", "object", "img"}]
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"][1:] for _, attributes in page.tags if "href" in attributes]
    clips = [m for _, a in page.tags for value in a.values() for m in re.findall(r"url\(#([^)]+)\)", value or "")]
    assert targets
    assert clips
    assert set(targets + clips) <= set(ids)


def test_the_same_records_give_the_same_bytes(report, tmp_path):
    write_report(rich(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == report.encode()
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
    assert not [tag for tag, _ in page.tags if tag in {"script", "img"}]
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
    assert name[:40].lstrip("\u200b") in Page(figure).text


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
