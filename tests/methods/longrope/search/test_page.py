"""search.html: what a reader finds on it, in text and in a browser."""

import math
import re
import shutil
from dataclasses import replace

import pytest

from methods.longrope.search.figures import by_origin
from methods.longrope.search.page import number, render
from methods.longrope.search.result import standard_error
from tests.methods.longrope.search.outcomes import draw, facts, flat_top, judged, outcome
from tests.methods.ropes import LLAMA3
from tests.reports import hostile
from tests.reports.test_browser import CONTRAST
from tests.reports.test_html import Page

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def html() -> str:
    return render(outcome())


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_the_same_outcome_gives_the_same_bytes(html):
    assert render(outcome()) == html
    assert len(html) < 500_000


def test_it_is_one_whole_file_that_fetches_nothing(html, page):
    assert page.open == []
    assert all(table["caption"] and set(table["headers"]) <= {"col", "row"} for table in page.tables)
    for _, attributes in page.tags:
        assert attributes.get("src", "#").startswith("#")
        assert attributes.get("href", "#").startswith(("#", "data:"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")} <= set(ids)


def test_the_verdict_stands_beside_yarn_and_says_what_was_spent(page):
    finished, text = outcome(), words(page)
    best, yarn = finished.best, finished.references["yarn"]
    assert f"{best.test_loss:.3g} ± {standard_error(best.test_losses):.2g} nats an answer token" in text
    assert f"{yarn.test_loss:.3g}; found over YaRN {best.test_loss / yarn.test_loss:.2g}" in text
    assert f"{finished.spent:.4g} of 160 forward-equivalents, 8.5 min" in text
    assert "theory says 16; the first pair whose factor reaches 8 is 13" in text
    assert "0.2 against 0.6 (yarn)" in text


def test_the_difference_from_yarn_is_taken_document_by_document(page):
    """The documents are the same, so here the difference is a constant share and its error smaller than either."""
    finished = outcome()
    ours, theirs = finished.best.test_losses, finished.references["yarn"].test_losses
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    assert f"{sum(differences) / 32:.3g}± {standard_error(differences):.2g}" in words(page)


def test_figures_show_curve_candidates_and_factors(html):
    assert html.count("<svg role=") == 3
    for shown in ("yarn on test documents", "the same on test documents", "theoretical critical pair 16"):
        assert shown in html
    assert "found reaches the ratio at pair 13" in html
    assert "its searched part begins at pair 14" in html
    assert "closed_form, shorter documents" in html
    assert "above, or no finite loss" in html


def test_a_published_list_of_the_same_rope_and_target_stands_beside():
    assert "llama3-8b-128k" not in render(outcome())
    finished = outcome(
        facts=facts(rope=LLAMA3, target_length=131072, model="llama3-8b"),
        best=judged(flat_top(33, 20.0, rope=LLAMA3), 0.2, 1),
        references={"yarn": judged(flat_top(35, 16.0, rope=LLAMA3), 0.4, 1)},
        tried=(),
        curve=(),
    )
    assert "list llama3-8b-128k" in render(finished)
    shorter = replace(finished, facts=replace(finished.facts, target_length=65536))
    assert "list llama3-8b-128k" not in render(shorter)


def test_no_number_that_is_none_is_shown():
    broken = judged(flat_top(12, 400.0), math.nan, 1)
    finished = outcome(references={"yarn": broken, "pi": broken}, unpaid=math.inf)
    text = render(finished)
    shown = text[text.index("<h1>") : text.index("<script>")]
    assert not re.search(r"\b(nan|inf|NaN|Infinity)\b", shown)
    assert [number(x) for x in (math.nan, math.inf, None)] == ["–"] * 3
    assert (number(26), number(1e-9), number(47120.4), number(True), number("x")) == (
        "26",
        "1e-09",
        "47120",
        "True",
        "x",
    )


def test_other_keys_in_the_documents_of_the_search_are_said():
    said = "Those of the search hold up to 16 keys, all asked for; the others hold 4"
    objective = {"kind": "needle", "n_keys": 4, "n_asked": 4}
    for search_keys in (16, None):
        shown = render(outcome(facts=facts(objective=objective | {"search_keys": search_keys})))
        assert (said in shown) == (search_keys is not None)


def test_a_search_that_measured_nothing_is_a_page_too():
    page = Page(render(outcome(tried=(), curve=(), references={})))
    assert page.open == []
    assert "0 candidates were measured" in words(page)


def test_names_that_break_pages_are_only_text():
    name = hostile.TEXT
    candidate = replace(flat_top(14, 12.0), origin=name)
    finished = outcome(
        facts=facts(title=name, model=name, algorithm=name, settings={name: name}),
        references={name: judged(candidate, 0.3, 3), "yarn": judged(candidate, 0.4, 3)},
        tried=tuple(replace(t, candidate=replace(t.candidate, origin=name)) for t in outcome().tried),
        environment={name: name},
    )
    page = Page(render(finished))
    assert page.open == []
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == ["script"]
    assert not set(page.text) & hostile.FORBIDDEN


def test_many_origins_are_drawn_in_few_colours():
    tried = [
        replace(outcome().tried[0], candidate=replace(flat_top(14, 12.0), origin=f"o{i}({j})"))
        for i in range(9)
        for j in range(9 - i)
    ]
    groups = by_origin(tried)
    assert list(groups) == ["o0", "o1", "o2", "o3", "o4", "others"]
    assert sum(map(len, groups.values())) == len(tried)


def test_measurements_inside_the_window_are_no_candidates_loss():
    short = replace(outcome().tried[0], measure="short_loss", draw=draw(seq_len=512), loss=5.0)
    assert "Loss of 64 measurements" in render(outcome(tried=(*outcome().tried, short)))


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_it_is_quiet_readable_and_fits_a_phone(html, scheme, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    file, said = tmp_path / "search.html", []
    file.write_text(html, encoding="utf-8")
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme, viewport={"width": 360, "height": 740})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"file://{file}")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.evaluate(CONTRAST) == []
        page.locator("#losses ~ div thead button", has_text="Held-out").click()
        rows = page.eval_on_selector_all("#losses ~ div tbody tr", "rows => rows.map(r => r.cells[0].innerText)")
        assert rows == ["found", "yarn", "ntk", "pi"]
        browser.close()
    assert said == []
