"""The leaderboard and the gate's page in a real browser, opened from disk."""

import pytest

from reports.compare import compare
from reports.compare_views import render_html
from reports.leaderboard import build
from tests.reports.folders import made, write_run
from tests.reports.test_browser import CONTRAST
from tests.reports.test_compare import needle


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    runs = [
        write_run(made(("vanilla", "yarn"), title="First"), folder / "first"),
        write_run(made(("vanilla",), model="other/model & co", title="Second"), folder / "second"),
    ]
    assert build(runs, folder / "out").exit_code == 0
    (folder / "out" / "gate.html").write_text(render_html(compare(needle(10), needle(35))))
    return folder / "out"


@pytest.fixture
def opened(watched, site):
    """Opens a page of the site, which asks for nothing outside the site."""

    def open_page(name, **options):
        return watched(f"file://{site}/{name}", (f"file://{site}",), **options)

    return open_page


def visible(page, selector):
    return page.eval_on_selector_all(selector, "all => all.filter(at => at.checkVisibility()).length")


def test_filters_narrow_every_table_and_stand_in_the_address(opened):
    page = opened("index.html")
    assert visible(page, "#standings tbody tr") == 3
    page.select_option("select[name=model]", "other/model & co")
    assert visible(page, "#standings tbody tr") == 1
    page.select_option("select[name=suite]", "needle")
    assert visible(page, "section[data-suite]") == 1
    page.select_option("select[name=tokens]", "512")
    assert visible(page, "section[data-suite=needle] thead th") == 4
    assert page.locator("#shown").inner_text() == "1 rows shown"
    again = opened("index.html" + page.evaluate("location.hash"))
    assert visible(again, "#standings tbody tr") == 1
    assert visible(again, "section[data-suite]") == 1
    again.select_option("select[name=model]", "")
    assert visible(again, "#standings tbody tr") == 3


def test_without_scripts_everything_is_shown(opened):
    page = opened("index.html", java_script_enabled=False)
    assert page.locator("#standings tbody tr").count() == 3
    assert not page.locator("#filters").is_visible()
    assert page.locator("section[data-suite=needle] tbody td[data-tokens]").first.is_visible()


def test_tables_can_be_sorted(opened):
    page = opened("index.html")
    page.locator("#standings thead button", has_text="Method").click()
    names = page.eval_on_selector_all("#standings tbody th", "all => all.map(at => at.innerText)")
    assert names == sorted(names)


def test_links_lead_from_the_index_to_pages_and_reports(opened):
    page = opened("index.html")
    page.click("#standings tbody tr:has-text('yarn') th a")
    assert page.locator("h1").inner_text() == "Method yarn"
    page.click("#standings tbody tr td:last-child a")
    assert page.locator("h1").inner_text() == "First"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "gate.html"])
def test_pages_fit_a_phone_and_can_be_read(opened, name, scheme):
    page = opened(name, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(CONTRAST) == []
